"""Jobs cut into tasks of about equal cost, so that no worker is left with the one slow folder. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

TASKS_PER_WORKER = 8  # at least, so that what is left at the end is small
TASK_NS = 5e6, 2e8  # a task's cost: enough to be worth a message, and soon enough over to show progress and to stop


def task_cost(total_ns: float, workers: int) -> float:
    """The cost to aim at for `total_ns` of work: an eighth of a worker's share, between 5 and 200 ms."""
    return min(max(total_ns / (workers * TASKS_PER_WORKER), TASK_NS[0]), TASK_NS[1])


def cut(costs: Sequence[float], *, most: float, sizes: Sequence[int] = (), size_most: int = 0) -> list[slice]:
    """Neighbours together until one more would pass `most`, or the sum of `sizes` would pass `size_most`.

    Every item is in exactly one slice, in order; only an item that is above a limit by itself makes a slice above it."""
    slices, start, cost, size = [], 0, 0.0, 0
    for number, next_cost in enumerate(costs):
        next_size = sizes[number] if sizes else 0
        if number > start and (cost + next_cost > most or (sizes and size + next_size > size_most)):
            slices.append(slice(start, number))
            start, cost, size = number, 0.0, 0
        cost, size = cost + next_cost, size + next_size
    return [*slices, slice(start, len(costs))] if len(costs) else []


def largest_first(slices: list[slice], costs: Sequence[float]) -> list[slice]:
    """For workers that each take the next one: they end together to within one slice (Graham 1969)."""
    return sorted(slices, key=lambda part: -sum(costs[part.start : part.stop]))
