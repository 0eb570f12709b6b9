"""Shares of a step, found by differences between real steps, held against the run's own timers of every rank. No torch.

The two do not measure the same thing, so what is compared are bounds (T a timer, S a share, of one step):

    input      T.input ≤ S.input: the timer sees the wait alone, the share also what preparing images takes from computing
    waiting    T.communication + (T.optimizer − S.optimizer) ≤ S.communication + S.straggler + S.bubble: exchange inside forward
               and backward is not seen by the timer; who clips gradients waits for other ranks in the optimizer
    optimizer  S.optimizer ≤ T.optimizer, since S is of a rank alone; of one process both are the same
    computing  S.compute + S.launch + S.contention ≤ T.copy + T.forward + T.backward, for the same reasons

Shares are differences and scatter over rounds: they count as apart from a timer only beyond what the rounds reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

APART_MOST = 0.05  # of a step, by which a bound may be broken without a word: as much as may stay unexplained
WAITING = ("communication", "straggler", "bubble")
COMPUTING = ("compute", "launch", "contention")
TIMED = ("copy", "forward", "backward")
Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """One thing by both ways, as parts of a step's time."""

    name: str
    timers: float
    shares: float
    apart: bool  # the bound is broken by more than APART_MOST, and in no round was the share so


def pairs(point: Doc) -> list[Pair]:
    """Input, waiting, optimizer and computing of a measured point; empty where it was not probed."""
    timers, shares = point["timers"], point["shares"]
    if not timers or not shares:
        return []
    clipped = max(0.0, timers["optimizer"] - shares["optimizer"]) if point["ranks"] > 1 else 0.0
    made = [_pair(point, "input", timers["input"], ("input",), most=False)]
    if point["ranks"] > 1:
        made.append(_pair(point, "waiting", timers["communication"] + clipped, WAITING, most=False))
    made.append(_pair(point, "optimizer", timers["optimizer"], ("optimizer",), most=True, both=point["ranks"] == 1))
    made.append(_pair(point, "computing", sum(timers[name] for name in TIMED), COMPUTING, most=True))
    return made


def words(points: Sequence[Doc]) -> str:
    """Which points' shares the timers contradict, and in what; empty where none."""
    said = []
    for point in points:
        if apart := [pair for pair in pairs(point) if pair.apart]:
            each = ", ".join(
                f"{pair.name} {pair.timers:.0%} by timers, {pair.shares:.0%} by differences" for pair in apart
            )
            said.append(f"{point['name']} ({each})")
    if not said:
        return ""
    return f"Timers and shares are apart by more than {APART_MOST:.0%} of a step: {'; '.join(said)}."


def _pair(point: Doc, name: str, timed: float, causes: Sequence[str], *, most: bool, both: bool = False) -> Pair:
    """`most`: the timer is the most that the share can be, else the least; `both`: they are the same."""
    share = sum(point["shares"][cause] for cause in causes)
    ranges = point["share_intervals"]
    above = max(0.0, *(ranges[cause][1] - point["shares"][cause] for cause in causes))
    below = max(0.0, *(point["shares"][cause] - ranges[cause][0] for cause in causes))
    over, under = share - timed > max(APART_MOST, below), timed - share > max(APART_MOST, above)
    return Pair(name, timed, share, (over and (most or both)) or (under and (not most or both)))
