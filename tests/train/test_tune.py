"""Choices that are measured, in whole runs and with fake measurements: only what was left open changes."""

from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from fanlight.config import Config
from fanlight.errors import ConfigError, FanlightError
from fanlight.models import zoo
from fanlight.train import autotune, candidates, checks, probe, resolve, timelimit, tune
from fanlight.train.probe import Timed
from train import colours as tiny
from train.test_resolve import manifest

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

CPU = {"execution.device": "cpu", "data.image_px": 96, "execution.pack": False, "execution.autotune": True}


class FakeBench:
    """A machine by its config: seconds of a step, and what was built."""

    built: ClassVar[list[Config]] = []
    step_s = staticmethod(lambda config, number_format, threads: 0.1)
    fits = 10**9

    def __init__(self, config, *, classes, world=None):
        self.config, self.rows = config, config.train.batch_size
        FakeBench.built.append(config)

    def step(self, *, number_format=None, threads=None):
        return FakeBench.step_s(
            self.config, number_format or self.config.train.precision, threads or self.config.execution.threads
        )

    def cut(self, batch):
        self.rows = batch

    def measure(self, *, batch=None, warmup=0, steps=3):
        self.rows = batch or self.rows
        if self.rows // self.config.train.microbatches > FakeBench.fits:
            return Timed(error="out of memory")
        return Timed((0.01 + self.step() * self.rows / 32,) * 3, 10**9, 10**9)


class FakePool:
    def __init__(self, ranks, **_):
        pass

    def __enter__(self):
        return self

    is_closed = False

    def __exit__(self, *_):
        self.is_closed = True


class FakeRankBench(FakeBench):
    def __init__(self, pool, config, *, classes):
        super().__init__(config, classes=classes)
        self.pool = pool

    def step(self, **options):
        if self.pool.is_closed:
            raise FanlightError("this pool of ranks was closed; open a new one")
        return super().step(**options)


