"""Weights as a file that says what it is."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fanlight.errors import RunError
from fanlight.models import zoo
from fanlight.train import export, folder
from train import colours as tiny

TOLD = {"task": "classify", "classes": ["a", "b", "c"]}

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def test_weights_come_back_with_what_they_need(finished):
    about, tensors = export.load_weights(finished / "weights" / "last.safetensors")
    config = folder.read_config(finished)
    assert about == {
        "version": 2, "task": "classify", "model": "scratch-cnn", "classes": ["blue", "green", "red"], "image_px": 16,
        "canvas_px": config.data.canvas_px, "eval_share": 1.0, "mean": list(config.augment.mean),
        "std": list(config.augment.std), "flip": True, "temperature": tiny.summary(finished)["calibration"]["temperature"],
    }  # fmt: skip
    model = zoo.create("scratch-cnn", classes=3, image_px=16, seed=1).model
    assert tensors.keys() == model.state_dict().keys()
    model.load_state_dict(tensors)


def test_equal_weights_are_equal_files(finished, own_place):
    """The order of a safetensors file's metadata is left to chance: with one entry there is none."""
    model = zoo.create("scratch-cnn", classes=3, image_px=16, seed=1).model
    config = folder.read_config(finished)
    files = []
    for number in range(20):
        path = own_place / "weights" / f"{number}.safetensors"
        export.save_weights(model.state_dict(), path, config, TOLD)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    assert not list((own_place / "weights").glob("*.part"))


def test_the_file_holds_plain_contiguous_tensors(finished, own_place):
    model = zoo.create("small-resnet", classes=3, image_px=16, seed=1).model.to(memory_format=torch.channels_last)
    path = own_place / "weights" / "last.safetensors"
    export.save_weights(model.state_dict(), path, folder.read_config(finished), TOLD)
    loaded = load_file(path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["fanlight"])["classes"] == ["a", "b", "c"]


def test_refusals(own_place):
    with pytest.raises(
        RunError, match=r"none.safetensors does not exist: a run writes its last weights when it finishes"
    ):
        export.load_weights(own_place / "none.safetensors")
    (own_place / "text.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(RunError, match=r"text.safetensors holds no weights that Fanlight wrote \("):
        export.load_weights(own_place / "text.safetensors")
    save_file({"w": torch.zeros(1)}, own_place / "other.safetensors")
    with pytest.raises(RunError, match=r"other.safetensors holds no weights that Fanlight wrote \('fanlight'\)"):
        export.load_weights(own_place / "other.safetensors")
    with pytest.raises(RunError, match="put the file back, try with or without --best, or train again"):
        export.load_weights(own_place / "other.safetensors")
    save_file({"w": torch.zeros(1)}, own_place / "new.safetensors", metadata={"fanlight": '{"version": 3}'})
    with pytest.raises(RunError, match=r"new.safetensors has version 3; this Fanlight reads 2"):
        export.load_weights(own_place / "new.safetensors")
