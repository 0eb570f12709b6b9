"""What a process used of the machine, and what a step usually takes. No torch."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUP = 4  # steps whose mean counts as one: a step's neighbours pay for what it leaves, such as memory to be collected
QUARTILES_APART = 1.349  # standard deviations between the quartiles of a normal distribution
OWN = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Spent:
    """Since this process began."""

    cpu_s: float  # computing, by all its threads
    queued_s: float  # this thread was ready to compute, and others had the core; 0 where the system does not tell

    @classmethod
    def now(cls) -> Spent:
        queued_ns = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            queued_ns = int(OWN.read_text().split()[1])
        return cls(time.process_time(), queued_ns / 1e9)

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(self.cpu_s - earlier.cpu_s, max(0.0, self.queued_s - earlier.queued_s))


def typical(times: Sequence[float], *, period: int = 1) -> float:
    """Seconds of a step: the median over groups of neighbours of their mean. A group is a multiple of `period`, after which
    steps repeat themselves; steps that fill no group of their own make their neighbours' larger."""
    turns = len(times) // period
    if turns == 0:
        return statistics.fmean(times)
    count = max(1, turns // -(-GROUP // period))
    ends = [period * (number * turns // count) for number in range(count + 1)]
    return statistics.median(statistics.fmean(times[first:end]) for first, end in itertools.pairwise(ends))


def scatter(times: Sequence[float]) -> float:
    """Standard deviation of a step's time, relative, as its middle half has it: steps that something else disturbed do not
    count. 0 of too few."""
    if len(times) < GROUP:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / QUARTILES_APART / middle
