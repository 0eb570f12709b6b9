"""Do the intervals of `fanlight study` cover as they claim, and do its tests flag as rarely as they say?

Rates are drawn from a known law: a random walk of 5 % per round that all points share, lognormal noise, and busy moments
(a chance per rate of being slowed by 30 % on average). The seeds are fixed. Nothing is timed.

    python benchmarks/interval_coverage.py ratios --draws 1000
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from fanlight.study import accuracy, comparison, laws, stats
from fanlight.study.scaling import Scaling

DRIFT = 0.05  # standard deviation of a step of the walk
SLOWED = 0.3  # mean of the exponential by which a busy moment slows
RANKS = {3: (1, 2, 4), 4: (1, 2, 4, 8), 5: (1, 2, 4, 8, 16), 8: (1, 2, 4, 8, 16, 32, 48, 64)}
TRUTHS: tuple[tuple[str, Scaling, tuple[float, ...]], ...] = (
    ("amdahl", "strong", (0.05,)),
    ("amdahl", "strong", (0.0,)),
    ("gustafson", "weak", (0.1,)),
    ("usl", "strong", (0.05, 0.001)),
    ("usl", "strong", (0.05, 0.0)),
    ("usl", "weak", (0.0, 0.0)),
)


def seeded(*what: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(what).encode()))


def speedups(law: str, theta: Sequence[float], ranks: Sequence[int]) -> np.ndarray:
    """S [P], by the formulas as their authors wrote them."""
    p = np.array(ranks, np.float64)
    if law == "gustafson":
        return theta[0] + (1 - theta[0]) * p
    if law == "amdahl":
        return 1 / (theta[0] + (1 - theta[0]) / p)
    return p / (1 + theta[0] * (p - 1) + theta[1] * p * (p - 1))


def rates(
    true_P: np.ndarray, rounds: int, random: np.random.Generator, *, noise: float, busy: float = 0.0
) -> np.ndarray:
    """Rates [P, N] in images per second around `true_P` × 100."""
    shape = len(true_P), rounds
    logs = np.log(100 * true_P)[:, None] + np.cumsum(random.normal(0, DRIFT, rounds)) + random.normal(0, noise, shape)
    return np.exp(logs) / np.where(random.random(shape) < busy, 1 + random.exponential(SLOWED, shape), 1.0)


def law_coverage(
    law: str, scaling: Scaling, theta: Sequence[float], *, points: int, rounds: int, draws: int, noise: float = 0.02,
    busy: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Shares of draws [K] whose interval holds the truth, and medians of the best values [K]."""
    random = seeded(law, theta, points, rounds, noise, busy)
    held, values = [], []
    for _ in range(draws):
        measured = rates(speedups(law, theta, RANKS[points]), rounds, random, noise=noise, busy=busy)
        found = laws.fit(law, RANKS[points], measured, scaling=scaling)
        assert isinstance(found, laws.LawFit)
        held.append([each.interval[0] <= true <= each.interval[1] for each, true in zip(found.parameters, theta)])
        values.append([each.value for each in found.parameters])
    return np.mean(held, 0), np.median(values, 0)


def ratio_coverage(*, rounds: int, draws: int, noise: float = 0.02, busy: float = 0.0) -> tuple[float, float]:
    """Share of draws whose interval of a speedup of 3 holds it, and the median of its relative half width."""
    random = seeded(rounds, noise, busy)
    found = [stats.ratio(*rates(np.array([3.0, 1.0]), rounds, random, noise=noise, busy=busy)) for _ in range(draws)]
    held = [each.interval is not None and each.interval[0] <= 3 <= each.interval[1] for each in found]
    return float(np.mean(held)), float(np.median([each.half_width for each in found if each.half_width]))


def stopped_coverage(
    *, noise: float, draws: int, rounds_min: int = 5, rounds_max: int = 9, busy: float = 0.0
) -> tuple[float, float, float]:
    """With `enough` asked after each round: coverage, mean of the log of value over truth, mean of rounds."""
    random = seeded(noise, rounds_min, rounds_max, busy)
    held, bias, spent = [], [], []
    for _ in range(draws):
        measured = rates(np.array([1.0, 3.0]), rounds_max, random, noise=noise, busy=busy)
        limits = {"rounds_min": rounds_min, "rounds_max": rounds_max}
        count = next(n for n in range(2, rounds_max + 1) if stats.enough(measured[:, :n], baseline=0, **limits).done)
        found = stats.ratio(measured[1, :count], measured[0, :count])
        held.append(found.interval is not None and found.interval[0] <= 3 <= found.interval[1])
        bias.append(np.log(found.value / 3))
        spent.append(count)
    early = np.array(spent) < rounds_max
    return {
        "coverage": float(np.mean(held)), "early": float(early.mean()),
        "early_coverage": float(np.array(held)[early].mean()) if early.any() else float("nan"),
        "bias": float(np.mean(bias)), "rounds": float(np.mean(spent)),
    }  # fmt: skip


def told(law: str, theta: Sequence[float], *, points: int, rounds: int, draws: int, noise: float = 0.02) -> dict:
    """How often each law was named best of linear, amdahl and usl; `None`: none was."""
    random = seeded(law, theta, points, rounds, noise)
    counts: dict[str | None, int] = {"linear": 0, "amdahl": 0, "usl": 0, None: 0}
    for _ in range(draws):
        measured = rates(speedups(law, theta, RANKS[points]), rounds, random, noise=noise)
        fits = [laws.fit(name, RANKS[points], measured, scaling="strong") for name in ("linear", "amdahl", "usl")]
        counts[comparison.compare(fits).best] += 1
    return {name: count / draws for name, count in counts.items()}


