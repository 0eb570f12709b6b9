"""Automatic choices and their reasons; values that cannot work."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from fanlight.config import Config, keys
from fanlight.data import manifest as manifests
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError
from fanlight.train import checks, devices, optim, prepare, resolve
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

OPEN_BY_DESIGN = {  # None means none of it, not to be decided
    "data.folds", "data.limit", "data.group_by", "data.audit",  # and the order of the data, until there is a pack to measure
    "data.order", "model.weights", "execution.pack_dir", "execution.checkpoint_steps", "optim.clip_norm",
    "optim.class_weights", "train.ema", "train.patience",
    "train.time_limit_s", "execution.autotune",
    "execution.pipeline_schedule", "execution.stages_per_rank", "execution.split_at", "execution.bucket_mb",  # of pipelines
    "train.compress_gradients", "train.sync_every", "optim.outer_lr", "optim.outer_momentum",  # of ranks that train apart
    "execution.backend",  # of networks from scratch
    "caption.min_count", "caption.longest", "caption.per_image", "caption.window",  # of images with captions
    "data.image_px_start", "execution.cache_features", "optim.unfrozen_lr_scale",  # of networks that are frozen
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "gpus_visible", lambda: 0)


def manifest(
    count: int = 400, *, px: int = 300, classes: tuple[str, ...] = ("cat", "dog"), train: float = 0.8,
    weights: list[str] | None = None, captions: str = "",
) -> Manifest:  # fmt: skip
    names = [classes[row % len(classes)] for row in range(count)]
    texts = [f"{row:05d}" for row in range(count)]
    split = ["train" if row < train * count else "val" for row in range(count)]
    columns = {
        "path": texts, "label": names, "split": split, "group": texts, "weight": weights or [""] * count,
        "copies": [""] * count, "film": [""] * count, "captions": [captions] * count,
        "width": np.full(count, px + 40),
        "height": np.full(count, px), "format": ["png"] * count, "bytes": np.ones(count), "mtime_ns": np.ones(count),
        "sha256": texts, "status": ["ok"] * count, "reason": [""] * count, "decoded": np.ones(count, bool),
    }  # fmt: skip
    return Manifest.of(manifests.table_of(columns), root=tiny.Path("/nowhere"), source="test")


def choose(values: dict[str, object] | None = None, **about) -> resolve.Choices:
    return decide(Config().with_values({"train.precision": "fp32", **(values or {})}), **about)


def decide(config: Config, **about) -> resolve.Choices:
    checks.check(config)
    choices = resolve.Choices(config)
    described = manifest(**about)
    resolve.order(choices, None)
    resolve.sizes(choices, described)
    resolve.whole(choices, described)
    return choices


def values(config: Config) -> dict[str, object]:
    pairs = [(key, *key.split(".")) for key in keys()]
    return {key: getattr(getattr(config, section), name) for key, section, name in pairs}


def test_everything_is_decided_and_has_a_reason():
    choices = choose()
    decided = values(choices.config)
    assert {key for key, value in decided.items() if value is None} <= OPEN_BY_DESIGN
    asked = values(Config().with_value("train.precision", "fp32"))
    assert {key for key in decided if decided[key] != asked[key]} == choices.reasons.keys()
    assert all(len(reason) > 5 for reason in choices.reasons.values())


def test_what_was_asked_is_kept():
    asked = {
        "data.image_px": 48, "data.canvas_px": 50, "model.name": "lenet5", "augment.flip": False, "optim.lr": 0.5,
        "optim.weight_decay": 0.0, "train.epochs": 3, "train.batch_size": 7, "train.evaluate_every": 2,
        "execution.ranks": 3, "execution.threads": 5, "execution.workers": 4, "execution.channels_last": False,
        "execution.pack": False, "data.order": "blocks", "augment.eval_share": 0.5, "augment.crop_share": "0.5, 0.9",
    }  # fmt: skip
    choices = choose(asked)
    decided = values(choices.config)
    assert {key: decided[key] for key in asked} == asked | {"augment.crop_share": (0.5, 0.9)}
    assert not choices.reasons.keys() & asked.keys()


def test_photos_and_small_images():
    photos, small = choose().config, choose(px=28).config
    assert photos.data.image_px >= 96 and photos.model.name == "resnet18"
    assert photos.augment.crop_share == resolve.PHOTO_CROP and photos.augment.eval_share < 1
    assert (small.data.image_px, small.model.name, small.augment.eval_share) == (32, "small-cnn", 1.0)
    assert choose(px=5).config.data.image_px == 16


def test_mirrors():
    assert choose().config.augment.flip is True
    assert choose(classes=("0", "1", "10")).config.augment.flip is False
    assert choose(classes=("0", "nine")).config.augment.flip is True
    sided = choose(classes=("turn_left", "other"))
    assert sided.config.augment.flip is False and "turn_left" in sided.reasons["augment.flip"]
    assert choose(classes=("leftovers", "brighter")).config.augment.flip is True


def test_length_follows_the_number_of_images():
    few, some, many = (choose(count=count).config.train for count in (40, 3000, 60_000))
    assert few.batch_size == 8  # a quarter of the 32 to train on, so that an epoch has steps
    assert few.batch_size < some.batch_size < many.batch_size
    assert few.epochs == resolve.EPOCHS_MAX and many.epochs == resolve.EPOCHS_MIN
    assert some.epochs == round(resolve.PHOTOS_WORTH / 2400)
    assert choose(count=10_000, px=28).config.train.epochs == round(resolve.SMALL_WORTH / 8000)
    assert choose({"train.epochs": 100}).config.train.evaluate_every == 5
    assert choose({"train.epochs": 20}).config.train.evaluate_every == 1


SGD = ("optim.name", "sgd")


def test_learning_rates():
    """The square root of the batch; a fifth and a tenth for weights that are good already; not where only a new last
    layer learns."""
    lr = {name: choose({"train.batch_size": 32} | dict(pairs)).config.optim.lr for name, pairs in {
        "sgd": [SGD], "sgd 4x": [SGD, ("train.batch_size", 128)], "tuned": [SGD, ("model.pretrained", True)],
        "head": [SGD, ("model.pretrained", True), ("model.freeze", True)], "adamw": [("optim.name", "adamw")],
        "adamw tuned": [("optim.name", "adamw"), ("model.weights", "w.pt")],
    }.items()}  # fmt: skip
    assert lr["sgd 4x"] == pytest.approx(2 * lr["sgd"])
    assert lr["tuned"] == pytest.approx(lr["sgd"] / 5)
    assert lr["head"] == lr["sgd"]
    assert lr["adamw tuned"] == pytest.approx(lr["adamw"] / 10, rel=0.01)  # three digits are kept


@pytest.mark.parametrize("layout", ["local-sgd", "diloco"])
def test_ranks_that_train_apart_take_a_rate_of_their_own(layout):
    """Of AdamW, whose steps are as long as a rank's own gradients are free of noise; SGD's mean step is the batch's."""
    apart = {"execution.layout": layout, "execution.ranks": 4, "train.batch_size": 32}
    together = apart | {"execution.layout": "ddp"}
    adamw = [choose(given | {"optim.name": "adamw"}) for given in (apart, together)]
    assert adamw[0].config.optim.lr == pytest.approx(2 * adamw[1].config.optim.lr, rel=0.01)
    assert "times √4, as each of 4 ranks" in adamw[0].reasons["optim.lr"]
    assert choose(apart | dict([SGD])).config.optim.lr == choose(together | dict([SGD])).config.optim.lr
    assert choose(apart | {"optim.lr": 0.1}).config.optim.lr == 0.1


