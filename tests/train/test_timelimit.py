"""Epochs that fit a wall-clock budget, and the moment at which training has to end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.train import timelimit
from fanlight.train.timelimit import Deadline, Plan

PLAN = Plan(start_s=2.0, epoch_s=10.0, evaluation_s=1.0, final_s=3.0)


def test_a_plan_counts_every_part_once():
    assert PLAN.total_s(1, every=1) == 2 + 10 + 3
    assert PLAN.total_s(4, every=1) == 2 + 40 + 3 * 1 + 3
    assert PLAN.total_s(4, every=2) == 2 + 40 + 1 + 3  # after the second; the fourth's is the last


def test_a_plan_from_a_measured_step():
    found = timelimit.plan(step_s=0.5, batch=10, train=105, val=20, test=30, start_s=4.0)
    assert (found.start_s, found.epoch_s) == (4.0, 5.0)
    assert found.evaluation_s == pytest.approx(20 * 0.05 * timelimit.EVALUATION_SHARE)
    assert found.final_s == pytest.approx(50 * 0.05 * timelimit.EVALUATION_SHARE + timelimit.SAVE_S)


@given(st.floats(1, 5000), st.integers(1, 30))
def test_the_most_that_fits(left_s, every):
    fits = PLAN.epochs_in(left_s, most=100, evaluations=20, every=every)
    assert fits == 0 or PLAN.total_s(fits, every=every) <= left_s
    assert fits == 100 or PLAN.total_s(fits + 1, every=every) > left_s


def test_epochs_and_why():
    count, why = timelimit.epochs(PLAN, limit_s=120.0, spent_s=20.0, evaluations=20, every=None)
    assert count == 7  # 2 + 7 × 10 + 6 × 1 + 3 of 85 s
    assert "2 min 0 s in all: an epoch takes 10.0 s here, measured" in why
    count, why = timelimit.epochs(PLAN, limit_s=1e6, spent_s=20.0, evaluations=20, every=None)
    assert count == timelimit.EPOCHS_MOST and "not chosen by themselves" in why


def test_the_time_said_is_that_of_the_evaluations_that_will_run():
    found = Plan(start_s=0.0, epoch_s=1.0, evaluation_s=1.0, final_s=0.0)
    count, why = timelimit.epochs(found, limit_s=200.0, spent_s=0.0, evaluations=20, every=None)
    assert count == 100 and "about 1 min 59 s are used" in why  # 19 evaluations, not 99


def test_features_are_computed_once():
    found = timelimit.plan_on_features(
        step_s=1.0, feature_step_s=0.01, batch=10, train=100, val=20, test=0, start_s=2.0
    )
    assert found.start_s == pytest.approx(2 + 120 * 0.1 * timelimit.EVALUATION_SHARE)
    assert found.epoch_s == pytest.approx(0.1)
    assert found.final_s == pytest.approx(timelimit.SAVE_S + 0.02)


def test_a_limit_below_one_epoch_is_refused_with_one_that_would_do():
    with pytest.raises(ConfigError, match="one epoch and its evaluation take about 15") as raised:
        timelimit.epochs(PLAN, limit_s=18.0, spent_s=4.0, evaluations=20, every=None)
    enough = int(str(raised.value).split("--time-limit ")[1].split("s ")[0])
    assert timelimit.epochs(PLAN, limit_s=enough, spent_s=4.0, evaluations=20, every=None)[0] == 1
    with pytest.raises(ConfigError):
        timelimit.epochs(PLAN, limit_s=18.0, spent_s=40.0, evaluations=20, every=None)


def test_what_is_written_at_the_end_takes_time_too(monkeypatch):
    counts = {"batch": 10, "train": 105, "val": 20, "test": 30, "start_s": 4.0}
    plain, writing = (timelimit.plan(step_s=0.5, **counts, writing_s=each) for each in (0.0, 40.0))
    assert writing.final_s == plain.final_s + 40.0 and writing.evaluation_s == plain.evaluation_s
    on_features = timelimit.plan_on_features(step_s=1.0, feature_step_s=0.004, **counts, writing_s=40.0)
    assert on_features.final_s == pytest.approx(timelimit.SAVE_S + 0.02 + 40.0)
    with pytest.raises(ConfigError, match="one epoch and its evaluation take about 51"):
        timelimit.epochs(writing, limit_s=45.0, spent_s=0.0, evaluations=20, every=None)
    monkeypatch.setattr(timelimit.time, "time", lambda: 1000.0)
    deadline = Deadline.of(60.0, {"final_s": 43.0, "writing_s": 40.0}, entered=1000.0, before_s=0.0)
    assert deadline.reserve_s == 43.0
    deadline.learn(0.5, images=10, final=30)
    assert deadline.reserve_s == timelimit.SAVE_S + 1.5 + 40.0, "no evaluation says what writing takes"


def test_a_deadline_keeps_time_for_a_step_and_the_evaluation(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(timelimit.time, "time", lambda: now[0])
    assert Deadline.of(None, {}, entered=1000.0, before_s=0.0) is None
    deadline = Deadline.of(60.0, {"step_s": 2.0, "final_s": 8.0}, entered=1000.0, before_s=10.0)
    many = Deadline.of(60.0, {"step_s": 2.0}, entered=1000.0, before_s=0.0, looks_every=10)
    assert many.step_s == 20.0
    now[0] = 1039.9
    assert not deadline.is_over()
    now[0] = 1040.0
    assert deadline.is_over()
    deadline.learn(0.5, images=10, final=30)  # an evaluation that was quicker than thought
    assert deadline.reserve_s == timelimit.SAVE_S + 1.5 and not deadline.is_over()
    assert not deadline.was_reached and deadline.reached(True) and deadline.was_reached
    assert not deadline.reached(False) and deadline.was_reached
    words = deadline.words(step=7, steps=20, lr_share=0.5)
    assert "after step 7 of 20" in words and "at 50% of its peak" in words
