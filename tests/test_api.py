"""Fanlight from Python, as the README shows it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fanlight
from fanlight import api, cli, console
from fanlight.errors import ConfigError, DataError, RunError, Stopped
from fanlight.train import finish, job
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

QUICK = {**tiny.OPTIONS, "epochs": 3}


def test_the_example(colours, own_place, capfd):
    manifest = fanlight.open(colours)
    assert manifest.classes == tiny.CLASSES and len(manifest) == 60
    run = fanlight.train(colours, **QUICK, out=own_place / "run")
    assert run.folder == own_place / "run"
    assert run.accuracy == run.summary["metrics"]["val"]["accuracy"] >= 0.9
    assert set(run.summary) == set(finish.KEYS)
    scores = fanlight.evaluate(run)
    assert (scores["split"], scores["accuracy"]) == ("val", run.accuracy)
    (answer,) = fanlight.predict(run, [colours / "green" / "00.png"])
    assert answer["label"] == "green" and len(answer["top"]) == 3
    predictor = fanlight.load(run)
    assert predictor.classes == tiny.CLASSES
    assert list(predictor.predict([colours / "green" / "00.png"])) == [answer]
    assert capfd.readouterr().out == ""  # quiet, unless something is wrong


def test_what_is_told_by_a_folder_is_told_by_a_run(finished, colours):
    assert fanlight.evaluate(str(finished)) == fanlight.evaluate(fanlight.Run(finished, {}))
    answers = fanlight.predict(finished, [colours / "red", str(colours / "blue" / "0[01].png")], top=1)
    assert [answer["label"] for answer in answers] == ["red"] * 20 + ["blue"] * 2
    assert all(len(answer["top"]) == 1 for answer in answers)
    asked = {"tta": 2, "unknown_below": 0.999}
    answers = fanlight.predict(finished, [colours / "red"], **asked)
    assert {answer["label"] for answer in answers} == {"unknown"} and all(answer["unknown"] for answer in answers)
    assert fanlight.evaluate(finished, **asked)["selective"]["covered"] == 0


def test_other_images_and_ranks(quick_ranks, finished, own_place):
    data = tiny.make(own_place / "other", per_class=3)
    assert fanlight.evaluate(finished, data=data, ranks=2) == fanlight.evaluate(finished, data=data)
    assert fanlight.evaluate(finished, split="train")["count"] == 48


def test_a_run_is_the_one_that_the_command_line_starts(fanlight, colours, own_place):
    run = api.train(colours, **QUICK, optim__momentum=0.8, weights=None, out="from python")
    assert fanlight(*shlex.split(tiny.summary(run.folder)["command"])[1:3], "--out", "other", *tiny.flags(QUICK), "--set",
                    "optim.momentum=0.8").code == 0  # fmt: skip
    assert tiny.weights(run.folder) == tiny.weights(own_place / "other")


def test_the_command_that_is_kept_does_the_same(fanlight, colours, own_place):
    options = {"flip": False, "pack": True, "augment__crop_share": "0.5,1", "optim__momentum": 0.8, "resume": "auto"}
    options |= {"jitter": (0.4, 0.3, 0.2, 0.1), "augment__crop_ratio": [0.8, 1.25], "no_augment": False}
    run = api.train(colours, **QUICK, **options, out="my run")
    words = shlex.split(tiny.summary(run.folder)["command"])
    assert words[:3] == ["fanlight", "train", str(colours)]
    (own_place / "my run").rename("moved")
    assert fanlight(*words[1:]).code == 0
    assert tiny.weights(own_place / "my run") == tiny.weights(own_place / "moved")


def test_resume(finished, colours, own_place, monkeypatch):
    def stop(*_, **__):
        raise Stopped("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(job, "rank_main", stop)
        with pytest.raises(Stopped):
            api.train(colours, **QUICK, out="run")
    run = api.train(colours, resume=own_place / "run")
    assert tiny.weights(run.folder) == tiny.weights(finished)
    with pytest.raises(RunError, match="has finished"):
        api.train(colours, resume=run.folder)


def test_paths_are_taken_where_options_are_files(colours, finished, own_place):
    options = {"weights": finished / "weights" / "last.safetensors", "pack_dir": own_place / "packs"}
    run = api.train(colours, **QUICK | {"epochs": 1}, **options, out="run")
    assert tiny.resolved(run.folder)["model"]["weights"] == str(options["weights"])
    assert (own_place / "packs").is_dir()


def test_an_unknown_option_names_the_near(colours):
    with pytest.raises(ConfigError, match=r"train\(\) has no option 'epoch'. Near names: epochs"):
        api.train(colours, epoch=3)
    with pytest.raises(ConfigError, match=r"config key 'optim.momentun' is unknown. Near names: optim.momentum"):
        api.train(colours, optim__momentun=0.8)


def test_errors_are_raised_and_quietness_ends(own_place, capsys):
    with pytest.raises(DataError, match="does not exist"):
        api.open("nowhere")
    console.say("again")
    assert capsys.readouterr().out == "again\n"


def test_a_report_is_written_unless_told_otherwise(monkeypatch, colours, own_place):
    written = []
    monkeypatch.setattr(cli, "write_report", lambda run: written.append(run) or run / "report.html")
    quick = {name: value for name, value in QUICK.items() if name != "report"} | {"epochs": 1}
    run = api.train(colours, **quick, out="run")
    assert written == [run.folder] == [Path("run")]
    api.train(colours, **quick, report=False, out="other")
    assert written == [run.folder]


def test_the_package_has_what_it_says():
    assert set(fanlight.__all__) - {"__version__"} == set(api.__all__)
    for name in set(api.__all__) - {"train"}:
        assert getattr(fanlight, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="module 'fanlight' has no attribute 'trian'"):
        fanlight.trian  # noqa: B018


def test_train_is_a_function_although_a_package_has_its_name():
    """Importing a package sets its name in its parent, over a function of that name."""
    code = (
        "import fanlight\n"
        "def refused():\n"
        "    try:\n"
        "        fanlight.train('nowhere')\n"
        "    except Exception as error:\n"
        "        return str(error).startswith('nowhere does not exist.')\n"
        "assert refused()\n"  # imports the package
        "assert refused()\n"
        "from fanlight.train import schedule\n"
        "import fanlight.train.folder as folder\n"
        "assert refused() and fanlight.train.schedule is schedule and fanlight.train.folder is folder\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
