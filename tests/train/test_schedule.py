"""Learning rates are tested by inverting their formulas."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.config import Optim
from fanlight.errors import ConfigError
from fanlight.train import schedule
from fanlight.train.schedule import FLOOR, ONECYCLE_START, factor

names = st.sampled_from(schedule.NAMES)
lengths = st.integers(1, 2000)
shares = st.floats(0, 0.9)


some_drops = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4).map(lambda drawn: tuple(sorted(drawn)))


def curve(name: str, steps: int, share: float, **options: Any) -> list[float]:
    optim = Optim(schedule=name, warmup_share=share, **options)
    return [factor(step, steps=steps, optim=optim) for step in range(steps)]


@given(
    name=names, steps=lengths, share=shares, drops=some_drops, gamma=st.floats(0.01, 0.99), decay=st.floats(0.001, 1)
)
@settings(deadline=None)
def test_every_step_moves_and_one_is_at_the_peak(name, steps, share, drops, gamma, decay):
    found = curve(name, steps, share, step_shares=drops, step_gamma=gamma, decay_share=decay)
    assert all(0 < value <= 1 for value in found)
    assert max(found) == found[min(steps - 1, math.ceil(share * steps))] == 1
    peak = found.index(1)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@given(steps=st.integers(2, 2000), share=shares)
def test_cosine_inverts_to_the_step(steps, share):
    warmup = min(steps - 1, math.ceil(share * steps))
    for step, value in enumerate(curve("cosine", steps, share)):
        if step < warmup:
            assert value * (warmup + 1) - 1 == pytest.approx(step, abs=1e-6)
        else:
            angle = math.acos(min(1.0, 2 * (value - FLOOR) / (1 - FLOOR) - 1))
            assert warmup + angle / math.pi * (steps - warmup) == pytest.approx(step, abs=1e-3)  # acos near 1 is blunt


@given(steps=st.integers(2, 2000), share=shares)
def test_onecycle_inverts_to_the_step(steps, share):
    warmup = min(steps - 1, math.ceil(share * steps))
    for step, value in enumerate(curve("onecycle", steps, share)):
        if step < warmup:
            assert (value - ONECYCLE_START) / (1 - ONECYCLE_START) * (warmup + 1) - 1 == pytest.approx(step, abs=1e-6)
        else:
            done = (1 - value) / (1 - FLOOR * ONECYCLE_START)
            assert warmup + done * (steps - warmup) == pytest.approx(step, abs=1e-6)


@given(steps=st.integers(2, 2000), share=shares, drops=some_drops, gamma=st.floats(0.01, 0.99))
@settings(deadline=None)
def test_steps_invert_to_the_number_of_shares_that_are_over(steps, share, drops, gamma):
    """Continuous but for the drops: between them the rate stands still."""
    warmup = min(steps - 1, math.ceil(share * steps))
    for step, value in enumerate(curve("step", steps, share, step_shares=drops, step_gamma=gamma)):
        if step > warmup:
            over = sum(step >= drop * steps for drop in drops)
            assert math.log(value) / math.log(gamma) == pytest.approx(over, abs=1e-9)


def test_steps_drop_where_residual_networks_did():
    found = curve("step", 64, 0.0)
    assert found == pytest.approx([1.0] * 32 + [0.1] * 16 + [0.01] * 16)


@given(steps=st.integers(2, 2000), share=shares, decay=st.floats(0.001, 1))
@settings(deadline=None)
def test_wsd_inverts_to_the_step(steps, share, decay):
    warmup = min(steps - 1, math.ceil(share * steps))
    start = max(warmup, steps - math.ceil(decay * steps))
    found = curve("wsd", steps, share, decay_share=decay)
    assert found[warmup : start + 1] == [1.0] * (start + 1 - warmup)
    for step in range(start, steps):
        assert start + (1 - found[step]) ** 2 * (steps - start) == pytest.approx(step, abs=1e-6)


@pytest.mark.parametrize(("name", "floor"), [("cosine", FLOOR), ("onecycle", FLOOR * ONECYCLE_START), ("constant", 1)])
def test_long_runs_end_near_the_floor(name, floor):
    assert curve(name, 1000, 0.1)[-1] == pytest.approx(
        floor, abs=1.2 / 900
    )  # of 900 steps after the warm-up, the last is one before the floor


def test_warmup_begins_above_zero_and_rises_evenly():
    assert curve("constant", 10, 0.4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("step", [0, 99])
def test_unknown_schedules_are_refused_at_any_step(step):
    with pytest.raises(
        ConfigError, match=r"optim.schedule is 'cosin'; use one of cosine, onecycle, step, wsd, constant"
    ):
        factor(step, steps=100, optim=Optim(schedule="cosin"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosin"}, "optim.schedule is 'cosin'; use one of cosine, onecycle, step, wsd, constant"),
        ({"step_gamma": 1.0}, "optim.step_gamma is 1.0; the rate is multiplied by it: above 0, below 1"),
        (
            {"step_shares": (0.5, 0.5)},
            r"optim.step_shares is \(0.5, 0.5\); they must be shares between 0 and 1, lowest",
        ),
        ({"step_shares": (0.5, 1.0)}, r"optim.step_shares is \(0.5, 1.0\)"),
        ({"step_shares": (0.0, 0.5)}, r"optim.step_shares is \(0.0, 0.5\)"),
        (
            {"schedule": "step", "step_shares": (0.1,)},
            "begin at 0.1, within the warm-up of 0.1; use a later first share",
        ),
        ({"decay_share": 0.0}, "optim.decay_share is 0.0; it must be a share above 0 and at most 1"),
        (
            {"schedule": "wsd", "warmup_share": 0.25, "decay_share": 0.8},
            r"more than 1; use optim.decay_share 0.75 or less",
        ),
    ],
)
def test_what_does_not_fit_into_a_run_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        schedule.check(Optim(**values))
    for name in schedule.NAMES:
        schedule.check(Optim(schedule=name))
