"""Shares of a step, found by differences between real steps, held against the run's own timers of every rank. No torch.

The two do not measure the same thing, so what is compared are bounds (T a timer, S a share, of one step):

    input      T.input ≤ S.input: the timer sees the wait alone, the share also what preparing images takes from computing
    waiting    T.communication + E − C ≤ S.communication + S.straggler + S.bubble: exchange inside forward and backward is not
               seen by the timer; who clips gradients waits for other ranks in the optimizer
    optimizer  S.optimizer ≤ T.optimizer, since S is of a rank alone; of one process both are the same
    computing  S.compute + S.launch + S.contention ≤ T.copy + T.forward + T.backward + C, for the same reasons

E is what the optimizer takes longer in the run than on a rank alone, T.optimizer − S.optimizer: contention, which is in
S.contention, and waiting. C is as much of it as contention can be, the lesser of E and S.contention; of a pipeline, whose
S.contention is of forward and backward, that is more than it is, and the bounds are so much wider. (0 of one process.)

Shares and timers are of rounds and scatter over them, together where a round was slow: a bound counts as broken only where
it is in every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

APART_MOST = 0.05  # of a step, by which a bound may be broken without a word: as much as may stay unexplained
WAITING = ("communication", "straggler", "bubble")
COMPUTING = ("compute", "launch", "contention")
TIMED = ("copy", "forward", "backward")
TIMERS_LEAST = ("input", "waiting")  # of which the timer is the least that the share can be; of the others, the most
Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """One thing by both ways, as parts of a step's time."""

    name: str
    timers: float
    shares: float
    differences: Sequence[float]  # shares less timers, of the probed rounds: least and greatest
    apart: bool  # the bound is broken by more than APART_MOST, and in every round


def pairs(point: Doc, rounds: Sequence[Doc]) -> list[Pair]:
    """Input, waiting, optimizer and computing of a measured point, by its medians and by its rounds; empty where it was not
    probed."""
    probed = [row for row in rounds if row["shares"]]
    if not probed or not point["timers"] or not point["shares"]:
        return []
    alone = point["ranks"] == 1
    each = [_sides(row["timers"], row["shares"], alone=alone) for row in probed]
    made = []
    for name, (timed, share) in _sides(point["timers"], point["shares"], alone=alone).items():
        found = [sides[name][1] - sides[name][0] for sides in each]
        least, most = min(found), max(found)
        over, under = share - timed > APART_MOST and least > 0, timed - share > APART_MOST and most < 0
        both = alone and name == "optimizer"
        apart = (over or under) if both else under if name in TIMERS_LEAST else over
        made.append(Pair(name, timed, share, [least, most], apart))
    return made


def words(points: Sequence[Doc]) -> str:
    """Which points' shares the timers contradict, and in what, by their `checks`; empty where none."""
    said = []
    for point in points:
        if apart := [pair for each in point["checks"] if (pair := Pair(**each)).apart]:
            each = ", ".join(
                f"{pair.name} {pair.timers:.0%} by timers, {pair.shares:.0%} by differences" for pair in apart
            )
            said.append(f"{point['name']} ({each})")
    if not said:
        return ""
    return f"Timers and shares are apart by more than {APART_MOST:.0%} of a step: {'; '.join(said)}."


def _sides(timers: Doc, shares: Doc, *, alone: bool) -> dict[str, tuple[float, float]]:
    """By name, what timers and what shares say of it. Nobody is waited for by who is `alone`."""
    longer = 0.0 if alone else max(0.0, timers["optimizer"] - shares["optimizer"])
    shared = min(longer, max(0.0, shares["contention"]))
    waiting = timers["communication"] + longer - shared, sum(shares[cause] for cause in WAITING)
    return {
        "input": (timers["input"], shares["input"]),
        **({} if alone else {"waiting": waiting}),
        "optimizer": (timers["optimizer"], shares["optimizer"]),
        "computing": (sum(timers[name] for name in TIMED) + shared, sum(shares[cause] for cause in COMPUTING)),
    }
