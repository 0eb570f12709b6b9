"""Scores a split: every sample once, the same batches on any number of ranks, one table on rank 0. N samples."""

from __future__ import annotations

import numpy as np

from fanlight.data.loader import Cutting, Samples, evaluation_batches
from fanlight.parallel.comm import World
from fanlight.tasks import Task
from fanlight.train.step import Step


def outputs(
    step: Step, task: Task, samples: Samples, cutting: Cutting, world: World, *, batch: int, workers: int
) -> np.ndarray | None:
    """The task's rows of every sample, [N, …] in sample order, on rank 0; None elsewhere. All ranks call it.

    Raises when a sample was scored twice or not at all.
    """
    chosen, rows = [np.empty(0, np.int64)], []
    for part in evaluation_batches(samples, cutting, batch=batch, workers=workers):
        result = step.forward(part.parts[0])
        if result is not None:
            rows.append(task.rows(result)[: len(part.parts[0].samples)])
            chosen.append(part.parts[0].samples)
    width = int(world.sum_host(np.array([float(rows[0].shape[1]) if world.is_first and rows else 0.0]))[0])
    own = np.concatenate(rows) if rows else np.empty((0, width), np.float32)
    all_chosen, all_rows = world.gather(np.concatenate(chosen)), world.gather(own)
    if all_chosen is None or all_rows is None:
        return None
    order = np.argsort(all_chosen, kind="stable")
    assert np.array_equal(all_chosen[order], np.arange(len(samples))), "a sample was scored twice or not at all"
    return all_rows[order]
