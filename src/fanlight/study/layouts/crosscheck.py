"""A second look at the shares: what the run's own timers say of the same things. No torch.

A timer of one rank has waiting for others in it, and cannot tell work from work that something else slowed; a share is a
difference of blocks of steps in the probe. So they are not equal, but bound each other:

    waiting for images   the timer is at most the share of input, which is what preparing takes from computing as well
    forward, backward    the timers are at least what computes (compute, launch, contention) and what preparing takes from it
    after the backward   the timer is at most exchange and waiting for other ranks (communication, straggler, bubble)
    optimizer            the timer is at least the share: it may hold the wait for the norm of all gradients
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

APART_MOST = 0.05  # of a step, by which a bound may be passed without a word; as for shares that do not add up
Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """One thing, as shares of a step: by the timers of the run's own steps, and by differences of the probe's."""

    name: str
    timer: float
    share: float
    is_within: bool  # the timer is to be at most the share; else at least

    @property
    def apart(self) -> float:
        """By how much the bound is passed; at most 0 where the two agree."""
        return self.timer - self.share if self.is_within else self.share - self.timer

    @property
    def agrees(self) -> bool:
        return self.apart <= APART_MOST


def looks(point: Doc) -> list[Look]:
    """Of a point with shares, one look at each thing; none of another point."""
    if not point.get("shares") or not point.get("timers"):
        return []
    timers, shares = point["timers"], point["shares"]
    preparing = max(0.0, shares["input"] - timers["input"])
    return [
        Look("waiting for images", timers["input"], shares["input"], True),
        Look(
            "forward, backward", sum(timers[part] for part in ("copy", "forward", "backward")),
            sum(shares[cause] for cause in ("compute", "launch", "contention")) + preparing, False,
        ),
        Look(
            "after the backward", timers["communication"],
            sum(shares[cause] for cause in ("communication", "straggler", "bubble")), True,
        ),
        Look("optimizer", timers["optimizer"], shares["optimizer"], False),
    ]  # fmt: skip


def words(point: Doc) -> str:
    """Where a point's timers and shares do not fit each other; nothing where they do."""
    said = [
        f"{look.name} {look.timer:.0%} by timers, {look.share:.0%} by differences"
        for look in looks(point) if not look.agrees
    ]  # fmt: skip
    return "; ".join(said)
