"""A whole study in little, by the command: real runs of one core and of two ranks."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from fanlight import cli_study
from fanlight.errors import ConfigError
from fanlight.study.layouts import estimate, folder, grid, runner
from fanlight.study.layouts import study as subject
from fanlight.train import folder as run_folders
from parallel.kept import Kept
from train import sentences

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

LITTLE = ("--model", "scratch-cnn", "--batch-size", 8, "--epochs", 2, "--precisions", "fp32", "--device", "cpu")


@pytest.fixture
def quick(monkeypatch, kept_pools) -> None:
    """Ranks that are kept over tests, and short blocks, on a machine of one core: two serial points would be two pools."""
    monkeypatch.setattr(runner, "Pool", lambda ranks, **_: Kept(kept_pools(ranks)))
    monkeypatch.setattr(subject, "BLOCK_S", 0.02)
    monkeypatch.setattr(subject, "REPEATS", 1)
    monkeypatch.setattr(subject.machine, "cores_usable", lambda: 1)
    monkeypatch.setattr(
        estimate, "seconds", lambda points, *_, **__: {point.name: estimate.Guess(1.0, 1.0) for point in points}
    )


def test_a_study_from_the_command_to_its_folder(fanlight, colours, own_place, quick):
    words = (
        "study",
        colours,
        *LITTLE,
        "--layouts",
        "ddp,tensor,dataparallel",
        "--ranks",
        2,
        "--rounds",
        2,
        "--out",
        "s",
        "--json",
    )
    answer = fanlight(*words)
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    points = {point["name"]: point for point in document["points"]}
    assert list(points) == ["serial-1core-fp32", "ddp-2-fp32", "tensor-2-fp32"]
    for name in ("serial-1core-fp32", "ddp-2-fp32"):
        point = points[name]
        assert point["status"] == "measured" and point["n"] == 2 and point["source"] == "measured"
        assert point["interval"][0] <= point["images_per_s"] <= point["interval"][1]
        assert sum(point["shares"].values()) + point["unexplained"] == pytest.approx(1.0)
        work = point["shares"]["compute"] + point["shares"]["launch"]  # at 8 rows noise may give all of it to either
        assert 0 <= point["accuracy"] <= 1 and work > 0
    ddp = points["ddp-2-fp32"]
    assert ddp["speedup"] == ddp["over"]["one_core"]["value"] and "oversubscribed" in ddp["flags"]
    assert ddp["sent_per_step"] > 1000 and ddp["differs"].keys() == {"execution.layout", "execution.ranks"}
    assert (
        points["tensor-2-fp32"]["status"] == "failed"
        and "no block that can be divided" in points["tensor-2-fp32"]["reason"]
    )
    assert ddp["link"]["ranks"] == 2 and all(seconds > 0 for seconds in ddp["link"]["all_reduce_s"].values())
    assert ddp["link"]["steals"] >= 0 and points["serial-1core-fp32"]["link"] is None
    assert json.loads((own_place / "s/study.json").read_text())["network"]["blocks"]
    assert (
        document["simulated"]["reason"] == "" and document["simulated"]["points"] == []
    )  # two ranks took turns on one core
    assert document["baselines"]["one_core"] == document["baselines"]["all_cores"]
    assert "tensor-2-fp32: failed: " in document["verdict"] and document["study"] == "s"
    study = own_place / "s"
    assert json.loads((study / "points.json").read_text()) == document
    runs = {path.name for path in (study / "runs").iterdir()}
    assert runs == {f"{name}-{n}" for name in ("serial-1core-fp32", "ddp-2-fp32") for n in (0, 1)} | {"tensor-2-fp32-0"}
    done = study / "runs/ddp-2-fp32-1"
    assert (
        not (done / "checkpoints").exists()
        and not (done / "weights").exists()
        and (done / "predictions.parquet").exists()
    )
    seeds = {path.name: json.loads((path / "probe.json").read_text())["round"] for path in study.glob("runs/ddp*")}
    assert seeds == {"ddp-2-fp32-0": 0, "ddp-2-fp32-1": 1}
    before = {path: path.stat().st_mtime_ns for path in (study / "runs").glob("*/probe.json")}
    again = fanlight("study", "--resume", "s", "--json")  # nothing is missing, and nothing is done again
    assert json.loads(again.out)["points"] == document["points"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    starts = json.loads((study / "study.json").read_text())["sessions"]
    assert ["--out s" in starts[0]["command"], "--resume s" in starts[1]["command"]] == [True, True]
    assert json.loads(again.out)["sessions"] == starts and starts[1]["machine"] == document["machine"]


def test_images_with_sentences_are_studied_too(fanlight, tmp_path, own_place, quick):
    """A captioner, by copies and by layers: rates, shares and what came out, of the task that the data has."""
    said = sentences.make(tmp_path / "said", images=24)
    words = (
        "--model",
        "small-cnn+lstm8",
        *LITTLE[2:],
        "--image-size",
        16,
        "--layouts",
        "ddp,model-parallel,dataparallel",
    )
    answer = fanlight("study", said, *words, "--ranks", 2, "--rounds", 1, "--out", "s", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    points = {point["name"]: point for point in document["points"]}
    for name in ("serial-1core-fp32", "ddp-2-fp32", "model-parallel-2-fp32"):
        point = points[name]
        assert point["status"] == "measured", point["reason"]
        assert 0 <= point["accuracy"] <= 1 and point["loss"] > 0
        assert sum(point["shares"].values()) + point["unexplained"] == pytest.approx(1.0)
    network = json.loads((own_place / "s/study.json").read_text())["network"]
    assert len(network["blocks"]) > 1 and sum(network["blocks"][-1]["tensors"]), network[
        "reason"
    ]  # the last: the decoder
    assert fanlight("report", "s").code == 0


def test_time_to_accuracy(fanlight, colours, quick):
    words = ("study", colours, *LITTLE, "--layouts", "serial", "--to-accuracy", 0.2, "--out", "s", "--json")
    answer = fanlight(*words)
    assert answer.code == 0, answer.err
    point = json.loads(answer.out)["points"][0]
    assert point["n"] == 3 and point["to_accuracy"]["of"] == 3 and len(point["to_accuracy"]["seconds"]) == 3
    assert all(seconds is None or seconds > 0 for seconds in point["to_accuracy"]["seconds"])


def test_weak_scaling_grows_the_batch(fanlight, colours, quick, monkeypatch):
    monkeypatch.setattr(subject.machine, "cores_usable", lambda: 2)
    monkeypatch.setattr(subject.grid, "points", lambda **_: [
        grid.Point("serial", 1, "fp32", "cpu", 1, 1), grid.Point("ddp", 2, "fp32", "cpu", 1, 2)
    ])  # fmt: skip
    answer = fanlight("study", colours, *LITTLE, "--weak", "--rounds", 1, "--out", "s", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["scaling"] == "weak" and [point["batch_size"] for point in document["points"]] == [8, 16]
    assert document["points"][1]["differs"]["train.batch_size"] == [16, 8]


def test_epochs_of_weak_scaling_follow_the_grid(fanlight, colours, own_place, quick, monkeypatch):
    monkeypatch.setattr(subject.grid, "points", lambda **_: [
        grid.Point("serial", 1, "fp32", "cpu", 1, 1), grid.Point("ddp", 2, "fp32", "cpu", 1, 2)
    ])  # fmt: skip
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: "nothing was run")
    for name, words in (("strong", ()), ("weak", ("--weak",))):
        answer = fanlight("study", colours, *LITTLE[:4], *LITTLE[6:], *words, "--out", name, "--json")
        assert answer.code == 0, answer.err
    strong, weak = (json.loads((own_place / name / "points.json").read_text())["equal"] for name in ("strong", "weak"))
    assert weak["train.batch_size"] == strong["train.batch_size"] == 8
    assert weak["train.epochs"] > strong["train.epochs"]


def test_a_study_goes_on_where_it_was_begun(fanlight, colours, own_place, quick, monkeypatch):
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: "nothing was run")
    assert fanlight("study", colours, *LITTLE, "--layouts", "serial", "--out", "s", "--json").code == 0
    before = (own_place / "s/study.json").read_text()
    here = subject.machine.describe()
    monkeypatch.setattr(subject.machine, "describe", lambda: here | {"cpu": "another processor"})
    answer = fanlight("study", "--resume", "s")
    assert answer.code == 2 and answer.err.startswith("Error: --resume s was measured elsewhere")
    assert f"the processor: {here['cpu']} then, another processor now" in answer.err
    assert (own_place / "s/study.json").read_text() == before


def test_a_limit_of_time_leaves_a_study_that_can_go_on(fanlight, colours, quick, monkeypatch):
    monkeypatch.setattr(
        estimate, "seconds", lambda points, *_, **__: {point.name: estimate.Guess(1e6, 0.0) for point in points}
    )
    answer = fanlight(
        "study", colours, *LITTLE, "--layouts", "serial", "--time-limit", "10s", "--rounds", 1, "--out", "s", "--json"
    )
    document = json.loads(answer.out)
    assert (
        document["ended"] == "the time limit ended it in round 1" and document["points"][0]["status"] == "not measured"
    )
    assert document["verdict"].startswith("Nothing was measured.")
    assert "not measured: the time limit ended it in round 1" in document["verdict"]
    assert json.loads(fanlight("study", "--resume", "s", "--json").out)["points"][0]["status"] == "measured"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say which images: fanlight study photos/"),
        (("photos", "--layouts", "dpp"), "--layouts 'dpp' does not exist; choose serial, ddp, fsdp"),
        (("photos", "--precisions", "fp99"), "--precisions 'fp99': choose fp32, bf16, fp16"),
        (("photos", "--time-limit", ""), "--time-limit '' should be a time such as 90s"),
        (("photos", "--ranks", "two"), "--ranks 'two': numbers from 1 on"),
        (("photos", "--to-accuracy", "90"), "--to-accuracy is 90.0; it is a share of right answers"),
        (
            ("photos", "--to-accuracy", "0.9", "--seeds", "2"),
            "--seeds 2 with --to-accuracy: a time from fewer than 3 seeds",
        ),
        (("photos", "--rounds", "2", "--seeds", "3"), "--rounds 2 and --seeds 3 are the same thing"),
        (("photos", "--time-limit", "1e400h"), "--time-limit '1e400h' should be a time such as 90s"),
        (("photos", "--time-limit", "soon"), "--time-limit 'soon' should be a time such as 90s"),
        (("photos", "--device", "tpu"), "--device tpu: use cpu or cuda"),
        (("--resume", "s", "--epochs", "0"), "--epochs beside --resume: a study goes on as it was begun"),
        (
            ("photos", "--rounds", "9" * 50),
            f"--rounds {'9' * 39}…: a whole number from 1 to 1,000",
        ),
        (("photos", "--ranks", "9" * 5000), f"--ranks '{'9' * 39}…': numbers from 1 on"),
        (("photos", "--price", "1e308"), "--price 1e+308: say what this machine costs per hour"),
        (("photos", "--of", "loading", "--epochs", "0"), "--epochs is of another study"),
        (("photos", "--of", "loading", "--workers", "99999999999"), "--workers 99999999999: numbers from 1 to 1024"),
        (
            ("photos", "--recipe", "weather", "--to-accuracy", "0"),
            "--to-accuracy is of one study, and a recipe has parts",
        ),
        (("--resume", "s", "--layouts", "ddp"), "--layouts beside --resume: a study goes on as it was begun"),
        (("--resume", "s"), "s is not a study's folder"),
        (("photos", "--set", "train.precision=bf16"), "--set train.precision would do nothing"),
        (("photos", "--set", "train.time_limit_s=9s"), "--set train.time_limit_s would do nothing"),
        (("photos", "--recipe", "weather", "--set", "train.seed=3"), "--set train.seed would do nothing"),
    ],
)
def test_what_cannot_be_studied(fanlight, words, message):
    answer = fanlight("study", *words)
    assert answer.code in (1, 2) and answer.err.startswith(f"Error: {message}"), answer.err


def test_a_name_that_no_file_system_takes_is_an_error(fanlight):
    name = "x" * 300
    assert f"--out {name} cannot be used: " in fanlight("study", "digits", "--out", name).err
    assert f"{name} is not a study's folder" in fanlight("study", "--resume", name).err


def test_neighbouring_degrees_are_one_layout():
    words = ["ddp", "replicate=2", "pipe=2", "tensor", "shard=2", "tensor=2", "shard=4", "tensor=2"]
    assert cli_study._products(words) == ["ddp", "replicate=2,pipe=2", "tensor", "shard=2,tensor=2", "shard=4,tensor=2"]


def test_a_folder_that_is_there_is_not_written_over(own_place):
    (own_place / "full").mkdir()
    (own_place / "full/file").touch()
    with pytest.raises(ConfigError, match=r"--out full is there already; name a new folder$"):
        folder.create("photos", out=Path("full"))
    (own_place / "full/study.json").touch()
    with pytest.raises(ConfigError, match=r"name a new folder, or continue the study with --resume full$"):
        folder.create("photos", out=Path("full"))


def test_who_comes_second_begins_nothing(fanlight, colours, own_place, quick):
    (own_place / "s/runs").mkdir(parents=True)
    with run_folders.locked(own_place / "s"):
        answer = fanlight("study", colours, *LITTLE, "--layouts", "serial", "--out", "s")
    assert answer.code == 1 and "Error: s is being trained by process" in answer.err, answer.err
    assert not (own_place / "s/study.json").exists() and not (own_place / "s/basis.yaml").exists()


def test_images_that_are_gone_cost_no_point(fanlight, tmp_path, colours, own_place, quick, monkeypatch):
    images = shutil.copytree(colours, tmp_path / "images")
    with monkeypatch.context() as only_here:
        only_here.setattr(subject.Runner, "rounds", lambda self, asked: "nothing was run")
        assert fanlight("study", images, *LITTLE, "--layouts", "serial", "--rounds", 1, "--out", "s").code == 0
    images.rename(tmp_path / "elsewhere")
    answer = fanlight("study", "--resume", "s")
    assert answer.code == 1 and f"file(s) of {images} changed since s began" in answer.err, answer.err
    assert not list((own_place / "s/runs").iterdir())


@pytest.mark.parametrize("asks", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_it_between_runs_is_told_how_it_goes_on(fanlight, colours, quick, monkeypatch, asks):
    """As where ranks do not heed the request: the pool then raises the signal again, here."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: signal.raise_signal(asks))
    answer = fanlight("study", colours, *LITTLE, "--layouts", "serial", "--rounds", 1, "--out", "s")
    assert answer.code == 75 and answer.err.endswith("Stopped; continue with: fanlight study --resume s\n"), answer.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["basis.yaml", "manifest.parquet"])
