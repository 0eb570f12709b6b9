"""Scoring by itself: every sample once, in sample order, the padding of the last batch left out."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fanlight.data.loader import Cutting, Samples
from fanlight.parallel.comm import alone
from fanlight.tasks.calibration import probabilities
from fanlight.tasks.classify import Classify
from fanlight.train import evaluate
from fanlight.types import Rows

IMAGE_PX = 4


@dataclass
class Numbered:
    """Images whose every pixel is their manifest row."""

    heights: np.ndarray
    widths: np.ndarray
    kind: str = "made up"

    def read(self, row: int) -> np.ndarray:
        return np.full((self.heights[row], self.widths[row], 3), row, np.uint8)


class Seeing:
    """A step whose outputs are what it saw: [first pixel, rows of the batch]."""

    evaluates_in_threads = True

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def forward(self, rows: Rows) -> torch.Tensor:
        assert rows.images is not None
        self.sizes.append(len(rows.images))
        return torch.stack(
            [rows.images[:, 0, 0, 0].float(), torch.full((len(rows.images),), float(len(rows.images)))], 1
        )


def score(
    count: int, *, batch: int, rank: int = 0, ranks: int = 1, workers: int = 1, views: int = 1
) -> tuple[np.ndarray, Seeing]:
    sizes = np.full(200, 6)
    chosen = np.arange(count) * 3 + 1  # manifest rows
    samples = Samples(Numbered(sizes, sizes), chosen, np.zeros(count, np.int64), np.ones(count))
    cutting = Cutting(
        batch=1, microbatches=1, rank=rank, ranks=ranks, image_px=IMAGE_PX, seed=0, flip=True, crop_share=(0.5, 1),
        crop_ratio=(1, 1), eval_share=1.0,
    )  # fmt: skip
    step = Seeing()
    task = Classify(("a", "b"))
    rows = evaluate.outputs(step, task, samples, cutting, alone(), batch=batch, workers=workers, views=views)
    assert rows is not None
    return rows, step


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("count", "batch"), [(1, 8), (7, 8), (8, 8), (9, 8), (41, 8), (5, 1)])
def test_every_sample_is_scored_once_in_batches_of_one_size(count, batch, workers):
    rows, step = score(count, batch=batch, workers=workers)
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == [3 * sample + 1 for sample in range(count)]
    assert step.sizes == [batch] * -(-count // batch)


def test_views_are_forwards_of_the_same_size_and_are_averaged():
    rows, step = score(9, batch=4, views=3)
    assert step.sizes == [4] * 9
    assert rows[:, 0].tolist() == [3 * sample + 1 for sample in range(9)]  # of three equal views
    parts = [np.array([[0.0, 9.0]], np.float32), np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 0.0]], np.float32)]
    mean = evaluate.mean_of_views(parts)
    assert mean.dtype == np.float32 and mean.tolist() == [[1.0, 3.0]]
    assert evaluate.mean_of_views(parts[:1]) is parts[0]


def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(3, 5, 4)) * 3
    pool = np.exp(np.log(probabilities(logits.reshape(15, 4)).reshape(3, 5, 4)).mean(0))
    pool /= pool.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(evaluate.mean_of_views(list(logits))), pool, rtol=1e-12)


def test_samples_that_no_rank_scored_are_noticed():
    with pytest.raises(AssertionError, match="scored twice or not at all"):
        score(20, batch=4, rank=1, ranks=2)  # the other rank is missing


def test_rows_are_the_same_bits_on_any_number_of_threads():
    """The product below is one that MKL splits over threads: computed at once, its bits differ."""
    torch.manual_seed(0)
    weight = torch.randn(4096, 3)

    class Wide(Seeing):
        def forward(self, rows: Rows) -> torch.Tensor:
            assert rows.images is not None
            pixels = rows.images.flatten(1).float()
            return torch.sin(pixels[:, :1] * torch.linspace(0, 9, 4096)) @ weight

    sizes = np.full(200, 6)
    samples = Samples(Numbered(sizes, sizes), np.arange(41), np.zeros(41, np.int64), np.ones(41))
    cutting = Cutting(
        batch=1, microbatches=1, rank=0, ranks=1, image_px=IMAGE_PX, seed=0, flip=False, crop_share=(0.5, 1),
        crop_ratio=(1, 1), eval_share=1.0,
    )  # fmt: skip
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            task = Classify(("a", "b", "c"))
            found.append(evaluate.outputs(Wide(), task, samples, cutting, alone(), batch=4, workers=1))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
