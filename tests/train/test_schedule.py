"""Learning rates are tested by inverting their formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.train import schedule
from fanlight.train.schedule import FLOOR, ONECYCLE_START, factor

names = st.sampled_from(schedule.NAMES)
lengths = st.integers(1, 2000)
shares = st.floats(0, 0.9)


def curve(name: str, steps: int, share: float) -> list[float]:
    return [factor(step, steps=steps, name=name, warmup_share=share) for step in range(steps)]


@given(name=names, steps=lengths, share=shares)
def test_every_step_moves_and_one_is_at_the_peak(name, steps, share):
    found = curve(name, steps, share)
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


@pytest.mark.parametrize(("name", "floor"), [("cosine", FLOOR), ("onecycle", FLOOR * ONECYCLE_START), ("constant", 1)])
def test_long_runs_end_near_the_floor(name, floor):
    assert curve(name, 1000, 0.1)[-1] == pytest.approx(
        floor, abs=1.2 / 900
    )  # of 900 steps after the warm-up, the last is one before the floor


def test_warmup_begins_above_zero_and_rises_evenly():
    assert curve("constant", 10, 0.4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("step", [0, 99])
def test_unknown_schedules_are_refused_at_any_step(step):
    with pytest.raises(ConfigError, match=r"optim.schedule is 'cosin'; use one of cosine, onecycle, constant"):
        factor(step, steps=100, name="cosin", warmup_share=0.5)
