"""Middle values, paired ratios, and when to stop measuring: the one place where the study asks for statistics. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS_LEAST, ROUNDS_MOST = 3, 7  # where their number was left open
NARROW = 0.05  # half an interval, as a share of its value
ACCURACY_APART = 0.01  # a mean difference of a share of right answers that is worth a flag, where all rounds agree


@dataclass(frozen=True)
class Middle:
    """Of N rounds: the median, the least and the greatest."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> list[float]:
        return [self.low, self.high]


def middle(values: Sequence[float]) -> Middle:
    return Middle(statistics.median(values), min(values), max(values), len(values))


def ratio(values: Sequence[float], others: Sequence[float]) -> Middle:
    """Of `values` to `others` of the same rounds, round by round: a machine's drift slows both alike."""
    return middle([value / other for value, other in zip(values, others, strict=True)])


def enough(rates: Sequence[Sequence[float]]) -> bool:
    """Whether the rounds of every point agree well enough. `rates`: by point, of all its rounds."""
    rounds = min(map(len, rates), default=ROUNDS_MOST)
    if rounds < ROUNDS_LEAST:
        return False
    found = [middle(values) for values in rates]
    return rounds >= ROUNDS_MOST or all((each.high - each.low) / 2 <= NARROW * each.value for each in found)


def is_apart(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether accuracies differ from those of another point in the same rounds, which see the same images in the same order."""
    gaps = [value - other for value, other in zip(values, others, strict=True)]
    same_sign = all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)
    return len(gaps) > 1 and same_sign and abs(statistics.fmean(gaps)) > ACCURACY_APART