def test_a_study_without_one_of_its_files_says_which(fanlight, colours, own_place, quick, monkeypatch, name):
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: "nothing was run")
    assert fanlight("study", colours, *LITTLE, "--layouts", "serial", "--rounds", 1, "--out", "s").code == 0
    (own_place / "s" / name).unlink()
    answer = fanlight("study", "--resume", "s")
    assert answer.code and f"s/{name}: " in answer.err and "; put the file back, or" in answer.err, answer.err


def test_a_folder_that_is_there_is_told_before_anything_is_read(own_place, fanlight):
    Path("file").touch()
    answer = fanlight("study", "photos", "--out", "file")  # no photos either
    assert answer.code == 2 and answer.err.startswith("Error: --out file is there already"), answer.err


@pytest.mark.parametrize(
    ("gain", "asked", "spared"), [(0.1, (), True), (1.7, (), False), (0.1, ("fp32", "bf16"), False)]
)
def test_bf16_is_left_out_where_it_was_left_open_and_is_slower(
    fanlight, colours, quick, monkeypatch, gain, asked, spared
):
    monkeypatch.setattr(subject.precision, "cpu_gain", lambda: gain)
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: "nothing was run")
    little = LITTLE[:6] + LITTLE[8:] + (("--precisions", ",".join(asked)) if asked else ())
    answer = fanlight("study", colours, *little, "--layouts", "ddp", "--ranks", 2, "--out", "s", "--json")
    points = {point["name"]: point for point in json.loads(answer.out)["points"]}
    assert points["ddp-2-fp32"]["status"] == "not measured"
    reasons = [points[name]["reason"] for name in ("serial-1core-bf16", "ddp-2-bf16")]
    assert all("10.0× fp32's time" in reason and "--precisions" in reason for reason in reasons) == spared
    assert [points["ddp-2-bf16"]["status"]] == (["cannot run"] if spared else ["not measured"])
