"""Every way in which a user can be wrong: one line that names what, why and the way out; the right exit code; no traceback."""

import errno
import os
import re
import subprocess
import sys

import pytest

from fanlight import cli
from fanlight.data import pack
from fanlight.train import build, devices, prepare
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


@pytest.fixture
def refused(fanlight, own_place):
    """refused(code, message, *words): `fanlight train` says exactly that, and leaves no run behind."""

    def check(code: int, message: str, *words: object, folder_stays: bool = False) -> str:
        answer = fanlight("train", *words, "--out", "run")
        assert answer.code == code, answer
        assert "Traceback" not in answer.err
        last = answer.err.splitlines()[-1]
        assert re.fullmatch(f"Error: {message}", last), last
        assert (own_place / "run").exists() == folder_stays
        return answer.err

    return check


def test_data_that_is_not_there(refused, own_place):
    tiny.make(own_place / "photos", per_class=4)
    refused(3, r"phots does not exist. Near names: photos\. Fanlight reads a folder .*", "phots")


def test_an_empty_folder(refused, own_place):
    (own_place / "empty").mkdir()
    refused(3, r".*empty is empty. Fanlight reads a folder with one folder of images per class, or .*", "empty")


def test_images_without_class_folders(refused, own_place):
    tiny.make(own_place / "data", per_class=4)
    refused(3, r".*red has 4 files, such as 00.png, but no folder per class. .*", "data/red")


def test_one_class(refused, own_place):
    tiny.make(own_place / "data", per_class=4, classes=("cat",))
    refused(3, r".*data has only one class, cat; a classifier needs at least two. .*", "data")


def test_no_images(refused, own_place):
    for name in ("a", "b"):
        (own_place / "data" / name).mkdir(parents=True)
        (own_place / "data" / name / "notes.txt").write_text("no image")
    refused(3, r"none of the 2 files of .*data can be used \(a/notes.txt: .*\). Give a folder .*", "data")


def test_one_class_is_readable(refused, own_place):
    data = tiny.make(own_place / "data", per_class=4, classes=("a", "b"))
    for path in (data / "b").iterdir():
        path.write_bytes(b"broken")
    refused(3, r".*data has usable images of one class only \(a\); a classifier needs at least two", "data")


def test_all_break_off_after_a_good_header(refused, own_place):
    data = tiny.make(own_place / "data", per_class=4)
    for path in data.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    refused(
        3, r"none of the 12 files of .*data can be used \(blue/00.png: truncated PNG: its end is missing\). .*", "data"
    )


def test_a_class_that_val_lacks_is_a_warning(fanlight, own_place):
    tiny.make(own_place / "data" / "train")
    tiny.make(own_place / "data" / "val", per_class=5, classes=("blue", "green"))
    answer = fanlight("train", "data", "--out", "run", *tiny.QUICK)
    assert answer.code == 0
    assert "Warning: val has no images of red. These classes cannot be scored there. Add some." in answer.err


def test_a_class_that_only_val_has_is_an_error(refused, own_place):
    tiny.make(own_place / "data" / "train")
    tiny.make(own_place / "data" / "val", classes=("blue", "green", "reed"), per_class=5)
    refused(3, r".*classes of val that train lacks: reed. Near names: red, green. Rename them, or .*", "data")


def test_a_single_image_of_a_class(refused, own_place):
    data = tiny.make(own_place / "data", per_class=4)
    for path in sorted((data / "red").iterdir())[1:]:
        path.unlink()
    refused(3, r"class red has a single image to train on, none is left to validate; .*", "data")


def test_weights_that_the_data_does_not_give(refused, colours):
    message = (
        r".*colours, class folders: no column 'weight', which --sampling weighted draws by\. Add it to a list file .*"
    )
    refused(3, message, colours, *tiny.QUICK, "--sampling", "weighted")


