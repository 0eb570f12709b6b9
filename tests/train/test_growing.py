"""Training images that grow over the epochs."""

import os

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from fanlight.config import Config
from fanlight.errors import Stopped
from fanlight.models import zoo
from fanlight.train import phases
from fanlight.train.optim import Optimizer
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

GROWING = {"model": "small-resnet", "image_size": 48, "image_size_start": 16, "epochs": 4}


def test_the_log_tells_the_side_and_rates_are_those_of_the_full_one(fanlight, colours, own_place):
    words = [*tiny.QUICK, *tiny.flags(GROWING), "--out", "run"]
    answer = fanlight("train", colours, *words)
    assert answer.code == 0, answer.err
    run = own_place / "run"
    assert [record["image_px"] for record in tiny.metrics(run, "train")] == [16, 16, 32, 48]
    assert [line.split("  ")[3].split(" |")[0] for line in answer.out.splitlines() if line.startswith("epoch ")] == [
        "16 px", "16 px", "32 px", "48 px",
    ]  # fmt: skip
    rows = pq.read_table(run / "steps-rank0.parquet").to_pylist()
    last = [row["total_s"] for row in rows if row["epoch"] == 3][5:]  # the first five warm up
    assert tiny.summary(run)["images_per_s"] == pytest.approx(len(last) * 8 / sum(last))
    assert tiny.resolved(run)["data"]["canvas_px"] >= 48
    assert "image_px" not in tiny.metrics(tiny.train(colours, epochs=1), "train")[0]


def test_a_resumed_run_is_the_same_bits(monkeypatch, colours, own_place):
    growing = GROWING | {"image_size": 32}
    whole = tiny.train(colours, out=own_place / "whole", **growing)
    inner, calls = Optimizer.ready, []

    def ready(self):
        calls.append(0)
        if len(calls) == 14:
            os.kill(os.getpid(), 15)
        return inner(self)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "ready", ready)
        with pytest.raises(Stopped):
            tiny.train(colours, out=own_place / "run", **growing)
    assert tiny.weights(tiny.train(colours, resume=own_place / "run")) == tiny.weights(whole)


def test_frozen_epochs_and_growing_ones_end_where_the_later_does():
    both = {"train.epochs": 10, "data.image_px_start": 16, "optim.unfrozen_lr_scale": 0.1}
    for frozen, first in (0, 7), (3, 7), (9, 9):
        assert phases.last_kind(Config().with_values(both | {"model.freeze_epochs": frozen})) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--image-size", 32, "--image-size-start", 32],
            "data.image_px_start is 32 and data.image_px 32; sides grow, so",
        ),
        (["--image-size-start", 0], "data.image_px_start is 0; it must be above 0"),
        (
            ["--model", "vit_tiny_patch16_224", "--image-size", 64, "--image-size-start", 32],
            "vit_tiny_patch16_224, made for 64 px, takes no images of 32 px (",
        ),
        (["--image-size", 32, "--image-size-start", 16], "scratch-cnn, made for 32 px, takes no images of 16 px ("),
        (
            ["--cache-features", "--freeze", "--no-augment", "--image-size-start", 8],
            "leave --image-size-start out, or give",
        ),
    ],
)
def test_what_cannot_be(fanlight, colours, words, message):
    answer = fanlight("train", colours, *tiny.QUICK, *words, "--out", "run")
    assert answer.code == 2 and message in answer.err


def test_features_are_not_cached_where_images_grow(colours, own_place):
    save_file(
        zoo.create("small-resnet", classes=3, image_px=16, seed=5).model.state_dict(), own_place / "w.safetensors"
    )
    options = GROWING | {"freeze": True, "no_augment": True, "weights": str(own_place / "w.safetensors")}
    run = tiny.train(colours, out=own_place / "run", **options)
    assert tiny.resolved(run)["reasons"]["execution.cache_features"] == "images grow over the epochs"


def test_a_single_epoch_does_not_grow_and_says_so(fanlight, colours):
    words = ["train", colours, *tiny.QUICK, "--image-size", 16, "--image-size-start", 8, "--dry-run", "--out", "run"]
    answer = fanlight(*words, "--epochs", 1)
    assert answer.code == 0 and "--image-size-start 8 with a single epoch. The last epoch is always at" in answer.err
