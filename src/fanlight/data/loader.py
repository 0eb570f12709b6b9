"""Batches ahead of time, by threads of this process: no worker processes, so nothing is copied, pickled or grown.

Each task makes this rank's rows of one optimizer step. What is made depends on (seed, epoch, step) alone, never on the
number of threads or ranks. b rows of a microbatch on this rank, P image side.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import torch

from fanlight.config import Augment
from fanlight.data import augment, buckets, mix, order, policy
from fanlight.data.source import Source
from fanlight.types import Batch, Position, Rows


@dataclass(frozen=True)
class Features:
    """What the last layer sees of each sample, computed before. M rows, F numbers of one (or a shape)."""

    table: np.ndarray  # float32 [M, F], memory-mapped
    places: np.ndarray  # int64 [N], the row of sample i

    def of(self, chosen: np.ndarray) -> torch.Tensor:
        """float32 [b, F] of the samples `chosen`."""
        return torch.from_numpy(self.table[self.places[chosen]])


class Chooser(Protocol):
    """Of samples with several targets: which of them an epoch trains on. The same on every rank."""

    @property
    def window(self) -> int:
        """Batches whose samples are sorted by length together."""
        ...

    def of_epoch(self, targets: np.ndarray, *, keys: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """[B, …] of `targets` [B, …] of B samples with these `keys`."""
        ...

    def evaluated(self, targets: np.ndarray) -> np.ndarray:
        """[B, …]: all of them, as narrow as these B allow: the longest of a split is much longer than most."""
        ...

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float64 [B], what each sample adds to the loss's denominator then."""
        ...

    def lengths(self, targets: np.ndarray) -> np.ndarray:
        """int64 [B]: batches are made of samples of like length."""
        ...


