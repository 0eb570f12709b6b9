"""Scores a split: every sample once, the same batches on any number of ranks, one table on rank 0. N samples."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from fanlight.data.loader import Cutting, Samples, evaluation_batches
from fanlight.parallel.comm import World
from fanlight.tasks import Task
from fanlight.train.step import Step
from fanlight.types import Rows

Scored = tuple[np.ndarray, np.ndarray]  # samples and their rows


def outputs(
    step: Step, task: Task, samples: Samples, cutting: Cutting, world: World, *, batch: int, workers: int,
    views: int = 1,
) -> np.ndarray | None:  # fmt: skip
    """The task's rows of every sample, [N, …] in sample order, on rank 0; None elsewhere. All ranks call it.

    Of several `views` of a sample the rows are averaged. Of logits, that is the mean of log-probabilities up to a
    constant: the normalised geometric mean of the views' probabilities (the logarithmic pool, Genest and Zidek 1986),
    in which one temperature divides the pool as it divides each view. Raises when a sample was scored twice or not at all.
    """
    chosen, rows = [np.empty(0, np.int64)], []

    def score(parts: tuple[Rows, ...]) -> Scored | None:
        every = (_rows_of(task, step.forward(part), part) for part in parts)
        found = [each for each in every if each is not None]
        return (parts[0].samples, mean_of_views(found)[: len(parts[0].samples)]) if found else None

    batches = evaluation_batches(samples, cutting, batch=batch, workers=workers, views=views)
    with contextlib.closing(batches), step.evaluating():
        threads = torch.get_num_threads() if world.device.type == "cpu" and step.evaluates_in_threads else 1
        for found in in_threads(score, (each.parts for each in batches), threads=threads):
            world.heartbeat.enter("evaluate")
            if found is not None:
                chosen.append(found[0])
                rows.append(found[1])
    width = int(world.sum_host(np.eye(world.ranks)[world.rank] * (rows[0].shape[1] if rows else 0)).max())
    own = np.concatenate(rows) if rows else np.empty((0, width), np.float32)
    all_chosen, all_rows = world.gather(np.concatenate(chosen)), world.gather(own)
    if all_chosen is None or all_rows is None:
        return None
    order = np.argsort(all_chosen, kind="stable")
    assert np.array_equal(all_chosen[order], np.arange(len(samples))), "a sample was scored twice or not at all"
    return all_rows[order]


def _rows_of(task: Task, outputs: torch.Tensor | None, part: Rows) -> np.ndarray | None:
    if outputs is None:
        return None
    assert part.targets is not None
    return task.rows(outputs, part.targets.to(outputs.device).long())


def mean_of_views(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of arrays of one shape, summed in float64 in their order; a single one as it is."""
    return rows[0] if len(rows) == 1 else np.mean(np.stack(rows).astype(np.float64), 0).astype(rows[0].dtype)


def in_threads(
    score: Callable[[tuple[Rows, ...]], Scored | None], batches: Iterable[tuple[Rows, ...]], *, threads: int
) -> Iterator[Scored | None]:
    """`score` of every batch, in order. On several cores a batch is computed by one thread, several batches at once.

    A matrix product rounds differently on another number of threads (MKL splits its sum); one thread per batch makes
    the rows the same bits however many cores and ranks there are, and no thread waits for another inside a layer.
    """
    if threads == 1:
        yield from map(score, batches)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[Scored | None]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(score, batch))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)  # of this thread, and of those that torch starts from now on