def test_an_unknown_model(refused, colours):
    message = r"model 'resnet81' is unknown. Near names: .*resnet18.*"
    refused(2, message, colours, *tiny.QUICK, "--model", "resnet81")


def test_an_image_that_the_model_cannot_take(refused, colours):
    refused(2, r"lenet5 takes images of 16 px and more, got 8 px; .*", colours, "--model", "lenet5", "--image-size", 8)


def test_one_image_has_no_statistics(refused, colours):
    message = (
        r"train.batch_size 1 in 1 microbatch\(es\) leaves a single image, of which the batch norms of resnet18 can take no "
        r"statistics; use a larger --batch-size, or fewer --microbatches"
    )
    words = {**tiny.OPTIONS, "model": "resnet18", "image_size": 32, "batch_size": 1}
    refused(2, message, colours, *tiny.flags(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", 49], "train.batch_size is 49 and there are 48 training images; use --batch-size 48"),
        (["--batch-size", 1, "--ranks", 2],
         r"train.batch_size 1 in 1 microbatch\(es\) over 2 ranks leaves a rank without an image; use --batch-size 2 or .*"),
        (["--batch-size", 4, "--microbatches", 8], r"train.batch_size 4 in 8 microbatch\(es\) over 1 ranks leaves .*"),
        (["--ranks", 0], "execution.ranks is 0; it must be above 0"),
        (["--ranks", -1], "execution.ranks is -1; it must be above 0"),
        (["--ranks", 2, "--layout", "serial"],
         "layout serial with ranks 2: serial is one process; use --layout ddp or --ranks 1"),
        (["--layout", "fdp"], r"layout 'fdp' does not exist; .* Near names: .*ddp.*"),
        (["--device", "cuda"], "execution.device is 'cuda', and torch sees no GPU here; use --device cpu"),
        (["--epochs", 0], "train.epochs is 0; it must be above 0"),
        (["--limit", 2], "limit 2 is less than one image for each of 3 classes; try limit=30"),
        (["--folds", 10**20], r"data.folds is 10{20}; it can be at most 1000"),
        (["--image-size", 10**20], r"data.image_px is 10{20}; it can be at most 65536"),
        (["--folds", 0], "data.folds is 0; there must be at least 2, such as --folds 5"),
        (["--threads", 100_000], "execution.threads is 100000; it can be at most 1024"),
        (["--workers", 100_000], "execution.workers is 100000; it can be at most 1024"),
        (["--lr", "1e300"], r"optim.lr is 1e\+300; it can be at most 1e\+30"),
        (["--set", "execution.eval_batch=99999999999999999999"], "execution.eval_batch is 9{20}; it can be at most 65536"),
        (["--set", "execution.checkpoint_every_s=-1"], "execution.checkpoint_every_s is -1.0; it must be 0 or more"),
        (["--set", "augment.crop_ratio=1,inf"], r"augment.crop_ratio is \(1.0, inf\); it must be two ratios, lowest first"),
        (["--set", "augment.std=inf,1,1"], r"augment.std is \(inf, 1.0, 1.0\); each can be at most 1e\+06"),
        (["--set", "augment.mean=0,0,inf"], r"augment.mean is \(0.0, 0.0, inf\); each can be at most 1e\+06"),
        (["--pack-dir", os.fsdecode(b"\xff")], r"execution.pack_dir '\\udcff' is not UTF-8; rename it, or set .*"),
        (["--recipe", ""], "--recipe '' does not exist; there are .*"),
        (["--folds", 3, "--fold", 3], "data.fold is 3 of 3 folds; use 0 … 2"),
        (["--sampling", "even"], "data.sampling is 'even'; use one of epoch, balanced, weighted"),
        (["--class-weights", "even"], "optim.class_weights: 'even' is no name=weight; use balanced, effective, or .*"),
        (["--class-weights", "rde=2"],
         "optim.class_weights: there is no class 'rde'. Near names: red. use balanced, effective, or name=weight .*"),
        (["--ema", 1], "train.ema is 1.0; it is a decay per step above 0 and below 1, such as 0.999"),
        (["--ema", 0], "train.ema is 0.0; it is a decay per step .*"),
        (["--patience", 0], "train.patience is 0; it must be above 0"),
        (["--schedule", "wsd", "--set", "optim.decay_share=1"],
         "optim.warmup_share 0.1 and optim.decay_share 1.0 add up to more than 1; use optim.decay_share 0.9 or less"),
        (["--set", "optim.step_shares=0.5,0.25"], "optim.step_shares is .*; they must be shares between 0 and 1, lowest first"),
        (["--set", "optim.step_shares="], "optim.step_shares should be numbers with commas between, got ''"),
        (["--jitter", ".4"], "augment.jitter should be 4 numbers with commas between, got '.4'"),
        (["--time-limit", "1h30m"], "train.time_limit_s should be a time such as 90s, 10m or 1.5h, got '1h30m'"),
        (["--set", "train.epoch=3"], r"config key 'train.epoch' is unknown. Near names: train.epochs.*"),
        (["--set", "epochs=3"], r"config key 'epochs' is unknown. Near names: .*train.epochs.*"),
        (["--set", "train.epochs=many"], "train.epochs should be int, got 'many'"),
        (["--set", "train.epochs=1.5"], "train.epochs should be int, got '1.5'"),
        (["--set", "optim.lr=nan"], "optim.lr should be float, a finite number above 0, got 'nan'"),
        (["--set", "augment.flip=perhaps"], "augment.flip should be bool, got 'perhaps'"),
        (["--set", "augment.mean=1,2"], "augment.mean should be 3 numbers with commas between, got '1,2'"),
        (["--set", "train.microbatches=none"], "train.microbatches .*'none'"),
        (["--set", "train.epochs"],
         "--set 'train.epochs' should read section.field=value, such as optim.momentum=0.8"),
        (["--freeze"], "model.freeze would keep random weights; give --weights FILE or --pretrained, or --no-freeze"),
        (["--pretrained", "--weights", "w.pt"],
         "model.pretrained and model.weights both name the weights to start from; use one of them"),
        (["--weights", "w.pt"], r"model.weights=w.pt is no file; give a .safetensors or .pt file"),
        (["--recipe", "nothing"], r"--recipe 'nothing' does not exist; there are .*"),
        (["--config", "nothing.yaml"], "cannot read config nothing.yaml: No such file or directory"),
        (["--dry-run", "--resume", "r"], "--dry-run prepares a new run, and --resume r continues one; use one of them"),
    ],
)  # fmt: skip
def test_wrong_settings(monkeypatch, refused, colours, words, message):
    monkeypatch.setattr(devices, "gpus_visible", lambda: 0)
    refused(2, message, colours, "--model", "scratch-cnn", "--precision", "fp32", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "c.yaml: config key 'train.epoch' is unknown. Near names: train.epochs.*"),
        ("trian: {epochs: 3}", "c.yaml: config key 'trian.epochs' is unknown. Near names: train.epochs.*"),
        ("train: 3", "c.yaml: section 'train' should hold fields, got 3"),
        ("train: {epochs: [1]}", r"c.yaml: train.epochs should be int, got \[1\]"),
        ("train: {epochs: yes}", "c.yaml: train.epochs should be int, got True"),
        ("- 1", "c.yaml: expected sections such as `train:` with fields below, got list"),
        ("version: 7", "c.yaml: version 7 of the config; this Fanlight reads version 1. Use the Fanlight that .*"),
    ],
)
def test_wrong_config_files(refused, colours, own_place, text, message):
    (own_place / "c.yaml").write_text(text)
    refused(2, message, colours, "--config", "c.yaml")


