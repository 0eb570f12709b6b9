"""Every shipped recipe, from the command to the last metric, on a miniature in the folder layout of its own data set.

What is made smaller is made so by flags: image size, epochs, limit. Weights for frozen networks are random ones in a
file, of another number of classes, so that the last layer is replaced.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fanlight import config, recipes
from fanlight.models import zoo
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

WEATHER = (
    "dew", "fogsmog", "frost", "glaze", "hail", "lightning", "rain", "rainbow", "rime", "sandstorm", "snow"
)  # fmt: skip
SIGNS = (*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "del", "nothing", "space")
TILES = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")
QUICK = ["--epochs", 1, "--precision", "fp32", "--threads", 1, "--no-report", "--out", "run"]
OTHER_CLASSES = 7


def fill(folder: Path, number: int, *, count: int, px: int, stem: str) -> None:
    """JPEG files, as the sets have, of one colour per class and noise."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(number)
    for index in range(count):
        pixels = draws.integers(0, 60, (px, px, 3), np.uint8)
        pixels += np.array([number * 37 % 190, number * 71 % 190, number * 113 % 190], np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}{index + 1}.jpg")


def weather(root: Path) -> Path:
    """Weather Image Recognition: dataset/dew/2208.jpg."""
    for number, name in enumerate(WEATHER):
        fill(root / "dataset" / name, number, count=3, px=120, stem=str(number))
    return root / "dataset"


def signs(root: Path) -> Path:
    """ASL Alphabet: asl_alphabet_train/asl_alphabet_train/A/A1.jpg; its flat folder of test images lies beside."""
    train = root / "asl_alphabet_train"
    for number, name in enumerate(SIGNS):
        fill(train / "asl_alphabet_train" / name, number, count=3, px=50, stem=name)
    fill(root / "asl_alphabet_test" / "asl_alphabet_test", 0, count=1, px=50, stem="A_test")
    return train


def tiles(root: Path) -> Path:
    """LC25000: lung_colon_image_set/lung_image_sets/lung_aca/lungaca1.jpeg."""
    for number, name in enumerate(TILES):
        part = name.partition("_")[0]
        fill(root / "lung_colon_image_set" / f"{part}_image_sets" / name, number, count=5, px=40, stem=name)
    return root / "lung_colon_image_set"


def photos(root: Path) -> Path:
    for number, name in enumerate(("cloudy", "rain", "shine")):
        fill(root / "photos" / name, number, count=8, px=40, stem=name)
    return root / "photos"


# recipe -> its data, their classes, and the flags that make it small
RECIPES = {
    "weather-lenet": (weather, WEATHER, ["--image-size", 104]),
    "sign-resnet50-frozen": (signs, SIGNS, ["--image-size", 32, "--limit", 58]),
    "sign-inception-v3": (signs, SIGNS, ["--image-size", 75, "--limit", 58]),
    "sign-alexnet": (signs, SIGNS, ["--image-size", 63, "--limit", 58]),
    "sign-vgg19": (signs, SIGNS, ["--image-size", 32, "--limit", 58]),
    "sign-googlenet": (signs, SIGNS, ["--image-size", 32, "--limit", 58]),
    "lung-colon-resnet50": (tiles, TILES, ["--image-size", 32]),
    "lung-colon-resnet18": (tiles, TILES, ["--image-size", 32]),
    "photos-small": (photos, ("cloudy", "rain", "shine"), ["--image-size", 32, "--batch-size", 8]),
    "fast": (photos, ("cloudy", "rain", "shine"), ["--image-size", 32]),
    "cifar10-fast": (photos, ("cloudy", "rain", "shine"), ["--image-size", 32]),
    "fine-tune": (photos, ("cloudy", "rain", "shine"), ["--image-size", 32, "--batch-size", 8]),
    "from-scratch": (
        photos,
        ("cloudy", "rain", "shine"),
        ["--image-size", 32, "--image-size-start", 16, "--batch-size", 8],
    ),
}


def test_every_shipped_recipe_has_a_miniature():
    assert RECIPES.keys() == set(recipes.names())


# Large networks, trained as their smaller kin are; VGG19 writes 560 MB four times.
SLOW = ("sign-vgg19", "sign-inception-v3", "sign-alexnet", "lung-colon-resnet50")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECIPES]
)
def test_a_recipe_trains_from_the_command_to_the_last_metric(fanlight, own_place, name):
    make, classes, words = RECIPES[name]
    data, asked = make(own_place / "data"), config.read(recipes.find(name))
    image_px = words[words.index("--image-size") + 1]
    given = {}
    if asked.model.pretrained:
        network = zoo.create(asked.model.name, classes=OTHER_CLASSES, image_px=image_px, seed=3).model
        given = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(given, own_place / "other.safetensors")
        words = [*words, "--weights", "other.safetensors"]
    answer = fanlight("train", data, "--recipe", name, *words, *QUICK, "--pack-dir", "packs")
    assert answer.code == 0, answer.err
    run = own_place / "run"
    summary, resolved = tiny.summary(run), tiny.resolved(run)
    assert (summary["status"], summary["epochs"], resolved["data"]["image_px"]) == ("finished", 1, image_px)
    assert summary["model"] == resolved["model"]["name"] == asked.model.name
    assert summary["data"]["classes"] == list(classes)
    splits = summary["data"]["splits"]
    assert set(splits) == {"train", "val"} and summary["metrics"]["val"]["count"] == splits["val"]
    assert len(pq.read_table(run / "predictions.parquet")) == splits["val"]
    if given:
        check_start(run, given, head=zoo.head(network), frozen=asked.model.freeze, notes=summary["notes"])
    shutil.rmtree(run)  # of VGG19, two gigabytes
    (own_place / "other.safetensors").unlink(missing_ok=True)


def check_start(run: Path, given: dict[str, torch.Tensor], *, head: str, frozen: bool, notes: list[str]) -> None:
    """The last layer is new, and the others are those of the file: as they were where they are frozen."""
    left_out = f"other.safetensors has a last layer of {OTHER_CLASSES} classes: left out, {head} starts from the seed"
    assert left_out in notes
    trained = load_file(run / "weights" / "last.safetensors")
    assert trained.keys() == given.keys()
    assert len(trained[f"{head}.weight"]) != OTHER_CLASSES
    before = {key: value for key, value in given.items() if key.rpartition(".")[0] != head}
    same = [torch.equal(value, trained[key]) for key, value in before.items()]
    assert all(same) if frozen else not all(same)


def test_a_frozen_recipe_without_any_weights_is_refused(monkeypatch, fanlight, own_place):
    monkeypatch.setattr(zoo, "_published", lambda *_, **__: "no network")
    answer = fanlight("train", signs(own_place), "--recipe", "sign-alexnet", "--limit", 58, *QUICK)
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == (
        "Error: model.freeze would keep random weights: alexnet starts from random weights, its published ones could not "
        "be had: no network; give --weights FILE, or --no-freeze"
    )
    assert not (own_place / "run").exists()
