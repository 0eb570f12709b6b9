"""The parity contract: the config decides the numbers, the layout and the ranks do not. Serial is one rank.

Tolerances of points 2 and 3 are the contract's; what was measured stands beside them.
"""

import functools
import itertools
import json
import shutil
from typing import Any

import cv2
import numpy as np
import pytest

from fanlight.data import formats, scan

JOBS = "parallel.parity_jobs:"
RANKS = [2, 3, 4]
SLOW_FOUR = [2, 3, pytest.param(4, marks=pytest.mark.slow)]
STEPS = 7  # 3 are an epoch
# Worst over 20 lock-step steps of the nets below on 2, 3 and 4 ranks: rounding of sums in another order.
LOSS_RTOL = {"fp64": 1e-12, "fp32": 1e-5}  # worst measured 5.0e-15 and 1.4e-6
GRADIENT_RTOL = {"fp64": 1e-11, "fp32": 1e-4}  # worst measured 3.4e-14 and 5.3e-6
BUFFERS_RTOL = {"fp64": 1e-13, "fp32": 1e-5}  # worst measured 1.7e-15 and 5.6e-7; they hold means, no small differences
WEIGHTS_RTOL = {"fp64": 1e-13, "fp32": 1e-5}  # after the optimizer; worst measured 4.8e-17 and 2.9e-8
FLOOR_FACTOR = 10.0  # of serial's distance from itself with samples exchanged; worst measured 1.6
SHORT_FORMAT_RTOL = 2e-2  # bf16 rounds to 8 bits; worst measured over 6 steps 3.0e-3

SLOW_FP32 = pytest.param("fp32", marks=pytest.mark.slow)  # fp64 shows any wrong term, some fp32 rows the tolerance