def test_a_config_that_is_no_yaml(fanlight, colours, own_place):
    (own_place / "c.yaml").write_text("train: [")
    answer = fanlight("train", colours, "--config", "c.yaml")
    assert answer.code == 2 and answer.err.startswith("Error: c.yaml is not YAML: ")


WRONG = (
    "train --epoch 3", "train a b", "trian", "train a --epochs x", "check a --workers 0", "pack a --workers -1", "predict r"
)  # fmt: skip


@pytest.mark.parametrize("words", [text.split() for text in WRONG], ids=WRONG)
def test_wrong_usage(fanlight, words):
    answer = fanlight(*words)
    assert answer.code == 2 and answer.out == "" and "Traceback" not in answer.err
    assert "Usage: fanlight" in answer.err


def test_no_data(refused):
    refused(2, r"say which images: fanlight train photos/ \(or `digits`\), or --resume RUN to continue a run")
    refused(2, r"say which images: .*", "--resume", "auto")


def test_out_that_is_not_empty(refused, colours, own_place):
    (own_place / "run").mkdir()
    (own_place / "run" / "thesis.tex").touch()
    message = "--out run exists and is not empty; name another, or continue it with --resume run if it is a run"
    refused(2, message, colours, *tiny.QUICK, folder_stays=True)
    assert (own_place / "run" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", 1000], "train.batch_size is 1000 and there are .* training images; use --batch-size .*"),
        (["--class-weights", "rde=2"], "optim.class_weights: there is no class 'rde'.*"),
        (["--weights", "nowhere.safetensors"], "model.weights=nowhere.safetensors is no file; give a .*"),
        (["--weights", __file__], "model.weights=.* should end in .safetensors, .pt or .pth"),
        (["--image-size-start", 500], "data.image_px_start is 500 and data.image_px .*"),
        (["--folds", 50], "class .* has .* groups of images, fewer than folds=50; try folds=.*"),
        (["--epochs", 2, "--patience", 1, "--batch-size", 3, "--mixup", 0.2], "train.batch_size is 3, and mixup .*"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_packed(monkeypatch, refused, colours, words, message):
    monkeypatch.setattr(pack, "make", lambda *_, **__: pytest.fail("packed"))
    refused(2, message, colours, *words)


def test_what_is_decided_twice_is_said_once(fanlight, colours):
    words = ("--sampling", "balanced", "--class-weights", "balanced", "--epochs", 1, "--model", "lenet5", "--dry-run")
    answer = fanlight("train", colours, *words)
    assert answer.code == 0 and answer.err.count("Both make up for rare classes") == 1
    assert answer.out.count("train.batch_size = ") == 1


def test_out_is_looked_at_before_anything_is_packed(monkeypatch, refused, colours, own_place):
    (own_place / "run").touch()
    monkeypatch.setattr(pack, "make", lambda *_, **__: pytest.fail("packed"))
    refused(2, "--out run is a file, .*", colours, *tiny.QUICK, folder_stays=True)


def test_a_full_disk_while_the_run_is_written_down(monkeypatch, refused, colours):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prepare.folder, "write_summary", full)
    refused(
        1, "cannot write the run folder run: No space left on device; name another with --out", colours, *tiny.QUICK
    )


def test_a_report_that_cannot_be_written(monkeypatch, fanlight, finished):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/report.html")

    monkeypatch.setattr("fanlight.study.report.write", full)
    answer = fanlight("report", finished)
    assert answer.code == 1
    assert re.fullmatch(
        r"Error: the report of .*finished cannot be written: run/report\.html: No space left on device; what the run itself "
        r"wrote is whole\. Write it again with: fanlight report .*finished\n", answer.err
    )  # fmt: skip


def test_ctrl_c_before_there_is_a_run(monkeypatch, fanlight, colours, own_place):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "make", interrupted)
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run")
    assert (answer.code, answer.err) == (130, f"{cli.INTERRUPTED_WORDS}\n")
    assert not (own_place / "run").exists()