def test_layout_and_ranks_follow_from_each_other(monkeypatch):
    monkeypatch.setattr(resolve.machine, "cores_usable", lambda: 6)
    e = choose().config.execution
    assert (e.layout, e.ranks, e.threads, e.device) == ("serial", 1, 6, "cpu")
    e = choose({"execution.ranks": 3}).config.execution
    assert (e.layout, e.ranks, e.threads) == ("ddp", 3, 2)
    e = choose({"execution.layout": "ddp"}).config.execution
    assert (e.layout, e.ranks, e.threads) == ("ddp", 6, 1)
    e = choose({"execution.layout": "serial"}).config.execution
    assert (e.layout, e.ranks) == ("serial", 1)


def test_all_gpus_are_used_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(devices, "gpus_visible", lambda: 4)
    e = choose().config.execution
    assert (e.device, e.layout, e.ranks) == ("cuda", "ddp", 4)
    assert choose({"execution.layout": "serial"}).config.execution.ranks == 1
    assert choose({"execution.ranks": 2}).config.execution.layout == "ddp"
    assert choose({"execution.device": "cpu"}).config.execution.layout == "serial"
    with pytest.raises(
        ConfigError, match=r"execution.ranks is 5 and 4 GPU\(s\) are visible; use --ranks 4 or --device cpu"
    ):
        choose({"execution.ranks": 5})


