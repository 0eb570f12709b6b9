"""Accuracies of points over seeds: which differ from the baseline, and how long each took to a target. m points, n seeds.

A seed draws split, weights, order and crops, the same for all points, so differences are by pairs. No torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from fanlight.console import count_text
from fanlight.study.stats import LEVEL, Untold

ALPHA = 0.05  # chance that any point at all is flagged where none differs
SEEDS_LEAST = 3
EXACT_MOST = 16  # seeds; 2^16 signs are tried one by one


@dataclass(frozen=True)
class Difference:
    """Accuracy of a point less that of the baseline."""

    point: str
    seeds: tuple[int, ...]  # that both have
    mean: float
    interval: tuple[float, float]  # of the mean, for this point alone: not corrected for others
    p: float  # two-sided
    p_holm: float  # corrected for all points (Holm 1979)
    method: Literal["sign-flip", "t"]
    differs: bool


@dataclass(frozen=True)
class TimeToAccuracy:
    """Seconds to the first evaluation at or above the target."""

    target: float
    seeds: int
    reached: int
    median_s: float | Untold  # over all seeds, those that never reached it included
    range_s: tuple[float, float] | None  # least and greatest of those that reached it
    range_level: float | None  # chance that the range holds the true median; None where a seed did not reach it
    said: str  # such as `2 of 3 reached`


def differences(
    accuracies: Mapping[str, Mapping[int, float]], *, baseline: str, images: int
) -> dict[str, Difference | Untold]:
    """Points whose accuracy differs from the baseline's, from accuracies by point and seed over `images` images each.

    Two-sided tests of the seeds' differences. Where n seeds can tell m points apart by the least p of 2^(1 − n), Fisher's
    sign-flip test (1935), exact whatever the distribution: from 6 seeds for one point. With fewer, Student's paired t, which
    supposes normal differences; since few images make differences alike by chance, their variance is taken as no less
    than |mean| / `images`: runs that are apart by k images disagree on k at least, each like the toss of a coin.
    Holm's correction holds the chance of any false flag to .05 over all points. A point with fewer than 3 seeds in common
    with the baseline is Untold. ValueError for a baseline that is missing, for `images` below 1, for shares outside 0 … 1.
    """
    if baseline not in accuracies:
        raise ValueError(f"no baseline {baseline!r} among {', '.join(accuracies) or 'no points'}")
    if images < 1:
        raise ValueError(f"images must be 1 or more, got {images}")
    for point, scores in accuracies.items():
        for seed, value in scores.items():
            _check_share(value, name=f"{point}, seed {seed}: accuracy")
    paired, told = {}, {}
    for point, scores in accuracies.items():
        seeds = tuple(sorted(set(scores) & set(accuracies[baseline])))
        if point == baseline:
            continue
        if len(seeds) < SEEDS_LEAST:
            common = f"{count_text(len(seeds), 'seed')} in common with {baseline}"
            told[point] = Untold(f"{common}, {SEEDS_LEAST} are needed; train more")
        else:
            paired[point] = seeds, np.array([scores[seed] - accuracies[baseline][seed] for seed in seeds])
    tests = {point: _test(gaps, points=len(paired), images=images) for point, (_, gaps) in paired.items()}
    corrected = dict(zip(tests, holm([p for _, p, _ in tests.values()])))
    found: dict[str, Difference | Untold] = {}
    for point in accuracies:
        if point in told:
            found[point] = told[point]
        elif point in tests:
            (seeds, gaps), (method, p, half) = paired[point], tests[point]
            mean = float(gaps.mean())
            interval = mean - half, mean + half
            p_holm = corrected[point]
            found[point] = Difference(point, seeds, mean, interval, p, p_holm, method, p_holm <= ALPHA)
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number, in the order given: each is flagged if not above the level (Holm 1979)."""
    count, found, largest = len(ps), [0.0] * len(ps), 0.0
    for place, at in enumerate(sorted(range(count), key=lambda at: ps[at])):
        largest = max(largest, min(1.0, (count - place) * ps[at]))
        found[at] = largest
    return found


def sign_flip(gaps_N: np.ndarray) -> float:
    """Share of the 2^n signs of n differences whose sum is at least as far from 0 as theirs: exact, two-sided."""
    count = len(gaps_N)
    signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    sums = np.abs(signs @ gaps_N)
    return float((sums >= sums[0] * (1 - 1e-9) - 1e-12).mean())


def time_to_accuracy(curves: Mapping[int, Sequence[tuple[float, float]]], *, target: float) -> TimeToAccuracy:
    """When seeds reach `target`, from (seconds since the start, accuracy) of each evaluation, in order, by seed.

    A seed that never reached it is censored: it would have taken longer than it ran. The median is told where that is
    enough to know it, else the least that it can be. Nothing is interpolated: a time is late by up to one evaluation.
    ValueError for no seeds, a target outside 0 … 1, seconds that do not grow or are negative, accuracies outside 0 … 1.
    """
    _check_share(target, name="target")
    if not curves:
        raise ValueError("time to accuracy needs one curve per seed, got none")
    times, ran = [], []
    for seed, curve in curves.items():
        seconds = np.array([at for at, _ in curve], np.float64)
        if not len(seconds) or not np.isfinite(seconds).all() or seconds[0] < 0 or (np.diff(seconds) <= 0).any():
            raise ValueError(f"seed {seed}: seconds of evaluations must be finite, from 0 on, and grow, got {seconds}")
        for _, value in curve:
            _check_share(value, name=f"seed {seed}: accuracy")
        hit = next((at for at, value in curve if value >= target), None)
        times.append(np.inf if hit is None else float(hit))
        ran.append(float(seconds[-1]) if hit is None else float(hit))
    reached = [each for each in times if np.isfinite(each)]
    said = f"{len(reached)} of {len(times)} reached"
    level = (
        1 - 2.0 ** (1 - len(times)) if len(reached) == len(times) > 1 else None
    )  # order statistics, any distribution
    return TimeToAccuracy(
        target, len(times), len(reached), _median(times, ran, said=said),
        (min(reached), max(reached)) if reached else None, level, said,
    )  # fmt: skip


def _median(times: list[float], ran: list[float], *, said: str) -> float | Untold:
    """The median where it is the same, whenever after its end a censored run had arrived."""
    if len(times) < SEEDS_LEAST:
        return Untold(f"{said}; a median needs {SEEDS_LEAST} seeds")
    with np.errstate(invalid="ignore"):
        least, most = float(np.median(ran)), float(np.median(times))
    if least == most:
        return least
    return Untold(f"{said}; the median is above {least:.4g} s")


def _test(gaps_N: np.ndarray, *, points: int, images: int) -> tuple[Literal["sign-flip", "t"], float, float]:
    """Method, two-sided p, and half of the t interval of the mean."""
    count, mean = len(gaps_N), float(gaps_N.mean())
    error = float(np.sqrt(max(gaps_N.var(ddof=1), abs(mean) / images) / count))
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    if count <= EXACT_MOST and points * 2.0 ** (1 - count) <= ALPHA:
        return "sign-flip", sign_flip(gaps_N), half
    return "t", (float(2 * stdtr(count - 1, -abs(mean) / error)) if error > 0 else 1.0), half


def _check_share(value: float, *, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {value:g}")
