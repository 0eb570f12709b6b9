"""Batches ahead of time, by threads of this process: no worker processes, so nothing is copied, pickled or grown.

Each task makes this rank's rows of one optimizer step. What is made depends on (seed, epoch, step) alone, never on the
number of threads or ranks. b rows of a microbatch on this rank, P image side.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from fanlight.data import augment, order
from fanlight.data.source import Source
from fanlight.types import Batch, Position, Rows


@dataclass(frozen=True)
class Samples:
    """A split, ready to be read: sample i is manifest row `rows[i]` with `targets[i]` and `weights[i]`. N samples."""

    source: Source
    rows: np.ndarray  # int64 [N]
    targets: np.ndarray  # [N, …], as the task made them
    weights: np.ndarray  # float64 [N], what a sample adds to the loss's denominator
    blocks: np.ndarray | None = None  # int64 [N], for the `blocks` order

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Cutting:
    """How batches are cut: all of it is known before the first image is read."""

    batch: int  # global rows per step
    microbatches: int
    rank: int  # of the ranks that see different rows
    ranks: int
    image_px: int
    seed: int
    flip: bool
    crop_share: tuple[float, float]
    crop_ratio: tuple[float, float]
    eval_share: float


def images(samples: Samples, chosen: np.ndarray, boxes: augment.Boxes, *, image_px: int, pin: bool) -> torch.Tensor:
    """uint8 [b, P, P, 3] of the samples `chosen`, cut by `boxes`."""
    pixels = torch.empty((len(chosen), image_px, image_px, 3), dtype=torch.uint8, pin_memory=pin)
    view = pixels.numpy()
    for place, sample in enumerate(chosen.tolist()):
        augment.cut(samples.source.read(int(samples.rows[sample])), boxes, place, out=view[place])
    return pixels


def train_batches(
    samples: Samples, cutting: Cutting, *, start: Position, epochs: int, workers: int, pin: bool = False
) -> Generator[Batch, None, None]:
    """This rank's part of every step from `start` to the last, made `workers` + 1 steps ahead, across epochs."""
    steps = order.steps_per_epoch(len(samples), cutting.batch)
    orders: dict[int, np.ndarray] = {}

    def make(position: Position, chosen_B: np.ndarray) -> Batch:
        begin = time.perf_counter()
        slices = order.rank_slices(
            cutting.batch, microbatches=cutting.microbatches, rank=cutting.rank, ranks=cutting.ranks
        )
        parts = tuple(_train_rows(samples, chosen_B[part], position.epoch, cutting, pin) for part in slices)
        denominator = float(samples.weights[chosen_B].sum())
        return Batch(position, parts, denominator, time.perf_counter() - begin)

    def tasks() -> Iterator[tuple[Position, np.ndarray]]:
        for position in order.positions(start, epochs=epochs, steps=steps):
            if position.epoch not in orders:
                orders.clear()
                orders[position.epoch] = _order(samples, cutting.seed, position.epoch)
            first = position.step * cutting.batch
            yield position, orders[position.epoch][first : first + cutting.batch]

    yield from _ahead(make, tasks(), workers)


def evaluation_batches(
    samples: Samples, cutting: Cutting, *, batch: int, workers: int, pin: bool = False
) -> Generator[Batch, None, None]:
    """This rank's batches of an evaluation: centre crops, every sample once, the last batch padded with its last image.

    `samples` of a padded batch is shorter than `images`: rows beyond it are not counted.
    """

    def make(position: Position, chosen: np.ndarray) -> Batch:
        begin = time.perf_counter()
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen))])
        rows = samples.rows[padded]
        boxes = augment.centre_boxes(
            samples.source.heights[rows], samples.source.widths[rows], share=cutting.eval_share
        )
        pixels = images(samples, padded, boxes, image_px=cutting.image_px, pin=pin)
        part = Rows(chosen, pixels, torch.from_numpy(samples.targets[chosen]))
        return Batch(position, (part,), float(samples.weights[chosen].sum()), time.perf_counter() - begin)

    slices = order.evaluation_slices(len(samples), batch=batch, rank=cutting.rank, ranks=cutting.ranks)
    every = np.arange(len(samples))
    yield from _ahead(make, ((Position(0, step), every[part]) for step, part in enumerate(slices)), workers)


def _train_rows(samples: Samples, chosen: np.ndarray, epoch: int, cutting: Cutting, pin: bool) -> Rows:
    rows = samples.rows[chosen]
    boxes = augment.random_boxes(
        chosen, samples.source.heights[rows], samples.source.widths[rows], seed=cutting.seed, epoch=epoch,
        flip=cutting.flip, share=cutting.crop_share, ratio=cutting.crop_ratio,
    )  # fmt: skip
    pixels = images(samples, chosen, boxes, image_px=cutting.image_px, pin=pin)
    return Rows(chosen, pixels, torch.from_numpy(samples.targets[chosen]))


def _order(samples: Samples, seed: int, epoch: int) -> np.ndarray:
    if samples.blocks is not None:
        return order.block_order(samples.blocks, seed=seed, epoch=epoch)
    return order.epoch_order(len(samples), seed=seed, epoch=epoch)


def _ahead(make, tasks: Iterator[tuple[Position, np.ndarray]], workers: int) -> Iterator[Batch]:
    """Runs `make` on threads, in order, at most `workers` + 1 results ahead of the consumer."""
    cv2.setNumThreads(0)  # our threads are the parallelism; OpenCV's own would fight the compute threads
    waiting: deque[Future[Batch]] = deque()
    threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="input")
    try:
        for task in tasks:
            waiting.append(threads.submit(make, task[0], task[1]))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
