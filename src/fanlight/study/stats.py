"""Central values, paired ratios and when to stop measuring. P points, N rounds; rates in images per second.

Points take turns in rounds, and a machine's drift slows all points of a round alike: a ratio is taken within each round
first, so drift cancels. Rates are multiplicative, so intervals are Student's t on logarithms, 95 % unless told otherwise;
docs/statistics.md has the coverage that was simulated. No torch. What cannot be told is `Untold`, never a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # quantiles of t; scipy.stats takes seconds to import

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Untold:
    """In place of a figure that the measurements do not give."""

    reason: str  # what is missing, and what would give it


@dataclass(frozen=True)
class Estimate:
    """A central value with its interval."""

    value: float
    interval: tuple[float, float] | None  # None: one round alone has none
    n: int  # rounds, or seeds

    @property
    def half_width(self) -> float | None:
        """Half of the interval as a share of the value, which must not be 0."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2 / abs(self.value)


@dataclass(frozen=True)
class Enough:
    """Whether to stop measuring."""

    done: bool
    narrow: bool  # False with `done`: stopped by `rounds_max`
    reason: str
    half_width: float | None  # the widest point's, as a share of its value


def positive(values: ArrayLike, *, name: str, dimensions: int = 1) -> np.ndarray:
    """`values` as float64. ValueError for none, another number of dimensions, and what is not finite and above 0."""
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions or not array.size:
        raise ValueError(f"{name} needs values in {dimensions} dimension(s), got shape {array.shape}")
    wrong = array[~(np.isfinite(array) & (array > 0))]
    if wrong.size:
        raise ValueError(f"{name} must be finite and above 0, got {wrong[0]:g}; leave out a round that failed, whole")
    return array


def center(values: Sequence[float] | np.ndarray, *, name: str = "rates") -> Estimate:
    """Median [unit of `values`] of N rounds, and Student's t interval of their logarithms (Student 1908).

    The median is what is shown because one round in which the machine was busy does not move it; the interval does feel
    such a round, and widens. It holds for rounds that are independent: drift that goes on is in it, but not all of it.
    """
    logs = np.log(positive(values, name=name))
    value, n = float(np.median(logs)), len(logs)
    if n < 2:
        return Estimate(float(np.exp(value)), None, n)
    mean, half = float(logs.mean()), float(stdtrit(n - 1, (1 + LEVEL) / 2) * logs.std(ddof=1) / np.sqrt(n))
    low, high = min(mean - half, value), max(mean + half, value)  # the median may be outside only from 8 rounds on
    return Estimate(float(np.exp(value)), (float(np.exp(low)), float(np.exp(high))), n)


def ratio(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Estimate:
    """`values` over `others`, both [N] of the same N rounds: the median of the rounds' ratios, interval as in `center`.

    Unlike an interval for a median, t reaches 95 % with 3 rounds; outliers make it cover more, not less. ValueError where
    the rounds differ in number or a value is not above 0.
    """
    above, below = positive(values, name="rates"), positive(others, name="baseline rates")
    if len(above) != len(below):
        raise ValueError(f"a ratio needs the same rounds of both, got {len(above)} and {len(below)}")
    return center(above / below, name="ratios")


def enough(
    rates_PN: Sequence[Sequence[float]] | np.ndarray, *, baseline: int | None = None,
    half_width: float = 0.05, rounds_min: int = 5, rounds_max: int = 9,
) -> Enough:  # fmt: skip
    """Whether every point's interval is within ± `half_width` of its value after N rounds.

    With `baseline` (a row) the intervals are of ratios to that row, else of the rates themselves. Asked after each round,
    the rule stops sooner when the rounds happen to agree, so intervals of what stopped early cover less than they say:
    with `rounds_min` 5 about 94 % in the worst case, with 3 about 91 %; values are not biased (docs/statistics.md).
    ValueError for limits that cannot be met, and for rates as in `ratio`.
    """
    if not 0 < half_width < 1:
        raise ValueError(f"half_width is a share between 0 and 1, got {half_width:g}; 0.05 is ± 5 %")
    if not 2 <= rounds_min <= rounds_max:
        raise ValueError(f"rounds must be 2 ≤ rounds_min ≤ rounds_max, got {rounds_min} and {rounds_max}")
    rates = positive(rates_PN, name="rates", dimensions=2)
    if baseline is not None and not 0 <= baseline < len(rates):
        raise ValueError(f"baseline is a row of {len(rates)}, got {baseline}")
    rounds = rates.shape[1]
    if baseline is None:
        found = [center(row) for row in rates]
    else:
        found = [ratio(row, rates[baseline]) for at, row in enumerate(rates) if at != baseline]
    widths = [each.half_width for each in found]
    widest = max((width for width in widths if width is not None), default=None if rounds < 2 else 0.0)
    narrow = widest is not None and widest <= half_width
    told = "no interval yet" if widest is None else f"± {widest:.1%}, asked for ± {half_width:.1%}"
    if rounds >= rounds_max:
        return Enough(True, narrow, f"{rounds} rounds, the most allowed: {told}", widest)
    if rounds < rounds_min:
        return Enough(False, narrow, f"{rounds} of at least {rounds_min} rounds", widest)
    return Enough(narrow, narrow, f"{rounds} rounds: {told}", widest)
