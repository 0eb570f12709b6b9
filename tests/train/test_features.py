"""Runs that train the last layer on features computed once: the same run as one that computes them at every look."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from fanlight import machine
from fanlight.data import cache
from fanlight.errors import ConfigError, DiskError, Stopped
from fanlight.models import zoo
from fanlight.train import build, features, scoring, tune
from fanlight.train.optim import Optimizer
from fanlight.train.timelimit import Deadline
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

FROZEN = {"model": "small-resnet", "freeze": True, "augment__off": True, "epochs": 4, "lr": 0.05}
SEED = 7  # of the weights that are frozen
# Batches of training are not those in which features were computed, and sums round by their number of rows.
LOSS_RTOL, LOGITS_ATOL = 1e-5, 1e-5  # worst measured 8e-8 and 5e-7


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Callable[[str], str]:
    """weights(name): a file of the network's weights."""
    place = tmp_path_factory.mktemp("weights")

    def of(name: str) -> str:
        if not (place / f"{name}.safetensors").exists():
            save_file(
                zoo.create(name, classes=3, image_px=16, seed=SEED).model.state_dict(), place / f"{name}.safetensors"
            )
        return str(place / f"{name}.safetensors")

    return of


@pytest.fixture
def frozen(weights) -> dict[str, Any]:
    return FROZEN | {"weights": weights("small-resnet")}


@pytest.fixture
def little(weights) -> dict[str, Any]:
    return {"freeze": True, "epochs": 1, "weights": weights("scratch-cnn")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache_folder, colours, weights) -> dict[bool, Path]:
    """By whether features are cached, a run."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        options = FROZEN | {"weights": weights("small-resnet"), "execution__checkpoint_steps": 5}
        made = {True: tiny.train(colours, out=place / "cached", **options)}
        return made | {False: tiny.train(colours, out=place / "plain", **options, cache_features=False)}


def test_it_is_the_run_that_computes_them_at_every_look(runs):
    records = [tiny.metrics(run) for run in (runs[True], runs[False])]
    assert len(records[0]) == 8
    for one, other in zip(*records, strict=True):
        assert (one["kind"], one["step"], one["accuracy"]) == (other["kind"], other["step"], other["accuracy"])
        assert one["loss"] == pytest.approx(other["loss"], rel=LOSS_RTOL)
    assert records[0][0]["loss"] > 1.1 * records[0][-2]["loss"], "it learns"
    tables = [pq.read_table(run / "predictions.parquet") for run in (runs[True], runs[False])]
    assert tables[0]["predicted"].equals(tables[1]["predicted"])
    logits = [np.array(table["logits"].to_pylist()) for table in tables]
    assert np.abs(logits[0] - logits[1]).max() < LOGITS_ATOL
    assert np.ptp(logits[0]) > 0.1
    assert len(pq.read_table(runs[True] / "steps-rank0.parquet")) == tiny.summary(runs[True])["steps"] == 24


@pytest.mark.parametrize("best", [False, True])
def test_evaluation_of_images_gives_the_scores_of_features(runs, best):
    summary = tiny.summary(runs[True])
    scores = scoring.evaluate(runs[True], split="val", best=best)
    expected = summary["best"]["accuracy"] if best else summary["metrics"]["val"]["accuracy"]
    assert scores["accuracy"] == expected
    if not best:
        assert scores["loss"] == pytest.approx(summary["metrics"]["val"]["loss"], rel=LOSS_RTOL)


def test_weights_are_the_whole_network(runs):
    fresh = zoo.create("small-resnet", classes=3, image_px=16, seed=SEED).model.state_dict()
    for name in ("last", "best"):
        kept = load_file(runs[True] / "weights" / f"{name}.safetensors")
        assert kept.keys() == fresh.keys()
        same = {key for key, value in kept.items() if value.equal(fresh[key])}
        assert fresh.keys() - same == {"fc.weight", "fc.bias"}


def test_the_choice_is_told_with_its_reason(runs, little, colours, own_place):
    assert tiny.resolved(runs[True])["reasons"]["execution.cache_features"].startswith("only the last layer trains")
    run = tiny.train(colours, out=own_place / "run", **little)
    assert tiny.resolved(run)["execution"]["cache_features"] is False
    assert "Hint: with --no-augment" in tiny.resolved(run)["reasons"]["execution.cache_features"]
    run = tiny.train(colours, out=own_place / "all", epochs=1)
    assert "execution.cache_features" not in tiny.resolved(run)["reasons"]


def test_features_that_fill_the_disk_are_not_kept(monkeypatch, little, colours, own_place):
    """A captioner's are a grid of each image: of a large set more than a disk has."""
    monkeypatch.setattr(machine, "disk_free", lambda folder: 100)
    run = tiny.train(colours, out=own_place / "run", **little, augment__off=True, pack=False)
    assert tiny.resolved(run)["execution"]["cache_features"] is False
    said = tiny.resolved(run)["reasons"]["execution.cache_features"]
    assert said.startswith("features of all images take ") and said.endswith(
        f"{cache.folder() / 'features'} has 100 bytes left"
    )


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no room")
def test_room_for_features_is_reserved_before_they_are_computed(monkeypatch, frozen, colours, own_place):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match=r"features: No space left on device; make room, .* or use --no-cache-features"):
        tiny.train(colours, out=own_place / "run", **frozen, pack=False)
    assert list((own_place / "cache" / "features").iterdir()) == []