@pytest.fixture
def fake(monkeypatch):
    """fake(step_s): machines that are measured; `step_s(config, number_format, threads)`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(resolve.precision, "fastest", lambda device: ("bf16", "a convolution said so"))
    monkeypatch.setattr(candidates.precision, "cpu_gain", lambda: 1.0)
    monkeypatch.setattr(resolve.machine, "cores_usable", lambda: 4)
    monkeypatch.setattr(candidates.psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    for module in (tune, candidates):
        monkeypatch.setattr(module, "Bench", FakeBench)
        monkeypatch.setattr(module, "RankBench", FakeRankBench)
        monkeypatch.setattr(module, "Pool", FakePool)
    monkeypatch.setattr(FakeBench, "built", [])

    def set_up(step_s, *, fits=10**9):
        monkeypatch.setattr(FakeBench, "step_s", staticmethod(step_s))
        monkeypatch.setattr(FakeBench, "fits", fits)

    return set_up


def decide(values=None, *, count=400, place=None, entered=None):
    """Choices by rule, then by measurement."""
    config = Config().with_values({**CPU, **(values or {})})
    checks.check(config)
    choices, described = resolve.Choices(config), manifest(count=count)
    resolve.order(choices, None)
    resolve.sizes(choices, described)
    resolve.whole(choices, described)
    now = timelimit.time.time() if entered is None else entered
    return choices, tune.measure(choices, described, place=place or tune.Place(), entered=now)


def by_format(config, number_format, threads):
    return 0.1 * {"fp32": 1.0, "bf16": 0.5}[number_format]


def test_the_whole_models_measurement_beats_the_rule(fake):
    fake(lambda config, number_format, threads: 0.1 * {"fp32": 1.0, "bf16": 0.9}[number_format])
    choices, measured = decide()
    assert choices.config.train.precision == "fp32"  # 1.11× is too little for what a short format costs
    assert "bf16 1.11× of fp32 (n = 15" in choices.reasons["train.precision"]
    fake(by_format)
    choices, measured = decide()
    assert choices.config.train.precision == "bf16"
    keys = {gain["key"] for gain in measured.autotune["gains"]}
    assert keys >= {"train.precision", "execution.channels_last", "execution.threads", "execution.ranks"}
    assert measured.autotune["budget_s"] >= autotune.BUDGET_S


def test_what_was_asked_for_is_not_measured(fake):
    fake(by_format)
    asked = {
        "train.precision": "fp32", "execution.channels_last": True, "execution.threads": 3, "execution.compile": False,
    }  # fmt: skip
    choices, measured = decide(asked)
    assert choices.config.train.precision == "fp32" and choices.config.execution.threads == 3
    assert measured.autotune["gains"] == [] and measured.autotune["left_out"] == []


def test_a_memory_format_that_is_slower_is_left(fake):
    fake(lambda config, number_format, threads: 0.2 if config.execution.channels_last else 0.1)
    choices, _ = decide()
    assert choices.config.execution.channels_last is False
    assert "contiguous 2.00× of channels last" in choices.reasons["execution.channels_last"]


def test_fewer_threads_where_they_are_faster(fake):
    fake(lambda config, number_format, threads: 0.1 * threads)
    assert decide({"execution.ranks": 1})[0].config.execution.threads == 2


def test_ranks_only_where_they_are_measurably_better(fake):
    def fast_ranks(config, number_format, threads):
        return {1: 1.0, 4: 0.5}[config.execution.ranks]

    fake(fast_ranks)
    choices, _ = decide({"train.epochs": 40})
    e = choices.config.execution
    assert (e.layout, e.ranks, e.threads) == ("ddp", 4, 1)
    assert "4 ranks of 1 thread 2.00× of one process" in choices.reasons["execution.layout"]
    fake(lambda config, number_format, threads: {1: 1.0, 4: 0.99}[config.execution.ranks])
    assert decide()[0].config.execution.ranks == 1
    fake(fast_ranks)
    assert (
        decide({"train.epochs": 1, "train.batch_size": 100})[0].config.execution.ranks == 1
    )  # starting them costs more
    fake(lambda config, number_format, threads: {1: 0.1, 4: 0.05}[config.execution.ranks])
    choices, measured = decide({"train.epochs": 10, "train.batch_size": 32, "train.time_limit_s": "1h"})
    assert any(gain["key"] == "execution.ranks" for gain in measured.autotune["gains"])
    assert choices.config.execution.ranks == 1  # saves too little, and is forgotten
    assert not any("failed" in line for line in measured.autotune["left_out"])
    assert measured.time_limit["step_s"] == 0.1
    assert decide({"execution.layout": "serial"})[0].config.execution.ranks == 1
    assert decide(place=tune.Place(torchrun=True))[0].config.execution.ranks == 1


def test_compiling_only_where_training_is_long(fake):
    def compiled_is_faster(config, number_format, threads):
        return 0.1 if config.execution.compile else 0.2

    fake(compiled_is_faster)
    choices, measured = decide({"train.epochs": 1})
    assert choices.config.execution.compile is False
    assert any("execution.compile" in line for line in measured.autotune["left_out"])
    choices, _ = decide({"train.epochs": 1000})  # a twentieth of the training is a minute
    assert choices.config.execution.compile is True
    assert "compiled 2.00× of eager" in choices.reasons["execution.compile"]
    choices, _ = decide({"train.epochs": 1000, "execution.recompute": True})  # which torch does not compile
    assert choices.config.execution.compile is False


def test_a_candidate_that_fails_is_left_out(fake):
    def breaks(config, number_format, threads):
        if config.execution.compile:
            raise OSError("no g++")
        if (config.execution.ranks or 1) > 1:
            raise FanlightError("rank 1 is gone")
        return 0.2

    fake(breaks)
    choices, measured = decide({"train.epochs": 1000})
    assert choices.config.execution.compile is False and choices.config.execution.ranks == 1
    assert "execution.ranks: 4 ranks failed (rank 1 is gone)" in measured.autotune["left_out"]
    assert "execution.compile: OSError: no g++" in measured.autotune["left_out"]


def test_nobody_asked(fake):
    fake(lambda config, number_format, threads: 1e-4)
    open_again = {"execution.autotune": None}
    choices, measured = decide({**open_again, "train.epochs": 5})
    assert measured.facts() == {} and FakeBench.built == []  # short by a rule of thumb: not even a first step
    choices, measured = decide({**open_again, "train.epochs": 400})
    assert set(measured.autotune) == {"expected_s"} and len(FakeBench.built) == 1  # short by its first steps
    assert choices.reasons["train.precision"] == "a convolution said so"
    fake(lambda config, number_format, threads: 0.1)
    assert "gains" in decide({**open_again, "train.epochs": 400})[1].autotune
    assert decide({"execution.autotune": False, "train.epochs": 400})[1].facts() == {}


def test_a_batch_that_does_not_fit_is_cut_into_microbatches(fake):
    fake(by_format, fits=8)
    choices, _ = decide({"train.batch_size": 32})
    assert (choices.config.train.batch_size, choices.config.train.microbatches) == (32, 4)
    assert "out of memory" in choices.reasons["train.microbatches"]
    choices, measured = decide({"train.batch_size": 32, "train.microbatches": 2})
    assert choices.config.train.microbatches == 2 and measured.autotune == {}  # asked for


def test_the_batch_is_measured_where_asked_and_the_learning_rate_follows(fake):
    fake(lambda config, number_format, threads: 0.001)
    choices, _ = decide({"execution.autotune": False, "train.batch_size": "auto"}, count=100_000)
    batch = choices.config.train.batch_size
    assert batch == 2048  # 4096 of 80,000 images leave fewer than 20 steps
    assert "img/s" in choices.reasons["train.batch_size"]
    assert f"by the square root of batch {batch}" in choices.reasons["optim.lr"]
    assert choices.config.optim.lr == pytest.approx(1e-3 * (batch / 64) ** 0.5, rel=1e-2)
    kept, _ = decide({"train.batch_auto": True, "train.batch_size": 24})
    assert kept.config.train.batch_size == 24 and "train.batch_size" not in kept.reasons


def test_the_poorest_rank_decides_what_fits(fake, monkeypatch):
    fake(lambda config, number_format, threads: 1e-6)
    monkeypatch.setattr(
        FakeBench, "measure", lambda self, *, batch, **_: Timed((0.01,), 10**9 + batch * 10**6, 10**9)
    )  # fmt: skip
    asked = {"execution.autotune": False, "train.batch_auto": True}
    rich, _ = decide(asked, count=100_000, place=tune.Place(torchrun=True))
    poor, _ = decide(asked, count=100_000, place=tune.Place(torchrun=True, memory_bytes=100 * 10**6))
    assert poor.config.train.batch_size == 64 < rich.config.train.batch_size


def test_epochs_fill_a_time_limit(fake):
    fake(lambda config, number_format, threads: 0.99)
    values = {"execution.autotune": False, "train.time_limit_s": "10m", "train.batch_size": 32}
    choices, measured = decide(values)
    # 10 steps of 1 s an epoch, 80 images to score, 85 % of 600 s
    assert 40 <= choices.config.train.epochs <= 53
    assert "10 min 0 s in all" in choices.reasons["train.epochs"]
    assert choices.config.train.evaluate_every == -(-choices.config.train.epochs // resolve.EVALUATIONS_MAX)
    assert measured.time_limit["step_s"] == pytest.approx(1.0)
    kept, _ = decide({**values, "train.epochs": 3})
    assert kept.config.train.epochs == 3
    with pytest.raises(ConfigError, match=r"train\.time_limit_s is 5"):
        decide({**values, "train.time_limit_s": 5})
    with pytest.raises(ConfigError, match=r"train\.time_limit_s is 5: one epoch and its evaluation take about"):
        decide({**values, "train.time_limit_s": 5, "train.epochs": 3})


def test_a_time_limit_that_leaves_the_whole_network_no_epoch(fake):
    fake(lambda config, number_format, threads: 0.99)
    values = {"execution.autotune": False, "train.time_limit_s": 60, "train.batch_size": 32, "model.pretrained": True}
    assert decide(values)[0].config.train.epochs < 6
    with pytest.raises(ConfigError, match=r"model\.freeze_epochs is 6 of \d epochs.* or a longer --time-limit"):
        decide({**values, "model.freeze_epochs": 6})


def test_epochs_that_cannot_be_in_time_are_said(fake, capsys):
    fake(lambda config, number_format, threads: 0.99)
    decide({"execution.autotune": False, "train.time_limit_s": 60, "train.batch_size": 32, "train.epochs": 30})
    said = capsys.readouterr().err
    assert "30 epochs take about 5 min" in said and "before the learning rate has come down" in said


def test_a_format_that_this_processor_lacks_is_not_tried(fake, monkeypatch):
    """Steps of eight times the length would leave no time to measure ranks."""
    monkeypatch.setattr(resolve.precision, "fastest", lambda device: ("fp32", "a convolution said so"))
    monkeypatch.setattr(candidates.precision, "cpu_gain", lambda: 0.12)
    fake(lambda config, number_format, threads: 0.1 if number_format == "fp32" else 1 / 0)
    choices, measured = decide()
    assert choices.config.train.precision == "fp32" and choices.reasons["train.precision"] == "a convolution said so"
    assert "execution.ranks" in {gain["key"] for gain in measured.autotune["gains"]}


# Real runs


def test_a_real_autotune(fanlight, colours, own_place, monkeypatch):
    monkeypatch.setattr(candidates.precision, "HOPELESS", 0.0)  # also where bf16 is slow
    words = [word for word in tiny.QUICK if word not in ("--precision", "fp32")]
    answer = fanlight("train", colours, *words, "--autotune", "--layout", "serial", "--out", "run")
    assert answer.code == 0 and answer.err == ""
    assert "  autotune: bf16 " in answer.out and "of fp32 (n = " in answer.out
    summary, resolved = tiny.summary(own_place / "run"), tiny.resolved(own_place / "run")
    assert {gain["key"] for gain in summary["autotune"]["gains"]} >= {"train.precision", "execution.channels_last"}
    assert "bf16" in resolved["reasons"]["train.precision"]
    assert resolved["execution"]["autotune"] is True and summary["phases"]["tune_s"] > 0


def test_a_real_batch_size(fanlight, colours, own_place):
    words = [word for word in tiny.QUICK if word not in ("--batch-size", "8")]
    answer = fanlight("train", colours, *words, "--batch-size", "auto", "--out", "run")
    assert answer.code == 0
    train = tiny.resolved(own_place / "run")["train"]
    assert train["batch_auto"] is True and train["batch_size"] == 8  # of 48 images
    assert "fewer than 20 steps per epoch" in answer.out


def test_a_real_time_limit(fanlight, colours, own_place):
    words = [word for word in tiny.QUICK if word not in ("--epochs", "2")]
    answer = fanlight("train", colours, *words, "--time-limit", "60", "--epochs", 1, "--out", "one")
    assert answer.code == 0
    summary = tiny.summary(own_place / "one")
    assert summary["time_limit"]["limit_s"] == 3600 and summary["epochs"] == 1  # an hour: nothing is cut
    assert not any("time-limit" in note for note in summary["notes"])


def test_a_time_limit_knows_that_features_are_kept(monkeypatch, fanlight, colours, own_place):
    """An epoch of the last layer takes next to nothing, so as many are chosen as ever are."""
    save_file(zoo.create("resnet18", classes=3, image_px=32, seed=5).model.state_dict(), "w.safetensors")
    words = [word for word in tiny.QUICK if word not in ("--epochs", "2", "--model", "scratch-cnn")]
    words += ["--model", "resnet18", "--image-size", "64", "--weights", "w.safetensors", "--freeze", "--no-augment"]
    measured, inner = [], probe.Bench.feature_step_s
    monkeypatch.setattr(probe.Bench, "feature_step_s", lambda self: measured.append(inner(self)) or measured[-1])
    answer = fanlight("train", colours, *words, "--time-limit", "10h", "--out", "run", "--dry-run", "--autotune")
    assert answer.code == 0 and "no autotune: each image is computed once" in answer.out
    assert tiny.resolved(own_place / "run")["train"]["epochs"] == timelimit.EPOCHS_MOST
    steps = 48 // tiny.resolved(own_place / "run")["train"]["batch_size"]
    assert tiny.summary(own_place / "run")["time_limit"]["epoch_s"] == steps * measured[0]


def test_real_epochs_for_a_time_limit_are_what_a_resumed_run_reads(fanlight, colours, own_place):
    words = [word for word in tiny.QUICK if word not in ("--epochs", "2")]
    answer = fanlight("train", colours, *words, "--time-limit", "10h", "--out", "run", "--dry-run")
    assert answer.code == 0
    resolved = tiny.resolved(own_place / "run")
    assert 1 <= resolved["train"]["epochs"] <= timelimit.EPOCHS_MOST
    assert "an epoch takes" in resolved["reasons"]["train.epochs"]
    assert tiny.summary(own_place / "run")["epochs"] == resolved["train"]["epochs"]


def test_time_that_runs_out_ends_training_and_finishes(monkeypatch, fanlight, colours, own_place):
    """The clock jumps after the fourth step."""
    calls = []
    inner = timelimit.Deadline.is_over
    monkeypatch.setattr(timelimit.Deadline, "is_over", lambda self: calls.append(inner(self)) or len(calls) >= 4)
    answer = fanlight("train", colours, *tiny.QUICK, "--time-limit", "2h", "--out", "run", "--json")
    assert answer.code == 0
    summary = tiny.summary(own_place / "run")
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("finished", 4, 0)  # no whole epoch
    assert any("was reached after step 4 of 12" in note for note in summary["notes"])
    assert summary["metrics"]["val"]["count"] == 12
    assert fanlight("report", "run").code == 0


def test_ranks_end_together_when_time_is_over(quick_ranks, monkeypatch, colours, own_place):
    monkeypatch.setattr(
        tune, "measure", lambda *_, **__: tune.Measured(time_limit={"step_s": 0.0, "final_s": 10**9})
    )  # no time at all is left for training
    run = tiny.train(colours, out=own_place / "run", ranks=2, train__time_limit_s=10**6)
    summary = tiny.summary(run)
    assert (summary["status"], summary["steps"]) == ("finished", 1)
    assert tiny.metrics(run, "evaluate")[-1]["step"] == 1


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2", 120), ("0.5", 30)])
def test_times_as_people_write_them(fanlight, text, seconds):
    answer = fanlight("train", "digits", "--time-limit", text, "--print-config")
    assert f"time_limit_s: {float(seconds)}" in answer.out


def test_times_that_are_none(fanlight):
    for text in ("soon", "3x", "1:30"):
        answer = fanlight("train", "digits", "--time-limit", text, "--print-config")
        assert answer.code == 2 and "train.time_limit_s should be a time such as 90s" in answer.err


def test_flags_are_keys(fanlight):
    answer = fanlight("train", "digits", "--autotune", "--no-compile", "--batch-size", "auto", "--print-config")
    for line in ("autotune: true", "compile: false", "batch_auto: true", "batch_size: null"):
        assert line in answer.out
    answer = fanlight("train", "digits", "--batch-size", "many", "--print-config")
    assert answer.code == 2 and "train.batch_size should be int, got 'many'" in answer.err