def test_names_that_the_terminal_cannot_show(own_place):
    os.makedirs(os.fsdecode(b"caf\xe9"))
    words = [sys.executable, "-m", "fanlight", "check", b"caf\xe9"]
    for encoding in ("utf-8", "ascii"):
        answer = subprocess.run(words, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
        assert answer.returncode == 3, answer
        assert answer.stderr.startswith(b"Error: ") and b"a folder's name is not UTF-8" in answer.stderr


def test_a_full_disk_while_packing_is_a_warning_and_the_files_are_used(monkeypatch, fanlight, colours, own_place):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack.os, "posix_fallocate", full)
    words = ["train", colours, *tiny.QUICK]
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    answer = fanlight(*words, "--out", "run")
    assert answer.code == 0
    assert "Warning: training without a pack. " in answer.err and "No space left on device" in answer.err
    assert "It decodes every image at every epoch." in answer.err
    assert tiny.resolved(own_place / "run")["execution"]["pack"] is False
    assert "No space left on device" in tiny.resolved(own_place / "run")["reasons"]["execution.pack"]
    for insisted in (["--pack"], ["--pack-dir", "packs"]):
        answer = fanlight(*words, "--out", "other", *insisted)
        assert answer.code == 1 and "No space left on device" in answer.err and "--no-pack" in answer.err
        assert not (own_place / "other").exists() and not (own_place / "packs").exists()
    answer = fanlight("pack", colours, "--pack-dir", "packs")
    assert answer.code == 1 and answer.err.endswith(
        "free some room and give the same command again, or make it smaller with --image-size N, or name another disk with "
        "--pack-dir\n"
    ), "options of train are no way out of pack"
    assert not (own_place / "packs").exists()


