"""The last layer first, then everything: what trains when, at which learning rate, stopped and resumed anywhere."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from fanlight.config import Config
from fanlight.errors import Stopped
from fanlight.models import zoo
from fanlight.train import phases, state
from fanlight.train.journal import Journal
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

STEPS = 6  # of an epoch


@pytest.fixture(scope="session")
def options(tmp_path_factory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_file(zoo.create("small-resnet", classes=3, image_px=16, seed=5).model.state_dict(), path)
    return {
        "model": "small-resnet", "weights": str(path), "freeze_epochs": 2, "epochs": 4, "lr": 0.01,
        "execution__checkpoint_steps": 5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache_folder, colours, options) -> dict[bool, Path]:
    """By whether augmentation is off, and features thus are cached, a run."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        return {off: tiny.train(colours, out=place / str(off), **options, no_augment=off) for off in (True, False)}


def ask_to_stop() -> None:
    os.kill(os.getpid(), 15)


def stopped(colours: Path, out: Path | None = None, *, step: int, **options) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny.before_update(patch, step, ask_to_stop)
        with pytest.raises(Stopped):
            tiny.train(colours, out=out, **options)


def saved(run: Path) -> dict[str, Any]:
    return state.load(state.whole(run / "checkpoints")[-1])[0]


def test_phases_are_the_epochs():
    config = Config().with_values({"train.epochs": 5})
    assert phases.of(config) == (phases.Phase(0, 5, False),)
    assert phases.of(config.with_value("model.freeze", True)) == (phases.Phase(0, 5, True),)
    two = config.with_values({"model.freeze_epochs": 2, "optim.unfrozen_lr_scale": 0.25})
    assert phases.of(two) == (phases.Phase(0, 2, True), phases.Phase(2, 5, False, 0.25))
    assert [phases.at(two, epoch).first for epoch in range(7)] == [0, 0, 2, 2, 2, 2, 2]
    assert (phases.last_kind(config), phases.last_kind(two)) == (0, 2)


@pytest.mark.parametrize("off", [True, False])
def test_what_trains_when(colours, options, own_place, off):
    """The weights after the first phase, and after the first step of the second."""
    run = own_place / "run"
    stopped(colours, run, step=2 * STEPS, **options, no_augment=off)
    start, first = load_file(options["weights"]), saved(run)
    moved = {name for name, value in start.items() if not value.equal(first[f"model.{name}"])}
    assert moved == {"fc.weight", "fc.bias"}
    kinds = ("step", "exp_avg", "exp_avg_sq")
    moments = {f"optim.fc.{name}.{kind}" for name in ("weight", "bias") for kind in kinds}
    assert {key for key in first if key.startswith("optim.")} == moments
    stopped(colours, step=1, resume=run)
    second = saved(run)
    for name in ("conv1.weight", "bn1.running_mean", "layer3.1.bn2.weight", "fc.weight"):
        assert not second[f"model.{name}"].equal(first[f"model.{name}"]), name
    assert float(second["optim.fc.weight.step"]) == 2 * STEPS + 1, "its moments are kept"
    assert float(second["optim.conv1.weight.step"]) == 1


def test_learning_rates_are_those_of_two_schedules(runs):
    assert tiny.resolved(runs[True])["optim"]["unfrozen_lr_scale"] == 0.1
    assert "last layer" in tiny.resolved(runs[True])["reasons"]["optim.unfrozen_lr_scale"]
    rates = [record["lr"] for record in tiny.metrics(runs[True], "train")]
    assert rates[2:] == pytest.approx([0.1 * rate for rate in rates[:2]])


def test_features_are_cached_where_nothing_is_random(runs):
    assert [tiny.resolved(runs[off])["execution"]["cache_features"] for off in (True, False)] == [True, False]
    for run in runs.values():
        losses = [record["loss"] for record in tiny.metrics(run, "train")]
        assert losses[-1] < 0.8 * losses[0]
        assert tiny.summary(run)["metrics"]["val"]["accuracy"] > 0.9


def test_rates_are_those_of_the_whole_network(runs):
    rows = [row for row in pq.read_table(runs[True] / "steps-rank0.parquet").to_pylist() if row["epoch"] >= 3]
    assert len(rows) == STEPS
    rate = STEPS * 8 / sum(row["total_s"] for row in rows)
    assert tiny.summary(runs[True])["images_per_s"] == pytest.approx(rate)


