"""`fanlight evaluate`: exact counts on any number of ranks, of the run's own splits and of other images."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from fanlight import machine
from fanlight.errors import ConfigError, DataError, RunError
from fanlight.train import export, scoring
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

# The design's table for `evaluate --json`.
KEYS = {"split", "count", "correct", "accuracy", "per_class"}


def test_a_runs_own_val_scores_as_it_did(fanlight, finished):
    answer = fanlight("evaluate", finished, "--json")
    assert answer.code == 0
    document = json.loads(answer.out)
    assert document.keys() >= KEYS and document["split"] == "val"
    trained = tiny.summary(finished)["metrics"]["val"]
    assert {name: document[name] for name in trained} == trained
    assert [row["class"] for row in document["per_class"]] == list(tiny.CLASSES)
    assert sum(row["count"] for row in document["per_class"]) == document["count"] == 12


def test_the_table_says_it_in_words(fanlight, finished):
    answer = fanlight("evaluate", finished, "--split", "train")
    assert answer.code == 0
    first, *rows, probabilities = answer.out.splitlines()
    assert probabilities.startswith("Probabilities: calibration error of train .")
    assert first.startswith("train: ") and "of 48 right, accuracy" in first and "95 % interval" in first
    assert [row.split()[0] for row in rows] == list(tiny.CLASSES)


def test_two_ranks_count_the_same(quick_ranks, finished):
    serial, double = (scoring.evaluate(finished, split="train", ranks=ranks) for ranks in (1, 2))
    assert double == serial  # the rows are the same bits on any number of ranks


def test_two_ranks_count_other_images_the_same(quick_ranks, finished, own_place):
    data = str(tiny.make(own_place / "other", per_class=25, seed=3))
    serial, double = (scoring.evaluate(finished, data=data, ranks=ranks) for ranks in (1, 2))
    assert double == serial  # the rows are the same bits on any number of ranks
    assert serial["count"] == 75  # more than one batch of 64


def test_views_are_averaged_and_said(fanlight, finished):
    answer = fanlight("evaluate", finished, "--split", "train", "--tta", 3)
    seen = "3 views per image, log-probabilities averaged: centre, centre mirrored, top left"
    assert answer.out.splitlines()[0] == seen
    one, three = (scoring.evaluate(finished, split="train", tta=views) for views in (1, 3))
    assert (one["views"], three["views"], three["count"]) == (1, 3, 48)
    assert one["loss"] != three["loss"]


def test_two_ranks_see_the_same_views(quick_ranks, finished):
    serial, double = (
        scoring.evaluate(finished, split="train", ranks=ranks, tta=4, unknown_below=0.5) for ranks in (1, 2)
    )
    assert double == serial


def test_a_run_that_mirrors_nothing_has_fewer_views(colours, own_place):
    run = tiny.train(colours, out=own_place / "run", epochs=1, flip=False)
    assert scoring.evaluate(run, tta=5)["views"] == 5
    with pytest.raises(ConfigError, match="--tta 6: an image has 1 to 5 views, since this run mirrors no image"):
        scoring.evaluate(run, tta=6)


def test_calibration_is_that_of_the_run(finished, own_place):
    """Cross-fitted on the validation images that the temperature is of; as it is used elsewhere."""
    run = shutil.copytree(finished, own_place / "run")
    assert scoring.evaluate(run)["calibration"] == tiny.summary(run)["calibration"]["splits"]["val"]
    weights = run / "weights" / "last.safetensors"
    about, tensors = export.load_weights(weights)
    save_file(tensors, weights, metadata={"fanlight": json.dumps({**about, "temperature": 0.5})})
    for options, crossed in (({}, True), ({"tta": 2}, False), ({"split": "train"}, False)):
        found = scoring.evaluate(run, **options)["calibration"]
        assert (found["temperature"], found["cross_fitted"]) == (0.5, crossed)
        assert found["ece_calibrated"] < found["ece"] or crossed  # every image is right, and should be told surer


def test_selective_accuracy(fanlight, finished):
    answer = fanlight("evaluate", finished, "--split", "train", "--unknown-below", 0.5, "--json")
    found = json.loads(answer.out)["selective"]
    assert found["below"] == 0.5 and found["covered"] == round(found["coverage"] * 48)
    assert answer.err.splitlines()[-1].startswith(f"{found['covered']} images (")
    assert "selective" not in scoring.evaluate(finished)


def test_best_weights(finished, own_place):
    run = own_place / "run"
    shutil.copytree(finished, run)
    shutil.copyfile(run / "weights" / "best.safetensors", run / "weights" / "last.safetensors")
    assert scoring.evaluate(finished, best=True) == scoring.evaluate(run)
    (run / "weights" / "last.safetensors").unlink()
    scoring.evaluate(run, best=True)
    with pytest.raises(RunError, match=r"last.safetensors does not exist: .* continue it with .* or use --best"):
        scoring.evaluate(run)


def test_other_images_with_the_same_classes(finished, own_place):
    data = tiny.make(own_place / "other", per_class=4, seed=7)
    (data / "red" / "broken.png").write_bytes(b"no image")
    scores = scoring.evaluate(finished, data=str(data))
    assert (scores["split"], scores["count"]) == ("test", 12)
    assert scores["correct"] >= 11


def test_other_images_of_some_classes_only(finished, own_place):
    """Labels keep the run's numbers: green and red are not 0 and 1."""
    data = tiny.make(own_place / "other", per_class=6)
    shutil.rmtree(data / "blue")
    scores = scoring.evaluate(finished, data=str(data))
    assert scores["correct"] >= 11
    assert {row["class"]: row["count"] for row in scores["per_class"]} == {"blue": 0, "green": 6, "red": 6}


