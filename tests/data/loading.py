"""Samples in memory, and the batches that a loader makes of them."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fanlight.data import order
from fanlight.data.loader import Cutting, Samples, evaluation_batches, train_batches
from fanlight.types import Batch, Position


class Arrays:
    """Canvases of many sizes in memory, behind rows that are not the samples' numbers."""

    kind = "arrays"

    def __init__(self, count: int, *, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.heights, self.widths = rng.integers(1, 40, count), rng.integers(1, 40, count)
        self.canvases = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in zip(self.heights, self.widths)]
        self.reads: list[int] = []  # appending is safe from several threads

    def read(self, row: int) -> np.ndarray:
        self.reads.append(row)
        return self.canvases[row]


def drawn_samples(count: int, *, blocks: bool = False) -> Samples:
    """Of which a quarter is drawn nine times as often."""
    chances = np.where(np.arange(count) % 4 == 0, 9.0, 1.0)
    return replace(samples_of(count, blocks=blocks), draws=order.Draws(chances, np.arange(count) % 4))


def samples_of(count: int, *, blocks: bool = False) -> Samples:
    rows = np.random.default_rng(1).permutation(2 * count)[:count]
    targets, weights = np.arange(count) * 10, np.arange(1.0, count + 1)
    return Samples(Arrays(2 * count), rows, targets, weights, np.arange(count) // 3 if blocks else None)


CUTTING = Cutting(
    batch=12, microbatches=2, rank=0, ranks=1, image_px=8, seed=5, flip=True, crop_share=(0.25, 1.0),
    crop_ratio=(0.75, 4 / 3), eval_share=0.875,
)  # fmt: skip
START = Position(0, 0)


def train(
    samples: Samples, cutting: Cutting = CUTTING, *, start: Position = START, epochs: int = 2, workers: int = 2
) -> list[Batch]:
    return list(train_batches(samples, cutting, start=start, epochs=epochs, workers=workers))


def evaluate(samples: Samples, cutting: Cutting = CUTTING, *, batch: int = 8, workers: int = 2) -> list[Batch]:
    return list(evaluation_batches(samples, cutting, batch=batch, workers=workers))


def arrays(batch: Batch) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(samples, images, targets) by microbatch."""
    for part in batch.parts:
        assert part.images is not None and part.targets is not None
        yield part.samples, part.images.numpy(), part.targets.numpy()


def joined(of_ranks: list[Batch]) -> list[tuple[np.ndarray, ...]]:
    """The global batch by microbatch, from every rank's part of it."""
    by_rank = zip(*(arrays(batch) for batch in of_ranks), strict=True)
    return [tuple(np.concatenate(columns) for columns in zip(*parts)) for parts in by_rank]


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert [batch.position for batch in found] == [batch.position for batch in wanted]
    for one, other in zip(found, wanted):
        assert one.denominator == other.denominator
        for a, b in zip(arrays(one), arrays(other), strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b))


def keys_of(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([part.keys for batch in batches for part in batch.parts if part.keys is not None])


def input_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("input")]
