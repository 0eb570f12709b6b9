"""Which of the statistics of `fanlight.study` a study of layouts uses, and when it stops measuring. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.study import stats
from fanlight.study.stats import Estimate, Untold

ROUNDS_LEAST, ROUNDS_MOST = 5, 9  # where their number was left open; with fewer, intervals cover less than they say
NARROW = 0.05  # half an interval, as a share of its value
SLOWER, FASTER = 0.97, 1.03  # of a baseline's rate: between them nothing was gained or lost


def both(found: Estimate) -> list[float] | None:
    """The interval as a document has it."""
    return None if found.interval is None else list(found.interval)


def is_wide(interval: Sequence[float] | None) -> bool:
    return interval is not None and (interval[1] - interval[0]) / (interval[1] + interval[0]) > NARROW


def enough(families: Sequence[Sequence[Sequence[float]]]) -> bool:
    """Whether the intervals of every ratio are narrow. A family: the rates by point and round of what is compared, its
    baseline first; of a family of one, which has no ratio, the number of rounds alone counts. Rounds that not all points
    have, as a study that was killed leaves them, do not count."""
    rounds = min((len(rates) for family in families for rates in family), default=0)
    return rounds > 0 and all(
        stats.enough([rates[:rounds] for rates in family], baseline=0, half_width=NARROW, rounds_min=ROUNDS_LEAST,
                     rounds_max=ROUNDS_MOST).done
        for family in families
    )  # fmt: skip


def standing(value: float, interval: Sequence[float] | None) -> str:
    """What a ratio over a baseline means: `gain`, `slow-down`, `no gain`, or `not told apart` where its interval has both."""
    if SLOWER <= value <= FASTER:
        return "no gain"
    if interval is not None and interval[0] <= 1 <= interval[1]:
        return "not told apart"
    return "slow-down" if value < 1 else "gain"


def told(found: Estimate | Untold) -> dict[str, object]:
    """A figure as a value with its interval, or the reason why there is none."""
    if isinstance(found, Untold):
        return {"value": None, "interval": None, "reason": found.reason}
    return {"value": found.value, "interval": both(found), "reason": ""}