def test_more_ranks_than_cores_is_said(monkeypatch, capsys):
    monkeypatch.setattr(resolve.machine, "cores_usable", lambda: 2)
    assert choose({"execution.ranks": 3}).config.execution.ranks == 3
    assert "Warning: 3 ranks on 2 usable cores. they take turns" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"execution.ranks is 33 on 2 usable cores; use --ranks 2"):
        choose({"execution.ranks": 33})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"train.epochs": 0}, "train.epochs is 0; it must be above 0"),
        ({"train.batch_size": -8}, "train.batch_size is -8; it must be above 0"),
        ({"train.microbatches": 0}, "train.microbatches is 0; it must be above 0"),
        ({"optim.lr": float("inf")}, "optim.lr is inf; it can be at most 1e+30"),
        ({"optim.outer_lr": 1e308}, "optim.outer_lr is 1e+308; it can be at most 1e+30"),
        ({"optim.weight_decay": 1e300}, "optim.weight_decay is 1e+300; it can be at most 10000"),
        ({"train.epochs": 10**20}, f"train.epochs is {10**20}; it can be at most 1e+09"),
        ({"train.epochs": 10**400}, f"train.epochs is {10**400}; it can be at most 1e+09"),
        ({"optim.clip_norm": float("inf")}, "optim.clip_norm is inf; it can be at most 1e+09"),
        ({"execution.stages_per_rank": 0}, "execution.stages_per_rank is 0; it must be above 0"),
        ({"execution.pipeline_schedule": ""}, "execution.pipeline_schedule is empty; name one, or leave --pipeline-schedule out"),
        ({"execution.layout": ""}, "execution.layout is empty; name one, or leave --layout out"),
        ({"data.image_px": 32, "data.image_px_start": 64},
         "data.image_px_start is 64 and data.image_px 32; sides grow, so start smaller (--image-size-start), or at "
         "the full side at once: --set data.image_px_start=none"),
        ({"optim.lr": 0}, "optim.lr is 0.0; it must be above 0"),
        ({"execution.ranks": 0}, "execution.ranks is 0; it must be above 0"),
        ({"execution.ranks": -2}, "execution.ranks is -2; it must be above 0"),
        ({"execution.workers": -1}, "execution.workers is -1; it must be above 0"),
        ({"data.limit": 0}, "data.limit is 0; it must be above 0"),
        ({"data.val_fraction": 0}, "data.val_fraction is 0.0; it must be a share above 0 and at most 0.9"),
        ({"data.val_fraction": 1}, "data.val_fraction is 1.0; it must be a share above 0 and at most 0.9"),
        ({"optim.weight_decay": -0.1}, "optim.weight_decay is -0.1; it must be 0 or more"),
        ({"optim.momentum": 1}, "optim.momentum is 1.0; it must be a share from 0 to 0.9999"),
        ({"optim.beta2": 1.5}, "optim.beta2 is 1.5; it must be a share from 0 to 0.999999"),
        ({"optim.label_smoothing": -0.1}, "optim.label_smoothing is -0.1; it must be a share from 0 to 0.999"),
        ({"optim.warmup_share": 1}, "optim.warmup_share is 1.0; it must be a share from 0 to 0.9"),
        ({"augment.eval_share": 0}, "augment.eval_share is 0.0; it must be a share above 0 and at most 1"),
        ({"augment.crop_share": "0.9 0.5"}, "augment.crop_share is (0.9, 0.5); it must be two shares, 0 < lowest ≤ highest ≤ 1"),
        ({"augment.crop_ratio": "0 1"}, "augment.crop_ratio is (0.0, 1.0); it must be two ratios, lowest first"),
        ({"augment.std": "0.2 0 0.2"}, "augment.std is (0.2, 0.0, 0.2); pixels are divided by it, so each must be above 0"),
        ({"optim.name": "adam"}, "optim.name is 'adam'; use one of sgd, adamw"),
        ({"optim.schedule": "linear"}, "optim.schedule is 'linear'; use one of cosine, onecycle, step, wsd, constant"),
        ({"execution.device": "gpu"}, "execution.device is 'gpu'; use cpu or cuda"),
        ({"execution.device": "cuda"}, "execution.device is 'cuda', and torch sees no GPU here; use --device cpu"),
        ({"data.order": "sorted"}, "data.order is 'sorted'; use random or blocks"),
        ({"train.precision": "fp64"}, "train.precision is 'fp64'; use one of fp32, bf16, fp16"),
        ({"train.precision": "fp16"},
         "train.precision is 'fp16', which CPUs do not train in; use bf16 or fp32, or --device cuda"),
        ({"augment.policy": "random"}, "augment.policy is 'random'; use one of none, trivial, rand"),
        ({"augment.engine": "gpu"}, "augment.engine is 'gpu'; use one of cpu, device"),
        ({"augment.rand_ops": 0}, "augment.rand_ops is 0; it must be 1 or more, or use --policy none"),
        ({"augment.rand_ops": 10**6}, "augment.rand_ops is 1000000; it must be at most 100, or use --policy none"),
        ({"augment.rand_magnitude": 31}, "augment.rand_magnitude is 31; it must be from 0 to 30"),
        ({"augment.jitter": "0.4 0.4 0.4 0.6"}, "augment.jitter is (0.4, 0.4, 0.4, 0.6); brightness, contrast and "
         "saturation must be from 0 to 1, hue from 0 to 0.5"),
        ({"augment.erase": 1.5}, "augment.erase is 1.5; it must be a probability, from 0 to 1"),
        ({"augment.mix_probability": -0.1}, "augment.mix_probability is -0.1; it must be a probability, from 0 to 1"),
        ({"augment.mixup": -1},
         "augment.mixup is -1.0; it must be an alpha of 0 (off) or from 0.001 to 1000, such as 0.2 or 1"),
        ({"augment.mixup": 1e-300},
         "augment.mixup is 1e-300; it must be an alpha of 0 (off) or from 0.001 to 1000, such as 0.2 or 1"),
        ({"augment.cutmix": float("inf")},
         "augment.cutmix is inf; it must be an alpha of 0 (off) or from 0.001 to 1000, such as 0.2 or 1"),
        ({"augment.off": True, "augment.mixup": 0.2},
         "augment.off (--no-augment) and augment.mixup contradict each other; leave one out"),
        ({"augment.off": True, "augment.jitter": "0.4 0 0 0"},
         "augment.off (--no-augment) and augment.jitter contradict each other; leave one out"),
        ({"train.seed": 1 << 64}, f"train.seed is {1 << 64}; it must fit in 64 bits"),
        ({"model.pretrained": True, "model.weights": "w.pt"},
         "model.pretrained and model.weights both name the weights to start from; use one of them"),
        ({"execution.layout": "serial", "execution.ranks": 2},
         "layout serial with ranks 2: serial is one process; use --layout ddp or --ranks 1"),
        ({"execution.layout": "ddp", "execution.ranks": 1},
         "layout ddp with ranks 1: ddp is two or more processes; use --ranks 2 or --layout serial"),
    ],
)  # fmt: skip
def test_values_that_cannot_work(asked, message):
    with pytest.raises(ConfigError) as raised:
        checks.check(Config().with_values(asked))
    assert str(raised.value) == message


