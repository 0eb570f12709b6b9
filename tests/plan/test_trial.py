"""The best of a plan's candidates, run in turns."""

from dataclasses import replace

import pytest

from fanlight.errors import TrainingError
from fanlight.plan import choice, cluster, confirm, trial
from fanlight.plan.choose import Question
from fanlight.train import autotune
from plan import jobs
from plan.test_choose import candidate

MACHINE = cluster.parse(
    "nodes: 1\ndevice: {kind: cpu, count: 2, memory: 16 GB, speed: 1}\nlinks: {within: {latency: 1us, bandwidth: 9 GB/s}}\n",
    where="here",
)
SERIAL = replace(candidate("serial", 100), ranks=1)


def question(machine=MACHINE) -> Question:
    config = jobs.config(model__name="small-resnet", data__image_px=16, data__canvas_px=20, train__batch_size=16)
    return Question(config, (), 100, machine, None, 16)


class Ranks:
    """Pools that start nothing."""

    def __init__(self):
        self.started = []

    def has(self, *key):
        return key in self.started

    def of(self, *key):
        self.started += [] if key in self.started else [key]
        return key

    def keep(self, wanted):
        self.started = [key for key in self.started if key in wanted]


def tried(monkeypatch, found, step_s, *, seconds=1000.0, machine=MACHINE, ranks=None):
    """With steps that take `step_s(config)` seconds, and a clock that they alone move. `ranks`: pools that are there."""
    now = [0.0]

    def turn(pool, config, *, classes, steps):
        assert pool[0] == config.execution.ranks
        taken = step_s(config)
        now[0] += steps * taken
        return confirm.Steps((taken,) * steps, 1)

    monkeypatch.setattr(trial.confirm, "turn", turn)
    budget = autotune.Budget(seconds, now=lambda: now[0])
    return trial.tried(found, question(machine), classes=3, most=2, pools=ranks or Ranks(), budget=budget), now[0]


def test_the_plainest_and_the_best_have_measured_rates_in_turns(monkeypatch):
    found = [
        SERIAL, candidate("ddp", 120), candidate("fsdp", 110), candidate("pipeline", 105), candidate("tensor", 90),
        replace(candidate("ddp", 300), ranks=4), candidate("local-sgd", 400),
    ]  # fmt: skip
    told, _ = tried(monkeypatch, found, lambda config: 0.5 if config.execution.layout == "ddp" else 1.0)
    assert [each.source for each in told] == ["measured"] * 4 + ["simulated"] * 3
    assert [each.images_per_s for each in told[:2]] == [SERIAL.batch / 1.0, SERIAL.batch / 0.5]
    assert len({len(each.turns_s) for each in told[:4]}) == 1, "a turn of one is a turn of all"
    assert [each.reason for each in told[3:5]] == ["simulated: waiting 3%", "waiting 3%"], "nobody measured what waits"
    best, why = choice.choose(told, precision_is_open=False)
    assert best.layout == "ddp" and "2.00× of serial" in why


def test_what_only_noise_prefers_is_not_chosen(monkeypatch):
    """Faster in the middle, by 6 %, and slower in two turns of five."""
    turns = iter(range(10_000))

    def step_s(config):
        return 1.0 if config.execution.layout == "serial" else (0.94, 0.94, 1.1, 1.1, 0.94)[next(turns) % 5]

    told, _ = tried(monkeypatch, [SERIAL, candidate("ddp", 120)], step_s)
    assert told[1].images_per_s > 1.05 * told[0].images_per_s
    best, why = choice.choose(told, precision_is_open=False)
    assert best.layout == "serial" and "nothing is clearly faster: ddp on 2" in why


def test_what_fails_does_not_fit_and_the_others_are_measured(monkeypatch):
    def step_s(config):
        if config.execution.layout == "ddp":
            raise TrainingError("rank 1 was killed")
        return 1.0

    told, _ = tried(monkeypatch, [SERIAL, candidate("ddp", 120), candidate("fsdp", 110)], step_s)
    assert [each.fits for each in told] == [True, False, True] and "rank 1 was killed" in told[1].reason
    assert [each.source for each in told] == ["measured", "simulated", "measured"]


def test_one_that_fails_in_a_later_turn_is_left_out(monkeypatch):
    calls = []

    def step_s(config):
        calls.append(config.execution.layout)
        if config.execution.layout == "ddp" and calls.count("ddp") == 3:
            raise TrainingError("no memory")
        return 1.0

    told, _ = tried(monkeypatch, [SERIAL, candidate("ddp", 120)], step_s)
    assert [each.fits for each in told] == [True, False] and told[0].source == "measured"


def test_slow_networks_are_tried_as_far_as_there_is_time(monkeypatch, capsys):
    slow = [replace(each, images_per_s=each.images_per_s / 100) for each in (SERIAL, candidate("ddp", 120))]
    step_s = slow[0].batch / slow[0].images_per_s
    assert step_s > 10
    told, took_s = tried(monkeypatch, slow, lambda config: step_s, seconds=60.0)
    assert [each.source for each in told] == ["measured", "simulated"], "the plainest at least"
    assert "not run, there is no time for it: ddp on 2 in fp32" in capsys.readouterr().out
    assert took_s < 20 * step_s


def test_candidates_share_the_machines_memory(monkeypatch, capsys):
    large = [replace(each, bytes=5e9) for each in (SERIAL, candidate("ddp", 120))]
    told, _ = tried(monkeypatch, large, lambda config: 1.0)
    assert [each.source for each in told] == ["measured", "simulated"]
    assert "no memory, beside the others, for it: ddp" in capsys.readouterr().out


def test_ranks_that_nothing_is_tried_on_give_their_memory_back(monkeypatch):
    """What calibrated on one rank, where two were asked for."""
    there = Ranks()
    alone, beside = there.of(1, 2), trial._ranks(candidate("ddp", 120), question())
    there.of(*beside)
    told, _ = tried(monkeypatch, [candidate("ddp", 120)], lambda config: 1.0, ranks=there)
    assert told[0].source == "measured" and there.started == [beside] != [alone]


def test_a_shorter_format_is_held_against_what_was_measured_in_fp32():
    short = [replace(candidate(name, 200 - i), precision="bf16") for i, name in enumerate(("ddp", "fsdp", "pipeline"))]
    found = [*short, replace(SERIAL, precision="bf16", images_per_s=150), candidate("ddp", 140), SERIAL]
    wanted = [(each.layout, each.precision) for each in trial.worth(found, most=2)]
    assert wanted == [
        ("serial", "fp32"), ("ddp", "bf16"), ("fsdp", "bf16"), ("pipeline", "bf16"), ("serial", "bf16"), ("ddp", "fp32"),
    ]  # fmt: skip
    assert trial.worth([replace(each, fits=False) for each in found], most=2) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_keep_what_takes_turns(pool, ranks):
    """Two configs on the same ranks: each is warmed up once, and its steps go on."""
    layout = "serial" if ranks == 1 else "ddp"
    config = jobs.config(
        model__name="small-resnet", data__image_px=16, data__canvas_px=20, train__batch_size=16,
        execution__layout=layout, execution__ranks=ranks,
    )  # fmt: skip
    other = config.with_value("train.batch_size", 8)
    for steps in (1, 3):
        for each in (config, other):
            found = confirm.turn(pool(ranks), each, classes=3, steps=steps)
            assert len(found.steps_s) == steps and min(found.steps_s) > 0
