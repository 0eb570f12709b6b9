"""Jobs through an engine: results in order, or written to a file in whatever order is quickest.

At most a few tasks per worker are under way, so that memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanlight.data import pending
from fanlight.data.engines import chunks, work
from fanlight.data.engines.engine import Engine
from fanlight.data.engines.operations import Operation
from fanlight.data.engines.region import Region
from fanlight.data.engines.work import Job, Task

AHEAD = 3  # tasks under way per worker
TASK_BYTES = 16 << 20  # results of one task, unless a single image has more


@dataclass(frozen=True)
class Result:
    """Of one job. `pixels` stay valid until the next result is asked for."""

    number: int
    pixels: np.ndarray | None  # None where the image could not be decoded
    reason: str = ""  # why not


def results(engine: Engine, operation: Operation, jobs: Sequence[Job]) -> Iterator[Result]:
    """One Result per job, in the order of `jobs`, equal for every engine bit for bit."""
    engine.start()
    sizes = [operation.result_bytes(job.height, job.width) for job in jobs]
    costs = _costs(operation, jobs)
    most = chunks.task_cost(sum(costs), engine.workers)
    parts = chunks.cut(costs, most=most, sizes=sizes, size_most=TASK_BYTES)
    ahead = 1 if engine.name == "serial" else AHEAD * engine.workers
    if engine.place != "beside":
        tasks = (Task(operation, list(jobs[part])) for part in parts)
        for part, (_, outcome) in zip(parts, pending.in_order(tasks, engine.submit, ahead=ahead)):
            for place, number in enumerate(range(part.start, part.stop)):
                yield Result(number, outcome.arrays[place], outcome.failed.get(place, ""))
        return
    room = -(-max((sum(_aligned(size) for size in sizes[part]) for part in parts), default=0) // 4096) * 4096
    region = Region(room * ahead)  # a ring of rooms: one is used again when its results have been taken
    try:
        tasks = (
            _placed(operation, jobs[part], sizes[part], region, (n % ahead) * room) for n, part in enumerate(parts)
        )
        for part, (task, outcome) in zip(parts, pending.in_order(tasks, engine.submit, ahead=ahead)):
            for place, job in enumerate(task.jobs):
                number = part.start + place
                if place in outcome.failed:
                    yield Result(number, None, outcome.failed[place])
                    continue
                shape = operation.shape(job.height, job.width)
                yield Result(number, region.array(shape, operation.dtype, offset=job.place))
    finally:
        region.close()


def write(engine: Engine, operation: Operation, jobs: Sequence[Job], *, out: Path) -> Iterator[dict[int, str]]:
    """Every job's result at its place in the file `out`, which is there and long enough. After each task: how many jobs it
    had, and the numbers of those that could not be decoded, with the reason."""
    engine.start()
    costs = _costs(operation, jobs)
    parts = chunks.cut(costs, most=chunks.task_cost(sum(costs), engine.workers))
    parts = chunks.largest_first(parts, costs)
    target = None if engine.place == "away" else str(out)
    ahead = 1 if engine.name == "serial" else AHEAD * engine.workers
    tasks = (Task(operation, list(jobs[part]), target) for part in parts)
    with open(out, "r+b", buffering=0) as file:
        for part, (task, outcome) in zip(parts, pending.in_order(tasks, engine.submit, ahead=ahead)):
            for job, pixels in zip(task.jobs, outcome.arrays):  # of workers that cannot write here
                if pixels is not None:
                    work.write_at(file, pixels, job.place)
            failed = {part.start + place: reason for place, reason in outcome.failed.items()}
            yield {number: failed.get(number, "") for number in range(part.start, part.stop)}


def _costs(operation: Operation, jobs: Sequence[Job]) -> list[float]:
    return [operation.cost_ns(job.height, job.width, file_bytes=job.file_bytes) for job in jobs]


def _aligned(size: int) -> int:
    return -(-size // 64) * 64  # so that every result begins where its numbers may


def _placed(operation: Operation, jobs: Sequence[Job], sizes: list[int], region: Region, start: int) -> Task:
    placed = []
    for job, size in zip(jobs, sizes):
        placed.append(job._replace(place=start))
        start += _aligned(size)
    return Task(operation, placed, region.path)