def test_an_unknown_layout_is_refused_before_anything_is_read():
    with pytest.raises(
        ConfigError, match=r"layout 'dpp' does not exist; layouts that exist: serial, ddp.* Near names: ddp"
    ):
        checks.check(Config().with_value("execution.layout", "dpp"))


def test_names_that_are_checked_are_those_that_exist():
    for name in optim.NAMES:
        checks.check(Config().with_value("optim.name", name))


def test_a_batch_must_be_had_and_shared():
    with pytest.raises(
        ConfigError, match=r"train.batch_size is 321 and there are 320 training images; use --batch-size 320"
    ):
        choose({"train.batch_size": 321})
    assert choose({"train.batch_size": 320}).config.train.batch_size == 320
    with pytest.raises(
        ConfigError, match=r"train.batch_size 8 in 5 microbatch\(es\) over 2 ranks leaves a rank without"
    ):
        choose({"train.batch_size": 8, "train.microbatches": 5, "execution.ranks": 2})
    assert choose({"train.batch_size": 10, "train.microbatches": 5, "execution.ranks": 2}).config.execution.ranks == 2
    with pytest.raises(DataError, match="no usable training image; see `fanlight check"):
        choose(train=0)


def test_mixed_batches_are_pairs_on_every_rank():
    assert choose({"augment.mixup": 0.2}, count=85, train=1.0).config.train.batch_size == 20  # 85 // 4, less one
    assert choose({"augment.mixup": 0.2}, count=3, train=1.0).config.train.batch_size == 2
    with pytest.raises(ConfigError, match=r"train.batch_size is 13, and mixup and cutmix .* use --batch-size 12$"):
        choose({"augment.cutmix": 1, "train.batch_size": 13})
    with pytest.raises(ConfigError, match=r"is 1, and mixup and cutmix mix pairs of images; use --batch-size 2$"):
        choose({"augment.cutmix": 1, "train.batch_size": 1})
    asked = {"augment.cutmix": 1, "train.microbatches": 2, "execution.ranks": 3}
    with pytest.raises(ConfigError, match=r"leaves a rank without a pair of images .* use --batch-size 12 or more"):
        choose({**asked, "train.batch_size": 10})
    assert choose({**asked, "train.batch_size": 12}).config.train.batch_size == 12


