"""One command trains on every format, as it is downloaded; captions are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data import layouts
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def zipped(root: Path) -> Path:
    root.mkdir()
    return layouts.zipped(root / "photos.zip", layouts.class_files(prefix="photos/", count=8))


def tarred(root: Path) -> Path:
    root.mkdir()
    return layouts.tarred(root / "photos.tar.gz", layouts.class_files(prefix="photos/", count=8), mode="w:gz")


FORMATS = (
    zipped, tarred, layouts.cifar10_python_tar, layouts.cifar10_binary, layouts.mnist, layouts.web_dataset, layouts.hub_folder,
    layouts.hub_parquet, layouts.kaggle_csv, layouts.asl_alphabet,
)  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_one_command_trains(fanlight: Callable, own_place: Path, write: Callable[[Path], Path]) -> None:
    data = write(own_place / "set")
    answer = fanlight("train", data, *tiny.QUICK, "--epochs", 1, "--image-size", 16, "--out", "run", "--json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert summary["metrics"]["val"]["count"] > 0
    assert len(tiny.summary(own_place / "run")["data"]["classes"]) == 3


def test_an_archive_is_trained_evaluated_and_predicted_in_place(fanlight: Callable, own_place: Path) -> None:
    data = zipped(own_place / "set")
    folder = own_place / "unpacked"
    layouts.write(folder, layouts.class_files(count=8))
    runs = [tiny.train(each, out=own_place / f"run-{each.name}", epochs=2) for each in (data, folder)]
    assert tiny.weights(runs[0])[-1000:] == tiny.weights(runs[1])[-1000:], "the same run, read from elsewhere"
    words = ["predict", runs[0], data / "photos/red", data, "--json"]
    found = json.loads(fanlight(*words).out)["predictions"]
    assert len(found) == 24 and all("label" in each for each in found)
    assert found[0]["path"] == f"{data}/photos/red/0.jpg"
    assert json.loads(fanlight("evaluate", runs[1], "--data", data, "--json").out)["count"] > 0
    assert fanlight("evaluate", runs[0]).code == 0
    layouts.zipped(data, layouts.class_files(prefix="photos/", count=7))
    answer = fanlight("evaluate", runs[0])
    assert answer.code == 1 and "3 file(s) of" in answer.err and "changed since" in answer.err


@pytest.mark.parametrize("write", [layouts.flickr8k, layouts.coco], ids=lambda write: write.__name__)
def test_captions_are_trained(fanlight: Callable, own_place: Path, write: Callable[[Path], Path]) -> None:
    options = tiny.flags(tiny.OPTIONS | {"model": "small-cnn+lstm16", "batch_size": 2, "image_size": 16})
    answer = fanlight("train", write(own_place / "set"), *options, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["task"] == "caption" and found["metrics"]["val"]["words"] > 0