def test_the_best_weights_are_those_that_were_scored(runs, fanlight):
    for run in runs.values():
        answer = fanlight("evaluate", run, "--best", "--json")
        assert json.loads(answer.out)["accuracy"] == tiny.summary(run)["best"]["accuracy"]


@pytest.mark.parametrize(
    ("step", "off"),
    [
        *((3, True), (12, True), (13, True), (11, False), (20, False)),
        *(pytest.param(step, True, marks=pytest.mark.slow) for step in (11, 20)),
        *(pytest.param(step, False, marks=pytest.mark.slow) for step in (3, 12, 13)),
    ],
)
def test_stopped_anywhere_it_goes_on_with_the_same_bits(runs, colours, options, own_place, step, off):
    run = own_place / "run"
    stopped(colours, run, step=step, **options, no_augment=off)
    tiny.train(colours, resume=run)
    assert tiny.weights(run) == tiny.weights(runs[off])
    records = [[(r["kind"], r["step"], r["loss"]) for r in tiny.metrics(each)] for each in (run, runs[off])]
    assert records[0] == records[1]
    best = [(each / "weights" / "best.safetensors").read_bytes() for each in (run, runs[off])]
    assert best[0] == best[1]


def test_best_weights_of_the_first_phase_hold_the_network_of_that_time(monkeypatch, colours, options, own_place):
    inner = Journal.evaluate

    def worse_and_worse(self, t, split, *, epoch, step):
        return {**inner(self, t, split, epoch=epoch, step=step), "accuracy": 1.0 / (1 + epoch)}

    monkeypatch.setattr(Journal, "evaluate", worse_and_worse)
    given = options | {"execution__checkpoint_steps": 1000}
    run = tiny.train(colours, out=own_place / "run", **given, no_augment=True)
    assert tiny.summary(run)["best"]["epoch"] == 1
    best, start = load_file(run / "weights" / "best.safetensors"), load_file(options["weights"])
    assert {name for name in start if not best[name].equal(start[name])} == {"fc.weight", "fc.bias"}


def test_patience_begins_with_the_second_phase(monkeypatch, colours, options, own_place):
    inner = Journal.evaluate

    def never_better(self, t, split, *, epoch, step):
        return {**inner(self, t, split, epoch=epoch, step=step), "accuracy": 0.5}

    monkeypatch.setattr(Journal, "evaluate", never_better)
    run = tiny.train(colours, out=own_place / "run", **options | {"epochs": 6, "patience": 1})
    assert [record["epoch"] for record in tiny.metrics(run, "train")] == [1, 2, 3]
    assert tiny.summary(run)["best"]["epoch"] == 1


def test_two_ranks(quick_ranks, runs, colours, options, own_place):
    run = tiny.train(colours, out=own_place / "run", **options, no_augment=True, ranks=2)
    for one, other in zip(tiny.metrics(run), tiny.metrics(runs[True]), strict=True):
        assert (one["kind"], one["step"]) == (other["kind"], other["step"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)  # rounding, through 24 steps of Adam


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--freeze-epochs", 2],
            "model.freeze_epochs is 2 of 2 epochs, which leaves none for the whole network; use --fr",
        ),
        (["--freeze-epochs", 1, "--freeze"], "use --freeze, or --freeze-epochs and --no-freeze"),
        (["--freeze-epochs", -1], "model.freeze_epochs is -1; it must be 0 or more"),
        (
            ["--freeze-epochs", 1, "--set", "optim.unfrozen_lr_scale=0"],
            "optim.unfrozen_lr_scale is 0.0; it must be above 0",
        ),
    ],
)
def test_what_cannot_be(fanlight, colours, options, words, message):
    words = ["--model", "small-resnet", "--weights", options["weights"], *words]
    answer = fanlight("train", colours, *tiny.QUICK, *words)
    assert answer.code == 2 and message in answer.err


def test_random_weights_are_not_frozen(fanlight, colours):
    answer = fanlight("train", colours, *tiny.QUICK, "--freeze-epochs", 1)
    assert answer.code == 2 and "model.freeze_epochs would keep random weights" in answer.err
