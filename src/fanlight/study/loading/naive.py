"""The ways that preparation is usually made parallel, as rows of their own, so that their cost is seen: a Pool to which
whole arrays are pickled and which pickles whole arrays back (`map`, `imap`, `apply_async`), and one task per class.

The operations are the engines' own. Workers are started from nothing, as the engine `processes` starts its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.pool import Pool
from typing import Any

import numpy as np

from fanlight.data.engines import Job, Operation, work
from fanlight.data.engines.processes import ONE_THREAD
from fanlight.study.loading import preparing
from fanlight.study.loading.points import Point
from fanlight.study.loading.sample import Sample

MAP, IMAP, APPLY, CLASSES = "Pool.map", "Pool.imap", "Pool.apply_async", "Pool, a task per class"
PIXELS = tuple(what for what in preparing.WHAT if what != "decode")  # arrays are there to be pickled
BY_CLASS = ("decode", "histogram")
Apply = Callable[[np.ndarray], np.ndarray]


def opened(workers: Sequence[int], stack: ExitStack) -> list[tuple[Pool, int, float]]:
    """A pool per number of workers, with the seconds that it took to start."""
    found = []
    for count in workers:
        begin = time.perf_counter()
        with _environment():
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(count, _deaf))
        pool.map(_imported, range(4 * count), chunksize=1)
        found.append((pool, count, time.perf_counter() - begin))
    return found


def points(sample: Sample, pools: Sequence[tuple[Pool, int, float]]) -> list[Point]:
    """All of them, their results compared with the serial ones."""
    arrays = [np.array(work.image(job)) for job in sample.pixels]  # decoded, in memory
    found: list[Point] = []
    for what in PIXELS:
        operation, jobs = preparing.operation(what, sample)
        given = sum(array.nbytes for array in arrays)
        back = sum(operation.result_bytes(job.height, job.width) for job in jobs)
        apply: Apply = operation.__call__  # mypy takes no tuple for a function
        serial: Callable[[], Any] = partial(map, apply, arrays)
        for pool, count, start_s in pools:
            ways: dict[str, Callable[[], Any]] = {
                MAP: partial(pool.map, apply, arrays),
                IMAP: partial(pool.imap, apply, arrays),
                APPLY: partial(_applied, pool, apply, arrays),
            }
            preparing.compare(
                what,
                [("serial", partial(_digest, serial)), *((name, partial(_digest, way)) for name, way in ways.items())],
            )
            for name, way in ways.items():
                point = Point(what, name, count, partial(_count, way), start_s)
                point.pickled_bytes = (given + back) // len(arrays)
                found.append(point)
    return found + _by_class(sample, pools)


def _by_class(sample: Sample, pools: Sequence[tuple[Pool, int, float]]) -> list[Point]:
    found = []
    for what in BY_CLASS:
        operation, jobs = preparing.operation(what, sample)
        classes: dict[str, list[Job]] = {}
        for job, label in zip(jobs, sample.labels):
            classes.setdefault(label, []).append(job)
        tasks = list(classes.values())
        costs = [sum(operation.cost_ns(j.height, j.width, file_bytes=j.file_bytes) for j in task) for task in tasks]
        for pool, count, start_s in pools:
            work_of = partial(_by_tasks, pool, operation, tasks)
            point = Point(what, CLASSES, count, work_of, start_s)
            point.tasks, point.largest_task = len(tasks), max(costs) / sum(costs)
            found.append(point)
    return found


def _applied(pool: Pool, apply: Apply, arrays: list[np.ndarray]) -> Iterator[np.ndarray]:
    waiting = [pool.apply_async(apply, (array,)) for array in arrays]
    for each in waiting:
        yield each.get()


def _by_tasks(pool: Pool, operation: Operation, tasks: list[list[Job]]) -> int:
    return sum(pool.map(partial(_one_class, operation), tasks, chunksize=1))


def _one_class(operation: Operation, jobs: list[Job]) -> int:
    """One class's images, one by one; nothing but their number is returned, which is in this way's favour."""
    for job in jobs:
        work.run(work.Task(operation, [job]))
    return len(jobs)


def _digest(way: Callable[[], Any]) -> str:
    return preparing.digest_of(way())


def _count(way: Callable[[], Any]) -> int:
    return sum(1 for _ in way())


def _deaf() -> None:
    """A terminal's Ctrl-C reaches workers, too: one that died of it with the tasks' lock would keep the pool from its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _imported(_: int) -> int:
    time.sleep(0.01)  # so that no worker takes all of these
    return os.getpid()


@contextmanager
def _environment() -> Iterator[None]:
    """One thread in each worker, as in the engines' own."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