def flagged(*, seeds: int, points: int, draws: int, gap: float = 0.0, images: int = 1000) -> float:
    """Share of draws in which any point is flagged. Accuracy .9, seeds apart by .01 all alike and .004 each by itself."""
    random = seeded(seeds, points, gap, images)
    hits = 0
    for _ in range(draws):
        shared_N = random.normal(0, 0.01, seeds)
        scores = {}
        for at in range(points + 1):
            true_N = 0.9 + shared_N + random.normal(0, 0.004, seeds) - (gap if at else 0)
            scores[f"point {at}"] = dict(enumerate(random.binomial(images, np.clip(true_N, 0, 1)) / images))
        found = accuracy.differences(scores, baseline="point 0", images=images)
        hits += any(isinstance(each, accuracy.Difference) and each.differs for each in found.values())
    return hits / draws


def law_rows(draws: int) -> Iterator[list[str]]:
    for law, scaling, theta in TRUTHS:
        for points in (3, 5, 8):
            cells = []
            for rounds in (3, 5, 7):
                held, _ = law_coverage(law, scaling, theta, points=points, rounds=rounds, draws=draws)
                cells.append(" ".join(f"{each:.3f}" for each in held))
            rough, _ = law_coverage(law, scaling, theta, points=points, rounds=5, draws=draws, noise=0.1)
            busy, _ = law_coverage(law, scaling, theta, points=points, rounds=5, draws=draws, busy=0.05)
            cells += [" ".join(f"{each:.3f}" for each in held) for held in (rough, busy)]
            yield [f"{law} {scaling} {' '.join(f'{each:g}' for each in theta)}, {points} points", *cells]


def ratio_rows(draws: int) -> Iterator[list[str]]:
    for name, (noise, busy) in CONDITIONS.items():
        found = [ratio_coverage(rounds=n, draws=4 * draws, noise=noise, busy=busy) for n in ROUNDS]
        yield [name, *(f"{held:.3f} (± {wide:.1%})" for held, wide in found)]


def stop_rows(draws: int) -> Iterator[list[str]]:
    for noise in (0.01, 0.02, 0.04, 0.08):
        cells = []
        for least in (3, 5):
            found = stopped_coverage(noise=noise, draws=4 * draws, rounds_min=least)
            early = f"{found['early_coverage']:.3f} of {found['early']:.2f}"
            cells += [f"{found['coverage']:.3f}", early, f"{found['bias']:+.4f}", f"{found['rounds']:.1f}"]
        yield [f"{noise:.0%}", *cells]


def told_rows(draws: int) -> Iterator[list[str]]:
    for law, theta in (("amdahl", (0.05,)), ("usl", (0.05, 0.001)), ("usl", (0.05, 0.01))):
        for points in (3, 4, 5, 8):
            found = told(law, theta, points=points, rounds=5, draws=draws)
            cells = (f"{found[name]:.3f}" for name in ("linear", "amdahl", "usl", None))
            yield [f"{law} {' '.join(f'{each:g}' for each in theta)}, {points} points", *cells]


def flag_rows(draws: int) -> Iterator[list[str]]:
    for seeds in (3, 4, 5, 6, 8, 10):
        shares = [flagged(seeds=seeds, points=points, draws=draws, gap=gap) for points, gap in GAPS]
        yield [str(seeds), *(f"{share:.3f}" for share in shares)]


ROUNDS = (3, 4, 5, 6, 7, 8, 9)
CONDITIONS = {
    "noise 2 %": (0.02, 0.0),
    "noise 10 %": (0.1, 0.0),
    "5 % slowed": (0.02, 0.05),
    "10 % slowed": (0.02, 0.1),
}
GAPS = ((1, 0.0), (5, 0.0), (1, 0.02), (5, 0.02), (5, 0.1))  # points, and how much worse than the baseline they are
STOPPED = ("coverage", "of those before 9", "bias of the log", "rounds")
TABLES = {
    "laws": (["law, truth", "3 rounds", "5", "7", "5, noise 10 %", "5, 5 % slowed"], law_rows),
    "ratios": (["speedup, by rounds", *map(str, ROUNDS)], ratio_rows),
    "stopping": (["noise", *(f"min {least}: {each}" for least in (3, 5) for each in STOPPED)], stop_rows),
    "telling": (["truth, 5 rounds", "told linear", "told amdahl", "told usl", "told none"], told_rows),
    "accuracies": (["seeds", *(f"{points} points, {gap:g} worse" for points, gap in GAPS)], flag_rows),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument(
        "--draws", type=int, default=1000, help="of each cell; ratios and stopping take four times as many"
    )
    a = parser.parse_args()
    print(f"{a.draws} draws a cell: standard error of .95 is {np.sqrt(0.0475 / a.draws):.3f}\n")
    for name in a.what:
        head, rows = TABLES[name]
        print("| " + " | ".join(head) + " |\n|---" + "|--:" * (len(head) - 1) + "|")
        for row in rows(a.draws):
            print("| " + " | ".join(row) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
