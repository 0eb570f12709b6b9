"""Measuring: variants take turns in rounds, and each round gives one steady rate of each. No variant meets a colder cache
or a busier machine than the others, and what a variant needs once, before its first image, is told beside its rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

SERIAL = "serial"
ROUNDS = 5  # where their number was left open
ROUNDS_LEAST = 3  # of one or two, the least and the greatest say nothing about the next


def _nothing() -> None:
    pass


@dataclass
class Point:
    """One variant of one piece of work."""

    what: str  # the work, such as resize
    engine: str  # who does it
    workers: int
    work: Callable[[], int]  # a whole pass; how many images it was
    start_s: float = 0.0  # once, before the first image
    before: Callable[[], object] = _nothing  # before each pass, not timed
    after: Callable[[], object] = _nothing  # after the last pass of a turn: until it is at rest, not timed
    pickled_bytes: int = 0  # per image, through pipes, there and back
    tasks: int = 0  # that the work is cut into, where that is fewer than images
    largest_task: float = 0.0  # its share of the work
    note: str = ""  # what a reader of its rates has to know
    rates: list[float] = field(default_factory=list)  # images per second, one per round


def measure(points: Sequence[Point], *, rounds: int, block_s: float, tick: Callable[[], object] = _nothing) -> None:
    """Fills `rates`. In round r the order begins with point r; round −1 warms up and is not kept."""
    for number in range(-1, rounds):
        first = max(number, 0) % max(len(points), 1)
        for point in [*points[first:], *points[:first]]:
            rate = _rate(point, block_s=0.0 if number < 0 else block_s)
            if number >= 0:
                point.rates.append(rate)
            tick()


def _rate(point: Point, *, block_s: float) -> float:
    """Images per second of whole passes that take at least `block_s` together."""
    images, seconds = 0, 0.0
    while not images or seconds < block_s:
        point.before()
        begin = time.perf_counter()
        images += point.work()
        seconds += time.perf_counter() - begin
    point.after()
    return images / seconds


def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """What the points gave. Speedup is over the serial point of the same work in the same rounds, that is over one core;
    where there is none, over the same engine with the fewest workers."""
    found = []
    for point in points:
        reference = _reference(point, points)
        ratios = [own / other for own, other in zip(point.rates, reference.rates)]
        speedup = statistics.median(point.rates) / statistics.median(reference.rates)
        found.append({
            "what": point.what, "engine": point.engine, "workers": point.workers,
            "images_per_s": statistics.median(point.rates), "interval": [min(point.rates), max(point.rates)],
            "speedup": speedup, "speedup_interval": [min(ratios), max(ratios)],
            "efficiency": speedup / max(point.workers, 1), "startup_s": point.start_s, "n": len(point.rates),
            "pickled_bytes": point.pickled_bytes, "note": point.note,
        })  # fmt: skip
    return found


def _reference(point: Point, points: Sequence[Point]) -> Point:
    same = [other for other in points if other.what == point.what]
    serial = [other for other in same if other.engine == SERIAL]
    return serial[0] if serial else min((o for o in same if o.engine == point.engine), key=lambda o: o.workers)