def test_a_disk_without_room_for_the_pack_is_known_before(monkeypatch, fanlight, colours, own_place):
    monkeypatch.setattr(pack.machine, "disk_free", lambda _: 10_000)
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", "--pack-dir", "packs")
    assert answer.code == 1
    assert re.search(
        r"the pack needs .* free, where images of a short side of \d+ px would fit; free some room, or make it "
        r"smaller with --set data\.canvas_px=N, ",
        answer.err,
    ), answer.err


def test_a_loss_that_is_not_finite(fanlight, colours, own_place):
    words = ["--lr", "1e30", "--set", "optim.clip_norm=none", "--set", "optim.warmup_share=0", "--seed", 1]
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", *words)
    assert answer.code == 1 and "Traceback" not in answer.err
    message = re.fullmatch(r"Error: the loss is (nan|inf) at step (\d+); it (was|rose) .* use .*--lr.*\n", answer.err)
    assert message and 2 <= int(message[2]) <= 12, answer.err
    summary = tiny.summary(own_place / "run")
    assert summary["status"] == "failed"
    assert summary["notes"] == [f"failed: {answer.err.removeprefix('Error: ').strip()}"]


def test_a_loss_that_is_not_finite_on_two_ranks(quick_ranks, fanlight, colours, own_place):
    words = ["--lr", "1e30", "--set", "optim.clip_norm=none", "--set", "optim.warmup_share=0", "--ranks", 2]
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", *words)
    assert answer.code == 1 and "Traceback" not in answer.err
    assert re.fullmatch(r"Error: the loss is (nan|inf) at step \d+; it .*\n", answer.err)
    assert tiny.summary(own_place / "run")["status"] == "failed"


def test_ctrl_c_before_the_first_step(monkeypatch, fanlight, colours, own_place):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", interrupted)
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run")
    assert (answer.code, answer.err) == (75, "Stopped at once; continue with: fanlight train --resume run\n")


def test_commands_that_need_a_run(fanlight, own_place):
    for words in (
        ["evaluate", "none"],
        ["predict", "none", "x.png"],
        ["report", "none"],
        ["train", "--resume", "none"],
    ):
        answer = fanlight(*words)
        assert answer.code == 1 and answer.err.startswith("Error: none is not a run folder"), words
    answer = fanlight("runs", "none")
    assert answer.code == 1 and answer.err.startswith("Error: no folder none; ")