def test_a_network_whose_last_layer_is_not_the_end_is_asked_at_every_look(
    monkeypatch, fanlight, little, colours, own_place
):
    def refuse(*_):
        raise ConfigError("Net computes more after its last layer")

    monkeypatch.setattr("fanlight.models.tail.check", refuse)
    run = tiny.train(colours, out=own_place / "run", **little, augment__off=True)
    assert tiny.resolved(run)["execution"]["cache_features"] is False
    assert tiny.resolved(run)["reasons"]["execution.cache_features"] == "Net computes more after its last layer"
    words = [*tiny.QUICK, *tiny.flags(little), "--no-augment", "--cache-features", "--out", "other"]
    answer = fanlight("train", colours, *words)
    assert answer.code == 2 and "Net computes more after its last layer; use --no-cache-features" in answer.err
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["--cache-features"], "give --freeze and --no-augment, or --no-cache-features"),
        (["--cache-features", "--freeze"], "give --no-augment, or"),
        (["--cache-features", "--no-augment"], "give --freeze, or"),
    ],
)
def test_what_is_not_the_same_at_every_look_cannot_be_kept(fanlight, colours, words, way):
    answer = fanlight("train", colours, *tiny.QUICK, *words)
    assert answer.code == 2 and "execution.cache_features is true" in answer.err and way in answer.err


def test_flags_and_cache(fanlight, little, colours, own_place, monkeypatch):
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    words = ["train", colours, *tiny.QUICK, *tiny.flags(little), "--no-augment"]
    answer = fanlight(*words, "--out", "one")
    assert answer.code == 0 and "Features of 60 images computed in " in answer.out
    entries = json.loads(fanlight("cache", "list", "--json").out)["entries"]
    (kept,) = (entry for entry in entries if entry["kind"] == "features")
    assert kept["text"] == "60 images at 16 px, as the frozen scratch-cnn sees them"
    assert 60 * 128 * 4 < kept["bytes"] < 60 * 128 * 4 + 2000
    again = fanlight(*words, "--out", "two", "--seed", 0, "--val-fraction", 0.4)  # the same images and weights
    assert again.code == 0 and "Features of" not in again.out
    other = fanlight(*words, "--out", "three", "--set", "augment.eval_share=0.75")
    assert other.code == 0 and "Features of" in other.out
    plain = fanlight(*words, "--out", "four", "--no-cache-features", "--set", "augment.eval_share=0.5")
    assert plain.code == 0 and "Features of" not in plain.out
    assert len(list((own_place / "cache" / "features").iterdir())) == 2
    assert fanlight("cache", "clear").code == 0
    assert not (own_place / "cache" / "features").exists()