@dataclass(frozen=True)
class Samples:
    """A split, ready to be read: sample i is manifest row `rows[i]` with `targets[i]` and `weights[i]`. N samples."""

    source: Source
    rows: np.ndarray  # int64 [N]
    targets: np.ndarray  # [N, …], as the task made them
    weights: np.ndarray  # float64 [N], what a sample adds to the loss's denominator
    blocks: np.ndarray | None = None  # int64 [N], for the `blocks` order
    draws: order.Draws | None = None  # how an epoch draws with replacement; None: every sample once
    chooser: Chooser | None = None  # where samples have several targets; None: they have one
    features: Features | None = None  # what a batch holds in place of pixels

    def __len__(self) -> int:
        return len(self.rows)

    def of_epoch(self, keys: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Targets [B, …] of the samples with these keys in an epoch, and float64 [B] what each adds to the denominator."""
        chosen = order.samples_of(keys)
        if self.chooser is None:
            return self.targets[chosen], self.weights[chosen]
        targets = self.chooser.of_epoch(self.targets[chosen], keys=keys, seed=seed, epoch=epoch)
        return targets, self.chooser.weights(targets)


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
    start_px: int | None = None  # side of the first epoch's training images; None: image_px
    epochs: int = 1  # of the run, over which sides grow
    augment: Augment = field(default_factory=Augment)  # what else happens to training images, or that nothing does
    has_images: bool = True  # whether this rank's layers begin with pixels; else it reads none
    is_level: bool = False  # every rank gets equally many evaluation batches, the last ones perhaps of no samples

    def side_px(self, epoch: int) -> int:
        """Side of the training images in `epoch`."""
        if self.start_px is None:
            return self.image_px
        return augment.side_px(epoch, epochs=self.epochs, start_px=self.start_px, full_px=self.image_px)


def images(
    samples: Samples, chosen: np.ndarray, views: Sequence[augment.Boxes], *, image_px: int, pin: bool
) -> list[torch.Tensor]:
    """For each of `views`, uint8 [b, P, P, 3] of the samples `chosen`, cut by its boxes. Each sample is read once."""
    pixels = [torch.empty((len(chosen), image_px, image_px, 3), dtype=torch.uint8, pin_memory=pin) for _ in views]
    outs = [each.numpy() for each in pixels]
    for place, sample in enumerate(chosen.tolist()):
        canvas = samples.source.read(int(samples.rows[sample]))
        for boxes, out in zip(views, outs):
            augment.cut(canvas, boxes, place, out=out[place])
    return pixels


def train_batches(
    samples: Samples, cutting: Cutting, *, start: Position, epochs: int, workers: int, pin: bool = False
) -> Generator[Batch, None, None]:
    """This rank's part of every step from `start` to the last, made `workers` + 1 steps ahead, across epochs."""
    steps = order.steps_per_epoch(len(samples), cutting.batch)
    orders: dict[int, np.ndarray] = {}

    def make(position: Position, keys_B: np.ndarray) -> Batch:
        begin = time.perf_counter()
        slices = order.rank_slices(
            cutting.batch, microbatches=cutting.microbatches, rank=cutting.rank, ranks=cutting.ranks,
            unit=cutting.augment.row_unit,
        )  # fmt: skip
        targets, weights_B = samples.of_epoch(keys_B, seed=cutting.seed, epoch=position.epoch)
        parts = tuple(
            _train_rows(samples, keys_B[part], targets[part], position.epoch, cutting, pin) for part in slices
        )
        return Batch(position, parts, float(weights_B.sum()), time.perf_counter() - begin)

    def tasks() -> Iterator[tuple[Position, np.ndarray]]:
        for position in order.positions(start, epochs=epochs, steps=steps):
            if position.epoch not in orders:
                orders.clear()
                orders[position.epoch] = _order(samples, cutting, position.epoch)
            first = position.step * cutting.batch
            yield position, orders[position.epoch][first : first + cutting.batch]

    yield from _ahead(make, tasks(), workers if samples.features is None else 0)


def evaluation_batches(
    samples: Samples, cutting: Cutting, *, batch: int, workers: int, views: int = 1, pin: bool = False
) -> Generator[Batch, None, None]:
    """This rank's batches of an evaluation: every sample once, the last batch padded with its last image. A batch's parts
    are its `views`: the same samples seen in other squares (augment.view_boxes), the centre first.

    `samples` of a padded batch is shorter than `images` and `targets`: rows beyond it are not counted.
    """

    def make(position: Position, chosen: np.ndarray) -> Batch:
        begin = time.perf_counter()
        last = chosen[-1:] if len(chosen) else every[:1]
        padded = np.concatenate([chosen, np.repeat(last, batch - len(chosen))])
        rows = samples.rows[padded]
        own = samples.targets[padded]
        targets = torch.from_numpy(own if samples.chooser is None else samples.chooser.evaluated(own))
        if not cutting.has_images:
            part = Rows(chosen, None, targets, unseen=(batch, cutting.image_px))
            return Batch(position, (part,) * views, float(samples.weights[chosen].sum()), time.perf_counter() - begin)
        if samples.features is not None:  # of the first view
            seen = [samples.features.of(padded)]
        else:
            boxes = augment.view_boxes(
                samples.source.heights[rows], samples.source.widths[rows], share=cutting.eval_share, views=views,
                flip=cutting.flip,
            )  # fmt: skip
            seen = images(samples, padded, boxes, image_px=cutting.image_px, pin=pin)
        parts = tuple(Rows(chosen, pixels, targets) for pixels in seen)
        return Batch(position, parts, float(samples.weights[chosen].sum()), time.perf_counter() - begin)

    slices = order.evaluation_slices(len(samples), batch=batch, rank=cutting.rank, ranks=cutting.ranks)
    if cutting.is_level:
        most = len(order.evaluation_slices(len(samples), batch=batch, rank=0, ranks=cutting.ranks))
        slices += [slice(0, 0)] * (most - len(slices))
    every = np.arange(len(samples))
    tasks = ((Position(0, step), every[part]) for step, part in enumerate(slices))
    yield from _ahead(make, tasks, workers if samples.features is None else 0)


def _train_rows(
    samples: Samples, keys: np.ndarray, own_targets: np.ndarray, epoch: int, cutting: Cutting, pin: bool
) -> Rows:
    chosen = order.samples_of(keys)
    targets = torch.from_numpy(own_targets)
    if samples.features is not None:
        return Rows(chosen, samples.features.of(chosen), targets, keys=keys)
    rows = samples.rows[chosen]
    heights, widths = samples.source.heights[rows], samples.source.widths[rows]
    key = {"seed": cutting.seed, "epoch": epoch}
    if cutting.augment.off:
        boxes = augment.centre_boxes(heights, widths, share=cutting.eval_share)
    else:
        boxes = augment.random_boxes(
            keys, heights, widths, flip=cutting.flip, share=cutting.crop_share, ratio=cutting.crop_ratio, **key
        )
    px = cutting.side_px(epoch)
    mixing = mix.draw(keys, cutting.augment, image_px=px, **key)
    if not cutting.has_images:
        return Rows(chosen, None, targets, None, mixing, keys, unseen=(len(chosen), px))
    (pixels,) = images(samples, chosen, [boxes], image_px=px, pin=pin)
    changes = policy.draw(keys, cutting.augment, image_px=px, **key)
    if changes is not None and cutting.augment.engine == "cpu":
        for place, image in enumerate(pixels.numpy()):
            policy.change(image, changes, place)
        changes = None
    return Rows(chosen, pixels, targets, changes, mixing, keys)


def _order(samples: Samples, cutting: Cutting, epoch: int) -> np.ndarray:
    """Keys of the epoch's samples, in the order of training; batches of like length where targets have lengths."""
    keys = _keyed_order(samples, cutting.seed, epoch)
    if samples.chooser is None:
        return keys
    if samples.chooser.window == 1:
        return keys
    targets, _ = samples.of_epoch(keys, seed=cutting.seed, epoch=epoch)
    lengths, key = samples.chooser.lengths(targets), {"seed": cutting.seed, "epoch": epoch}
    return buckets.bucketed(keys, lengths, batch=cutting.batch, window=samples.chooser.window, **key)


def _keyed_order(samples: Samples, seed: int, epoch: int) -> np.ndarray:
    """Where samples are drawn, blocks are those of the drawn."""
    if samples.draws is None:
        if samples.blocks is not None:
            return order.block_order(samples.blocks, seed=seed, epoch=epoch)
        return order.epoch_order(len(samples), seed=seed, epoch=epoch)
    chosen = order.drawn(samples.draws, seed=seed, epoch=epoch)
    if samples.blocks is not None:
        places = order.block_order(samples.blocks[chosen], seed=seed, epoch=epoch)
    else:
        places = order.epoch_order(len(samples), seed=seed, epoch=epoch)
    return order.occurrence_keys(chosen[places])


def _ahead(make, tasks: Iterator[tuple[Position, np.ndarray]], workers: int) -> Iterator[Batch]:
    """Runs `make` on threads, in order, at most `workers` + 1 results ahead of the consumer; without any, when asked."""
    if workers == 0:  # gathering rows takes less time than handing them over
        yield from (make(*task) for task in tasks)
        return
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
