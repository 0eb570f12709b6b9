"""The second look at shares: timers and differences that bound each other, and what is said where they do not."""

import pytest

from fanlight.study.layouts import attribution, crosscheck
from fanlight.study.layouts.measured import TIMERS


def point(**changed: float) -> dict:
    """A point whose timers and shares fit exactly; `timer_x` and `share_x` change one of them."""
    shares = dict.fromkeys(attribution.CAUSES, 0.0) | {
        "input": 0.06, "compute": 0.60, "launch": 0.05, "contention": 0.07, "communication": 0.10, "straggler": 0.04,
        "optimizer": 0.08,
    }  # fmt: skip
    timers = dict.fromkeys(TIMERS, 0.0) | {
        "input": 0.02, "copy": 0.01, "forward": 0.25, "backward": 0.52, "communication": 0.12, "optimizer": 0.08,
    }  # fmt: skip
    for name, value in changed.items():
        kind, _, key = name.partition("_")
        {"timer": timers, "share": shares}[kind][key] = value
    return {"shares": shares, "timers": timers}


def test_what_fits_is_not_told():
    assert [look.agrees for look in crosscheck.looks(point())] == [True] * 4
    assert crosscheck.words(point()) == ""


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"timer_input": 0.20}, "waiting for images 20% by timers, 6% by differences"),
        ({"share_compute": 0.75}, "forward, backward 78% by timers, 91% by differences"),
        ({"timer_communication": 0.30}, "after the backward 30% by timers, 14% by differences"),
        ({"share_optimizer": 0.20}, "optimizer 8% by timers, 20% by differences"),
    ],
)
def test_a_bound_that_is_passed_is_named(changed, named):
    assert crosscheck.words(point(**changed)) == named


@pytest.mark.parametrize(
    "changed",
    [
        {"share_input": 0.20, "share_compute": 0.46},  # preparing takes cores, which a timer of waiting does not see
        {"share_communication": 0.40},  # most of an exchange is waited for inside the backward
        {"timer_optimizer": 0.30},  # it waits for the norm of all gradients
        {"timer_backward": 0.80},  # waiting for messages
        {"timer_input": 0.06 + 0.9 * crosscheck.APART_MOST},
    ],
)
def test_what_a_timer_cannot_tell_apart_is_no_disagreement(changed):
    assert crosscheck.words(point(**changed)) == ""


def test_no_shares_no_look():
    assert crosscheck.looks({"shares": None, "timers": None}) == []