def test_where_pixels_are_changed(monkeypatch):
    plain, changed = choose(), choose({"augment.policy": "trivial"})
    assert plain.config.augment.engine == changed.config.augment.engine == "cpu"
    assert plain.reasons["augment.engine"] != changed.reasons["augment.engine"]
    monkeypatch.setattr(devices, "gpus_visible", lambda: 1)
    assert choose({"augment.erase": 0.25}).config.augment.engine == "device"
    assert choose({"augment.erase": 0.25, "augment.engine": "cpu"}).config.augment.engine == "cpu"
    assert choose({"augment.mixup": 0.2}).config.augment.engine == "cpu"  # mixing is the device's anyway


def test_no_augmentation_is_the_evaluations_crop():
    choices = choose({"augment.off": True})
    a, d = choices.config.augment, choices.config.data
    assert (a.crop_share, a.flip, a.changes_pixels, a.mixes) == ((1.0, 1.0), False, False, False)
    assert d.canvas_px == math.ceil(d.image_px / a.eval_share)  # no detail is lost, and no byte stored that nobody sees
    assert "no augmentation" in choices.reasons["augment.flip"]


def test_more_microbatches_are_written_with_the_reason(finished, own_place):
    run = own_place / "run"
    shutil.copytree(finished, run)
    config = prepare.folder.read_config(run)
    changed = prepare.with_more_microbatches(run, config)
    assert changed == dataclasses.replace(config, train=dataclasses.replace(config.train, microbatches=2))
    assert prepare.folder.read_config(run) == changed
    reasons = tiny.resolved(run)["reasons"]
    assert reasons["train.microbatches"] == "memory ran out with 1; the global batch stays"
    assert reasons["optim.lr"] == tiny.resolved(finished)["reasons"]["optim.lr"]
    assert tiny.summary(run)["microbatches"] == 2


