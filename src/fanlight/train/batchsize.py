"""A batch size that is measured: the knee of throughput, within memory, and small enough for the data. b images, global.

A larger batch makes a step cheaper per image until the machine is busy; beyond that it only makes steps fewer. The search
doubles b, stops at the knee, and never tries what would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fanlight.train.probe import Timed

FIRST = 8  # images of the smallest batch that is tried, where the data and the ranks allow
WORTH = 1.05  # times the throughput that a doubling must bring
STEPS_PER_EPOCH = 20  # at least: with fewer, an epoch moves the weights too seldom for the accuracy to keep up
MEMORY_SHARE = 0.8  # of what is available: fragments and the images read ahead need the rest


class Limits(Protocol):
    """What forbids a larger batch, beside the data."""

    def add(self, images: int, timed: Timed) -> None:
        """A batch of so many images took that."""
        ...

    def why_not(self, images: int) -> str:
        """Why a batch of so many is not to be tried; empty where it is."""
        ...


@dataclass
class Memory:
    """Predicts the peak of a batch from smaller ones: what a step holds grows by a fixed number of bytes per image."""

    available: Callable[[], int]  # bytes that a rank can still take; the least of all ranks
    seen: list[tuple[int, int]] = field(default_factory=list)  # (images, peak bytes), ascending
    held: int = 0  # bytes that it holds already: what is available does not count them

    def add(self, images: int, timed: Timed) -> None:
        self.seen.append((images, timed.peak_bytes))
        self.held = timed.held_bytes

    def fits(self, images: int) -> bool:
        """True while too little is known to say no."""
        if len(self.seen) < 2 or not self.seen[-1][1]:
            return True
        (b0, p0), (b1, p1) = self.seen[-2:]
        peak = p1 + max(0.0, (p1 - p0) / (b1 - b0)) * (images - b1)
        return peak - self.held <= MEMORY_SHARE * self.available()

    def why_not(self, images: int) -> str:
        return "" if self.fits(images) else needs_more(images)


@dataclass(frozen=True)
class Found:
    """The batch size, and why it is no larger."""

    batch: int
    reason: str
    tried: tuple[tuple[int, float], ...]  # (b, images per second)
    limit: str = ""  # of the reason, what ended the doubling


def needs_more(images: int) -> str:
    return f"memory: {images} would need more than {MEMORY_SHARE:.0%} of the memory available"


def most_of(count: int, *, unit: int = 1) -> int:
    """The largest batch, a multiple of `unit`, that `count` training images allow: a 20th of them, of few images a quarter, up
    to the first that is tried. 0 where they are fewer than that."""
    return max(min(count // 4, FIRST), count // STEPS_PER_EPOCH) // unit * unit


def search(
    measure: Callable[[int], Timed],
    limits: Limits,
    *,
    count: int,
    least: int = 1,
    unit: int = 1,
    first: int = FIRST,
    is_late: Callable[[], bool] = bool,
    source: str = "measured",
) -> Found:
    """Doubles b from `first` until a doubling brings less than 5 %, `limits` or `count` training images forbid it, or it
    `is_late`.

    `least`: b must leave every rank a row of every microbatch; `unit`: b is a multiple of it, as `least` is. The answer is
    at least `least`, and above that at most a 20th of `count` (of few images a quarter, up to the first that is tried),
    whatever the measurements say. `source`: what the rates are, for the reason.
    """
    most = max(least, most_of(count, unit=unit))
    b = min(max(first, least), most)
    best, why = b, ""
    tried: list[tuple[int, float]] = []
    while True:
        timed = measure(b)
        if timed.error:
            why = f"{b} cannot be computed: {timed.error}"
            break
        rate = b / timed.step_s
        if tried and rate < WORTH * tried[-1][1]:
            why = f"knee: {b} are only {rate / tried[-1][1]:.2f}× as fast per image"
            break
        best = b
        tried.append((b, rate))
        limits.add(b, timed)
        if 2 * b > most:
            why = f"data: {count} training images, of which a larger batch leaves fewer than {STEPS_PER_EPOCH} steps per epoch"
        elif not (why := limits.why_not(2 * b)) and is_late():
            why = "the time to measure is over"
        if why:
            break
        b *= 2
    rates = ", ".join(f"{b}: {rate:.3g} img/s" for b, rate in tried)
    return Found(best, f"{source}: {rates or 'nothing'}; {why}", tuple(tried), why)


def microbatches(measure: Callable[[int], Timed], memory: Memory, *, rows: int) -> tuple[int, str]:
    """How many microbatches `rows` rows of one rank need to fit, by doubling, and why (empty: one does).

    Two small parts are measured and the rest predicted, since a CPU's process is killed by what does not fit.
    """
    for share in (8, 4):
        if rows >= 2 * share:
            timed = measure(rows // share)
            if timed.error:
                break
            memory.add(rows // share, timed)
    parts = 1
    while rows // parts >= 2 and not memory.fits(-(-rows // parts)):
        parts *= 2
    return parts, f"{rows} images at once would need more than {MEMORY_SHARE:.0%} of the memory available" * (parts > 1)