SGD = {"optim.name": "sgd", "optim.lr": 0.05, "optim.clip_norm": 1.0, "optim.label_smoothing": 0.1}
ADAMW = {"optim.name": "adamw", "optim.lr": 2e-3, "optim.clip_norm": None, "optim.label_smoothing": 0.0}
RESNET = {"model.name": "small-resnet", "data.image_px": 8, **SGD}
DROPPING = {"model.name": "drop-net", **ADAMW, "train.microbatches": 2}  # keyed dropout, norms of images and vectors
# Classes drawn as often as each other and weighed, weights averaged: everything that a rank could get wrong by itself.
DRAWN = DROPPING | {
    "data.sampling": "balanced", "optim.class_weights": "class0=3,class1=0.5", "optim.label_smoothing": 0.1,
    "train.ema": 0.9,
}  # fmt: skip
PLAIN = {"model.name": "lenet5", **SGD, "train.microbatches": 3}
# 7 pairs of images, which divide over no number of ranks here either.
MIXED = {"augment.mixup": 0.4, "augment.cutmix": 1.0, "train.batch_size": 14}
CHANGED = {"augment.policy": "rand", "augment.jitter": [0.4, 0.4, 0.4, 0.1], "augment.erase": 0.5}
AUGMENTED = {
    "mixed": MIXED, "changed": CHANGED | {"augment.engine": "cpu"}, "on-device": CHANGED | {"augment.engine": "device"},
    "all": MIXED | CHANGED | {"augment.policy": "trivial", "augment.engine": "cpu"},
}  # fmt: skip
CACHED = DROPPING | {"model.freeze": True, "augment.off": True, "execution.cache_features": True}
PHASED = DROPPING | {"model.freeze_epochs": 1, "optim.unfrozen_lr_scale": 0.5, "train.ema": 0.9}  # 3 steps, then all
PHASED_CACHED = PHASED | {"augment.off": True, "execution.cache_features": True}
BLOCKS = DROPPING | {"model.name": "drop-blocks"}
GROWING = BLOCKS | {"data.image_px_start": 16, "data.image_px": 48, "train.epochs": 3}  # 16, 32, 48 px, 3 steps each
RECOMPUTED = BLOCKS | {"execution.recompute": True}
NETS = {
    "resnet": RESNET, "dropping": DROPPING, "drawn": DRAWN, "resnet-bf16": RESNET | {"train.precision": "bf16"},
    "augmented": DROPPING | AUGMENTED["all"], "cached": CACHED, "phased": PHASED,
    "phased-cached": PHASED_CACHED, "growing": GROWING,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """40 training and 18 validation images of three classes; steps of 13 divide over no number of ranks."""
    place = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(58):
        height, width = random.integers(20, 30, 2)
        image = random.integers(0, 128, (height, width, 3), dtype=np.uint8)
        image[..., number % 3] += 80
        path = place / "images" / f"class{number % 3}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
    manifest = scan.scan(formats.recognise(str(place / "images"), cache=place / "cache"), decode=True)
    is_val = [int(path[-7:-4]) >= 40 for path in manifest.column("path")]
    manifest = manifest.with_columns(split=np.where(is_val, "val", "train").astype(object))
    assert [len(manifest.rows(name)) for name in ("train", "val")] == [40, 18]
    manifest.save(place / "manifest.parquet")
    return str(place)


@pytest.fixture(scope="module")
def call(pool, folder):
    """call(ranks, job, **arguments): the ranks' answers. A serial answer is kept: every layout is compared with it."""

    def run(ranks: int, job: str, **arguments: Any) -> list[Any]:
        return pool(ranks).run(f"{JOBS}{job}", folder=folder, **arguments)

    @functools.cache
    def serial(job: str, arguments: str) -> Any:
        return run(1, job, **json.loads(arguments))[0]

    def answer(ranks: int, job: str, **arguments: Any) -> list[Any]:
        return [serial(job, json.dumps(arguments))] if ranks == 1 else run(ranks, job, **arguments)

    return answer


@pytest.mark.parametrize("ranks", RANKS)
def test_every_rank_begins_with_the_serial_bits(call, ranks):
    """Though building a replicated model runs it twice."""
    serial, *answers = (answer for n in (1, ranks) for answer in call(n, "built_state", values=DROPPING))
    assert answers == [serial] * ranks
    assert serial["gradients"] == []
    assert "model.features.1.running_mean" in serial["keys"]  # names as the plain model has them


# 1. Data


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("net", ["plain", "drawn"])
@pytest.mark.parametrize("ranks", RANKS)
def test_every_number_of_ranks_sees_the_same_batches(call, ranks, net, microbatches):
    values = PLAIN if net == "plain" else DRAWN
    arguments = {"values": values | {"train.microbatches": microbatches}, "steps": 7}  # 3 steps are an epoch
    serial, found = (call(n, "batch_hashes", **arguments)[0] for n in (1, ranks))
    assert found == serial
    assert [position for position, _, _ in serial] == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    assert all(len(parts) == microbatches and sum(len(part[0]) for part in parts) == 13 for _, _, parts in serial)
    hashes = [part[1] for _, _, parts in serial for part in parts]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("kind", AUGMENTED)
@pytest.mark.parametrize("ranks", [2, 3])
def test_augmentation_does_not_know_the_ranks(call, ranks, kind):
    arguments = {"values": DROPPING | AUGMENTED[kind], "steps": 4}
    serial, found, plain = (
        call(n, "batch_hashes", **{**arguments, "values": values})[0]
        for n, values in ((1, arguments["values"]), (ranks, arguments["values"]), (1, DROPPING))
    )
    assert found == serial
    assert not {part[1] for _, _, parts in serial for part in parts} & {
        part[1] for _, _, parts in plain for part in parts
    }


def test_a_resumed_epoch_goes_on_with_the_next_batch(call):
    whole, rest = (call(1, "batch_hashes", values=PLAIN, steps=7 - done, done=done)[0] for done in (0, 4))
    assert rest == whole[4:]


# 2. Step


def in_lockstep(call, ranks: int, values: dict[str, Any], dtype: str) -> dict[str, float]:
    found = call(ranks, "lockstep", values=values, dtype=dtype, steps=STEPS)[0]
    most = {"loss": LOSS_RTOL, "gradient": GRADIENT_RTOL, "weights": WEIGHTS_RTOL, "averaged weights": WEIGHTS_RTOL}
    beyond = {kind: value for kind, value in found.items() if value > most.get(kind, BUFFERS_RTOL)[dtype]}
    assert beyond == {}
    assert found.get("num_batches_tracked", 0) == 0
    return found


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
@pytest.mark.parametrize("values", [DROPPING, DROPPING | SGD | {"train.microbatches": 1}], ids=["adamw×2", "sgd×1"])
@pytest.mark.parametrize("ranks", SLOW_FOUR)
def test_norms_and_keyed_dropout_step_as_serial_does(call, ranks, values, dtype):
    found = in_lockstep(call, ranks, values, dtype)
    assert {"loss", "gradient", "weights", "running_mean", "running_var", "num_batches_tracked"} == found.keys()
    assert found["gradient"] > 0  # else it was not another sum that was compared


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
@pytest.mark.parametrize("mixed", [{}, MIXED | {"train.microbatches": 1}], ids=["plain", "mixed"])
@pytest.mark.parametrize("ranks", SLOW_FOUR)
def test_drawn_and_weighed_samples_step_as_serial_does(call, ranks, mixed, dtype):
    found = in_lockstep(call, ranks, DRAWN | mixed, dtype)
    assert 0 < found["averaged weights"] <= WEIGHTS_RTOL[dtype]


@pytest.mark.parametrize(("ranks", "dtype"), [(3, "fp64"), (2, "fp32")])
def test_a_residual_network_steps_as_serial_does(call, ranks, dtype):
    in_lockstep(call, ranks, RESNET, dtype)


@pytest.mark.parametrize(
    ("ranks", "dtype", "kind", "microbatches"),
    [(3, "fp64", "mixed", 1), (2, "fp32", "mixed", 2), (3, "fp64", "changed", 2), (3, "fp64", "on-device", 1),
     (3, "fp64", "all", 2)],
)  # fmt: skip
def test_augmented_images_step_as_serial_does(call, ranks, dtype, kind, microbatches):
    in_lockstep(call, ranks, DROPPING | AUGMENTED[kind] | {"train.microbatches": microbatches}, dtype)


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
def test_norms_with_activations_step_as_serial_does(call, dtype):
    timm = {"model.name": "test_efficientnet", "data.image_px": 32, "execution.channels_last": False}
    in_lockstep(call, 2, SGD | timm, dtype)


def test_images_that_grow_step_as_serial_does(call):
    in_lockstep(call, 2, GROWING, "fp64")


@pytest.mark.parametrize("ranks", [2, 3])
def test_recomputed_blocks_step_as_serial_does(call, ranks):
    assert in_lockstep(call, ranks, RECOMPUTED, "fp64")["running_mean"] > 0


@pytest.mark.parametrize("values", [BLOCKS, RESNET], ids=["blocks", "resnet"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_recomputing_changes_no_bit(call, tmp_path, ranks, values):
    plain, again = (
        call(ranks, "train_on", values=values | more, checkpoints=str(tmp_path), to=4)
        for more in ({}, {"execution.recompute": True})
    )
    assert again == plain


def test_a_frozen_network_steps_as_serial_does(call):
    found = in_lockstep(call, 2, RESNET | {"model.freeze": True}, "fp64")
    assert found["running_mean"] == found["running_var"] == 0  # as they were, on both


@pytest.mark.parametrize(("ranks", "dtype"), [(2, "fp64"), (3, "fp64"), (2, "fp32")])
def test_a_last_layer_on_features_steps_as_serial_does(call, ranks, dtype):
    found = in_lockstep(call, ranks, CACHED, dtype)
    assert found["gradient"] > 0
    assert found["running_mean"] == found["running_var"] == 0


@pytest.mark.parametrize(("ranks", "dtype"), [(2, "fp64"), (3, "fp32")])
@pytest.mark.parametrize("values", [PHASED, PHASED_CACHED], ids=["looking", "cached"])
def test_the_last_layer_and_then_everything_steps_as_serial_does(call, ranks, values, dtype):
    found = in_lockstep(call, ranks, values, dtype)
    assert found["running_mean"] > 0  # statistics move in the second phase


@pytest.mark.parametrize("net", ["phased", "phased-cached"])
@pytest.mark.parametrize("save_at", [2, 3, 4])  # before the whole network trains, at that moment, and after
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_run_resumed_in_any_phase_ends_with_the_same_bits(call, tmp_path, ranks, save_at, net):
    arguments = {"values": NETS[net], "checkpoints": str(tmp_path), "to": 6}
    whole = call(ranks, "train_on", **arguments, save_at=save_at)
    rest = call(ranks, "train_on", **arguments, start=str(tmp_path / f"step-{save_at:08}"))
    assert [answer["digest"] for answer in rest] == [answer["digest"] for answer in whole]
    assert [answer["losses"] for answer in rest] == [answer["losses"][save_at:] for answer in whole]
    assert len({answer["digest"] for answer in whole}) == 1


@pytest.mark.parametrize("ranks", SLOW_FOUR)
def test_features_are_the_same_bits_on_any_number_of_ranks(call, ranks):
    serial, *found = (answer for n in (1, ranks) for answer in call(n, "feature_table", values=CACHED, dtype="fp32"))
    assert serial[0] == [58, 24]
    assert [answer[:2] for answer in found] == [serial[:2]] * ranks
    assert serial[2] and not any(".part" in path for answer in (serial, *found) for path in answer[2])


# 3. Run


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
@pytest.mark.parametrize("net", ["resnet", "dropping", "drawn"])
def test_free_running_losses_stay_near_the_noise_floor(call, net, dtype):
    arguments = {"values": NETS[net], "dtype": dtype, "to": 6}
    serial = np.array(call(1, "train_on", **arguments)[0]["losses"])

    def distance(losses: list[float]) -> float:
        return float(np.max(np.abs(np.array(losses) - serial) / serial))

    floor = max(distance(call(1, "train_on", **arguments, exchange=how)[0]["losses"]) for how in ("reversed", "rolled"))
    assert floor > 0
    for ranks in RANKS:
        answers = call(ranks, "train_on", **arguments)
        assert len({answer["digest"] for answer in answers}) == 1
        assert distance(answers[0]["losses"]) <= FLOOR_FACTOR * floor


# 4. Evaluation


@pytest.fixture(scope="module")
def trained(call, folder) -> dict[str, str]:
    """A serial checkpoint after three steps, by network: its statistics are those of data."""
    for name, values in NETS.items():
        call(1, "train_on", values=values, checkpoints=f"{folder}/{name}", to=3, save_at=3)
    return {name: f"{folder}/{name}/step-00000003" for name in NETS}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("ranks", [3, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (2, 4))])
def test_evaluation_gives_the_same_bits_on_any_number_of_ranks(call, trained, ranks, net):
    """Over uneven parts, a padded last batch, ranks without a batch, and with two threads where the ranks have one."""
    parts = [["val", 4, 1], ["train", 7, 1], ["val", 64, 1], ["val", 7, 4]]
    arguments = {"values": NETS[net], "checkpoint": trained[net], "parts": parts}
    one, two, found = (
        call(n, "scored_rows", **arguments, threads=threads) for n, threads in ((1, 1), (1, 2), (ranks, 1))
    )
    assert [np.array(rows).shape for rows in one[0]] == [(18, 3), (40, 3), (18, 3), (18, 3)]
    assert all(np.ptp(np.array(rows)) > 0.1 for rows in one[0])
    assert found == [one[0], *[[None] * 4] * (ranks - 1)]
    assert two == one


# 5. Resume


@pytest.mark.parametrize(
    ("ranks", "net"),
    [
        *itertools.product([1, 2, 3], ["resnet", "dropping", "drawn"]),
        *(pytest.param(4, net, marks=[pytest.mark.slow] * (net != "drawn")) for net in ("resnet", "dropping", "drawn")),
        (3, "resnet-bf16"),
        *itertools.product([1, 3], ["augmented", "cached", "growing"]),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(call, tmp_path, ranks, net):
    arguments = {"values": NETS[net], "checkpoints": str(tmp_path), "to": 6}
    whole = call(ranks, "train_on", **arguments, save_at=4)  # in the second epoch
    rest = call(ranks, "train_on", **arguments, start=str(tmp_path / "step-00000004"))
    assert [answer["digest"] for answer in rest] == [answer["digest"] for answer in whole]
    assert [answer["losses"] for answer in rest] == [answer["losses"][4:] for answer in whole]
    assert len({answer["digest"] for answer in whole}) == 1  # every rank holds the same bits


def test_settling_the_buckets_is_still_needed(call, tmp_path):
    """Where this fails, torch does not regroup its buckets any more, and Replicated.settle can go."""
    arguments = {"values": RESNET, "checkpoints": str(tmp_path), "to": 6}
    whole = call(3, "train_on", **arguments, save_at=4)
    rest = call(3, "train_on", **arguments, start=str(tmp_path / "step-00000004"), settled=False)
    assert rest[0]["digest"] != whole[0]["digest"]


def together(answers: list[dict[str, Any]]) -> list[list[list[int]]]:
    """By step and microbatch, all ranks' samples in rank order."""
    steps = zip(*(answer["samples"] for answer in answers))
    return [[list(itertools.chain(*parts)) for parts in zip(*by_rank)] for by_rank in steps]


@pytest.mark.parametrize(
    ("before", "after", "net"),
    [
        *((*each, "dropping") for each in ((1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 3))),
        (1, 2, "drawn"),
        (3, 1, "drawn"),
    ],
)
def test_any_number_of_ranks_continues_anothers_checkpoint(call, tmp_path, before, after, net):
    arguments = {"values": NETS[net], "checkpoints": str(tmp_path), "dtype": "fp64"}
    whole = call(before, "train_on", **arguments, to=6, save_at=4)
    rest = call(after, "train_on", **arguments, to=6, start=str(tmp_path / "step-00000004"))
    assert together(rest) == together(whole)[4:]
    assert rest[0]["keys"] == whole[0]["keys"]
    assert rest[0]["losses"] == pytest.approx(whole[0]["losses"][4:], rel=LOSS_RTOL["fp64"])


# 6. Short formats


@pytest.mark.parametrize("ranks", SLOW_FOUR)
def test_bf16_losses_stay_as_near_to_serial_as_its_own_rounding(call, ranks):
    found, serial = (call(n, "train_on", values=NETS["resnet-bf16"], to=6)[0]["losses"] for n in (ranks, 1))
    assert found == pytest.approx(serial, rel=SHORT_FORMAT_RTOL)


@pytest.mark.parametrize(
    ("ranks", "values"),
    [
        pytest.param(1, RESNET, id="1-resnet", marks=pytest.mark.slow),
        pytest.param(2, BLOCKS, id="2-blocks"),
        pytest.param(2, RESNET, id="2-resnet", marks=pytest.mark.slow),
        *(pytest.param(ranks, DROPPING, id=f"{ranks}-dropping", marks=pytest.mark.slow) for ranks in (1, 2)),
    ],
)
def test_a_traced_step_is_the_plain_one(call, ranks, values):
    """torch.compile in place, without its compiler: names, state, evaluation and numbers stay."""
    for answer in call(ranks, "compiled_gradients", values=values, backend="eager"):
        assert answer["verdict"]["n"] > 0
        assert answer["same state"] and answer["rests"] and answer["works"]
        assert answer["error"] == 0 and answer["loss error"] == 0
        assert not any("_orig_mod" in key for key in answer["keys"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: nothing can be compiled for a CPU")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_compiled_step_agrees_with_the_plain_one(call, ranks):
    for answer in call(ranks, "compiled_gradients", values=RESNET, backend="inductor"):
        assert answer["verdict"]["n"] > 0 and answer["same state"]
        assert answer["error"] < GRADIENT_RTOL["fp32"] and answer["loss error"] < LOSS_RTOL["fp32"]