def test_a_disk_that_takes_no_features_is_named(monkeypatch, frozen, colours, own_place):
    inner = np.lib.format.open_memmap

    def refuse(path, mode="r+", *args, **more):
        if mode == "w+":
            raise PermissionError(13, "Permission denied")
        return inner(path, mode, *args, **more)

    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(DiskError, match=r"features: Permission denied; make room, .* or use --no-cache-features"):
        tiny.train(colours, out=own_place / "run", **frozen)
    assert list((own_place / "cache" / "features").iterdir()) == []


def stopped(colours: Path, out: Path, *, step: int, **options) -> Path:
    inner, calls = Optimizer.ready, []

    def ready(self):
        calls.append(0)
        if len(calls) == step:
            os.kill(os.getpid(), 15)
        return inner(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "ready", ready)
        with pytest.raises(Stopped):
            tiny.train(colours, out=out, **options)
    return out


@pytest.mark.parametrize("step", [3, 12])
def test_a_resumed_run_is_the_same_bits(runs, frozen, colours, own_place, step):
    run = stopped(colours, own_place / "run", step=step, **frozen)
    tiny.train(colours, resume=run)
    for name in ("last", "best"):
        assert (run / "weights" / f"{name}.safetensors").read_bytes() == (
            runs[True] / "weights" / f"{name}.safetensors"
        ).read_bytes()


def test_a_run_with_no_time_left_is_finished(monkeypatch, frozen, colours, own_place):
    monkeypatch.setattr(tune, "measure", lambda *_, **__: tune.Measured())  # whose steps `stopped` would count
    run = stopped(colours, own_place / "run", step=3, **frozen, train__time_limit_s=10**12)
    monkeypatch.setattr(Deadline, "is_over", lambda self: True)
    tiny.train(colours, resume=run)
    assert (tiny.summary(run)["status"], tiny.summary(run)["steps"]) == ("finished", 3)


def test_a_cleared_cache_changes_nothing(monkeypatch, runs, frozen, colours, own_place):
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    run = stopped(colours, own_place / "run", step=7, **frozen)
    shutil.rmtree(own_place / "cache" / "features")
    tiny.train(colours, resume=run)
    assert tiny.weights(run) == tiny.weights(runs[True])


def test_two_ranks_train_as_one(quick_ranks, runs, frozen, colours, own_place):
    run = tiny.train(colours, out=own_place / "run", **frozen, ranks=2)
    for one, other in zip(tiny.metrics(run), tiny.metrics(runs[True]), strict=True):
        assert (one["kind"], one["step"], one["accuracy"]) == (other["kind"], other["step"], other["accuracy"])
        assert one["loss"] == pytest.approx(other["loss"], rel=LOSS_RTOL)


def test_what_is_seen_decides_the_key(runs):
    config, manifest = build_config(runs[True])
    rows = manifest.rows()
    model = build.create_model(config, manifest).model

    def about(config=config, rows=rows, device="cpu") -> str:
        return json.dumps(features._about(model, rows, config=config, manifest=manifest, device=device))

    first = about()
    assert first == about()
    others = {
        "augment.eval_share": 0.5,
        "data.image_px": 24,
        "train.precision": "bf16",
        "augment.mean": [0.5, 0.5, 0.5],
    }
    told = {first, about(rows=rows[1:]), about(device="cuda")} | {
        about(config.with_value(*item)) for item in others.items()
    }
    assert len(told) == 3 + len(others)
    assert about(config.with_value("optim.lr", 3.0)) == first
    model.fc.weight.data += 1  # the last layer is no part of what it sees
    assert about() == first
    model.bn1.running_mean[0] += 1
    assert about() != first


def build_config(run: Path):
    from fanlight.train import folder

    return folder.read_config(run), folder.read_manifest(run)
