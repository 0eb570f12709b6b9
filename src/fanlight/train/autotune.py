"""Which of the ways to compute is fastest for this model on this machine: whole steps, measured in turns.

Only what was left open is measured, and only a gain that is clear of noise changes a choice. Candidates take turns, one
step each, so that another program's bursts fall on all of them; a gain is the median of the turns' ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from fanlight import console

Step = Callable[[], float]  # seconds of one step

TURNS, TURNS_LEAST = 5, 3  # of each candidate; the fewer where the answer is plain or time is short
TURNS_MOST, QUICK_S = 15, 2.0  # more turns of quick steps, until a comparison has taken so long
CLEAR = 1.05  # times faster, in the median, before a choice changes; besides, three quarters of the turns must agree
PLAIN = 1.3  # times faster or slower in every turn: further turns would tell nothing
SHARE = 1 / 20  # of the training expected that measuring may take
BUDGET_S, BUDGET_MOST_S = 15.0, 60.0  # seconds: at least and at most


def budget_s(expected_s: float) -> float:
    """A twentieth of the training that is expected, from 15 s to 60 s."""
    return min(BUDGET_MOST_S, max(BUDGET_S, SHARE * expected_s))


def pays_back(expected_s: float) -> bool:
    """Whether to measure where nobody asked: training takes 20 times what measuring does, so 5 % of gain repays it."""
    return expected_s * SHARE >= BUDGET_S


@dataclass
class Budget:
    """Time to measure in. `now` in seconds."""

    seconds: float
    now: Callable[[], float] = time.perf_counter
    begun: float = -1.0

    def __post_init__(self) -> None:
        self.begun = self.now() if self.begun < 0 else self.begun

    @property
    def left_s(self) -> float:
        return self.seconds - (self.now() - self.begun)

    def is_over(self) -> bool:
        return self.left_s <= 0


@dataclass(frozen=True)
class Gain:
    """How many times faster `name` is than `of`, by turns."""

    key: str  # of the config
    name: str
    of: str
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    def is_clear(self, *, least: float = CLEAR) -> bool:
        """Large enough, and outside the spread: faster at the lower quartile too."""
        return self.ratio >= least and self.quartiles[0] > 1

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    def words(self) -> str:
        low, high = self.quartiles
        return f"{self.name} {self.ratio:.2f}× of {self.of} (n = {len(self.ratios)}, quartiles {low:.2f} … {high:.2f})"

    def document(self) -> dict[str, Any]:
        return {
            "key": self.key, "candidate": self.name, "of": self.of, "ratio": self.ratio, "quartiles": self.quartiles,
            "n": len(self.ratios),
        }  # fmt: skip


def in_turns(
    base: Step, others: Iterable[Step], *, budget: Budget, quick_s: float = QUICK_S
) -> list[tuple[float, ...]]:
    """Seconds of each candidate's steps by turn, those of `base` first; each was warmed up by a step. `quick_s`: as long further
    turns are taken."""
    every = [base, *others]
    for step in every:
        step()
    times: list[tuple[float, ...]] = [() for _ in every]
    left_s = budget.left_s
    for turn in range(TURNS_MOST):
        is_plain = all(_is_plain(_ratios(times[0], own)) for own in times[1:] if turn)
        if turn >= TURNS_LEAST and (budget.is_over() or is_plain):
            break
        if turn >= TURNS and left_s - budget.left_s > quick_s:
            break
        times = [(*own, step()) for own, step in zip(times, every)]
    return times


def _ratios(base: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(base_s / other_s for base_s, other_s in zip(base, other))


def _is_plain(ratios: tuple[float, ...]) -> bool:
    return min(ratios) >= PLAIN or max(ratios) <= 1 / PLAIN


@dataclass
class Tuner:
    """Compares, decides, and remembers what was measured and what was not."""

    budget: Budget
    base: Step  # the best so far
    base_s: float  # seconds of its step
    gains: list[Gain] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def choose(
        self, key: str, of: str, others: dict[str, Callable[[], Step]], *, least: float = CLEAR, start_s: float = 0.0,
        reference: Step | None = None,
    ) -> tuple[str, str]:  # fmt: skip
        """The winner's name and the reason in words. `others` are made when there is time to measure them, which takes
        `start_s`; `reference`: what `of` names, where it is not the best so far."""
        cost_s = start_s + (1 + len(others)) * (1 + TURNS_LEAST) * self.base_s
        if cost_s > self.budget.left_s:
            self.left_out.append(
                f"{key}: measuring {', '.join(others)} takes about {console.seconds_text(cost_s)}, and "
                f"{console.seconds_text(max(0.0, self.budget.left_s))} of {self.budget.seconds:.0f} s are left"
            )
            return "", ""
        base = reference or self.base
        steps = {name: make() for name, make in others.items()}
        base_times, *times = in_turns(base, steps.values(), budget=self.budget)
        found = [Gain(key, name, of, _ratios(base_times, own)) for name, own in zip(steps, times)]
        self.gains += found
        for gain in found:
            console.say(f"  autotune: {gain.words()}")
        told = "; ".join(gain.words() for gain in found)
        best = max((gain for gain in found if gain.is_clear(least=least)), key=lambda gain: gain.ratio, default=None)
        if best is None:
            self.base, self.base_s = base, median(base_times)
            return of, f"{told}: no clear gain, whole steps measured in turns"
        self.base, self.base_s = steps[best.name], median(times[found.index(best)])
        return best.name, f"{told}; whole steps measured in turns"

    def document(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {
            "budget_s": self.budget.seconds, "seconds": self.budget.seconds - self.budget.left_s,
            "gains": [gain.document() for gain in self.gains], "left_out": self.left_out,
        }  # fmt: skip