def test_other_images_with_splits(finished, own_place):
    tiny.make(own_place / "other" / "train", per_class=4)
    tiny.make(own_place / "other" / "test", per_class=2, seed=2)
    data = str(own_place / "other")
    assert scoring.evaluate(finished, data=data)["count"] == 18  # all are new to the run
    assert scoring.evaluate(finished, data=data, split="test")["count"] == 6
    with pytest.raises(ConfigError, match=r"--split 'val' has no images; there is train, test"):
        scoring.evaluate(finished, data=data, split="val")


def test_an_unknown_class_is_refused_with_the_near_name(fanlight, finished, own_place):
    data = tiny.make(own_place / "other", classes=("blue", "gren", "red"))
    answer = fanlight("evaluate", finished, "--data", data)
    assert answer.code == 3
    assert answer.err == f"Error: {data}: class 'gren' is not one of the run's. Near names: green, red.\n"


def test_a_renamed_class_is_refused_on_ranks_as_well(quick_ranks, finished, own_place):
    data = tiny.make(own_place / "other", classes=("blue", "gren", "red"))
    with pytest.raises(DataError, match="class 'gren' is not one of the run's"):
        scoring.evaluate(finished, data=str(data), ranks=2)


CORES = machine.cores_usable()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--split", "tset"], 2, "--split 'tset' does not exist; use train, val, test"),
        (["--tta", 11], 2, "--tta 11: an image has 1 to 10 views; use --tta 10"),
        (["--unknown-below", 0], 2, "--unknown-below 0.0 should be a probability above 0 and below 1, such as 0.8"),
        (["--split", "test"], 2, "--split 'test' has no images; there is train, val"),
        (["--data", ""], 2, "--data is empty; name other images, or leave it out to score the run's own"),
        (["--ranks", 99999], 2, f"execution.ranks is 99999 on {CORES} usable cores; use --ranks {CORES}"),
        (["--ranks", 0], 2, "execution.ranks is 0; it must be above 0"),
        (["--ranks", -2], 2, "execution.ranks is -2; it must be above 0"),
        (["--device", "cuda"], 2, "execution.device is 'cuda', and torch sees no GPU here; use --device cpu"),
        (["--device", "gpu"], 2, "execution.device is 'gpu'; use cpu or cuda"),
    ],
)
def test_refusals(monkeypatch, fanlight, finished, words, code, message):
    monkeypatch.setattr(scoring.torch.cuda, "is_available", lambda: False)
    answer = fanlight("evaluate", finished, *words)
    assert (answer.code, answer.err) == (code, f"Error: {message}\n")


def test_changed_images_are_refused(own_place):
    data = tiny.make(own_place / "data")
    run = tiny.train(data, out=own_place / "run", epochs=1)
    (data / "red" / "05.png").write_bytes((data / "red" / "06.png").read_bytes())
    with pytest.raises(RunError, match=r"changed since .* began, first red/05.png"):
        scoring.evaluate(run)


def test_an_empty_folder_is_no_run(own_place):
    with pytest.raises(RunError, match="is not a run folder"):
        scoring.evaluate(own_place)