def test_patience_needs_a_score_to_wait_for():
    with pytest.raises(
        ConfigError, match=r"train.patience is 3 and there is no val split whose score could be waited for"
    ):
        choose({"train.patience": 3}, train=1.0)
    assert choose({"train.patience": 3}).config.train.patience == 3


def test_rare_classes_made_up_for_twice_are_warned_of(capsys):
    choose({"data.sampling": "balanced", "optim.class_weights": "balanced"})
    assert (
        "Warning: --sampling balanced with --class-weights balanced. Both make up for rare" in capsys.readouterr().err
    )
    choose({"data.sampling": "balanced", "optim.class_weights": "cat=2"})
    choose({"optim.class_weights": "balanced"})
    assert "Warning: --sampling" not in capsys.readouterr().err


def test_weights_that_cannot_be_drawn_by_are_refused_before_training():
    weights = ["1"] * 399 + ["heavy"]  # of val, which nobody draws
    assert choose({"data.sampling": "weighted"}, weights=weights).config.data.sampling == "weighted"
    with pytest.raises(DataError, match="row of 00007: weight is 'heavy'"):
        choose({"data.sampling": "weighted"}, weights=["1"] * 7 + ["heavy"] + ["1"] * 392)


@pytest.mark.parametrize(("patience", "every", "warned"), [(5, 1, False), (6, 1, True), (2, 2, False), (3, 2, True)])
def test_patience_that_cannot_run_out_is_warned_of(capsys, patience, every, warned):
    """Seven epochs: six evaluations before the last epoch's, of which the first is the best yet."""
    choose({"train.patience": patience, "train.epochs": 7, "train.evaluate_every": every})
    assert (
        f"--patience {patience} with {6 // every} evaluation(s) before the last" in capsys.readouterr().err
    ) == warned


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("augment.rand_ops", 3, {"augment.policy": "rand"}),
        ("augment.rand_magnitude", 5, {"augment.policy": "rand"}),
        ("augment.mix_probability", 0.5, {"augment.cutmix": 1}),
        ("optim.step_shares", "0.6", {"optim.schedule": "step"}),
        ("optim.step_gamma", 0.3, {"optim.schedule": "step"}),
        ("optim.decay_share", 0.3, {"optim.schedule": "wsd"}),
        ("optim.beta2", 0.99, {"optim.name": "adamw"}),
        ("optim.unfrozen_lr_scale", 0.3, {"model.freeze_epochs": 1}),
    ],
)
def test_what_nothing_uses_is_warned_of(capsys, key, value, flag):
    alone = Config().with_values({"optim.name": "sgd", key: value})
    resolve.warn_of_unused(alone)
    assert f"Warning: {key} is set and nothing uses it" in capsys.readouterr().err
    resolve.warn_of_unused(alone.with_values(flag))
    assert capsys.readouterr().err == ""
