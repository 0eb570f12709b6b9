"""Shares against timers: which bounds hold, which are broken, and that noise breaks none."""

from typing import Any

import pytest

from fanlight.study.layouts import crosscheck

TIMERS = {
    "input": 0.02,
    "copy": 0.01,
    "forward": 0.25,
    "backward": 0.55,
    "communication": 0.08,
    "optimizer": 0.09,
    "rest": 0.0,
}
SHARES = {
    "input": 0.03, "compute": 0.6, "contention": 0.05, "communication": 0.15, "straggler": 0.05, "bubble": 0.0,
    "optimizer": 0.04, "launch": 0.08, "rest": 0.0,
}  # fmt: skip


def point(
    *, ranks: int = 2, reach: float = 0.0, timers: dict[str, float] | None = None, **shares: float
) -> dict[str, Any]:
    """A measured point whose shares reach so far up and down over the rounds."""
    found = SHARES | shares
    ends = {cause: [share - reach, share + reach] for cause, share in found.items()}
    return {"name": "p", "ranks": ranks, "timers": TIMERS | (timers or {}), "shares": found, "share_intervals": ends}


def test_where_bounds_hold_nothing_is_said():
    found = {pair.name: pair for pair in crosscheck.pairs(point())}
    assert list(found) == ["input", "waiting", "optimizer", "computing"] and not any(
        pair.apart for pair in found.values()
    )
    assert found["waiting"].timers == pytest.approx(0.08 + 0.05) and found["waiting"].shares == pytest.approx(0.2)
    assert found["computing"].timers == pytest.approx(0.81) and found["computing"].shares == pytest.approx(0.73)
    assert crosscheck.words([point()]) == ""


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"timers": {"input": 0.09}}, "input"),
        ({"timers": {"communication": 0.21}}, "waiting"),
        ({"timers": {"optimizer": 0.25}}, "waiting"),  # who clips gradients waits there
        ({"optimizer": 0.15}, "optimizer"),
        ({"compute": 0.74}, "computing"),
        ({"ranks": 1, "timers": {"optimizer": 0.10}}, "optimizer"),  # alone there is nobody to wait for
    ],
)
def test_a_broken_bound_is_named_with_both_figures(about, name):
    own = point(**about)
    (pair,) = [pair for pair in crosscheck.pairs(own) if pair.apart]
    said = f"p ({name} {pair.timers:.0%} by timers, {pair.shares:.0%} by differences)"
    assert pair.name == name
    assert crosscheck.words([own]) == f"Timers and shares are apart by more than 5% of a step: {said}."
    wide = point(**(about | {"reach": 0.2}))
    assert not any(pair.apart for pair in crosscheck.pairs(wide))  # some round had the share as the timer says


def test_a_share_may_be_larger_than_a_wait():
    """Preparing images takes from computing, and exchange hides in the backward, where no timer sees it."""
    own = point(input=0.3, communication=0.4, compute=0.1)
    assert not any(pair.apart for pair in crosscheck.pairs(own))


def test_a_point_without_a_probe_has_nothing_to_compare():
    assert crosscheck.pairs({"timers": TIMERS, "shares": None}) == []
