"""From a pack to a batch in one kernel: the pixels that the CPU's way cuts, mirrors and normalises."""

import numpy as np
import pytest
import torch

from fanlight.data import augment
from fanlight.train.step import Normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batch(images: np.ndarray, rows: np.ndarray, boxes: augment.Boxes, side: int, dtype: torch.dtype) -> np.ndarray:
    """As data/loader and train/step make it."""
    cut = np.empty((len(rows), side, side, 3), np.uint8)
    for place, row in enumerate(rows):
        augment.cut(images[row], boxes, place, out=cut[place])
    like = torch.zeros((), dtype=torch.float32)
    return Normalise(MEAN, STD, like=like, channels_last=True)(torch.from_numpy(cut)).to(dtype).float().numpy()


@pytest.mark.parametrize(("high", "wide", "side"), [(1, 1, 1), (19, 23, 17), (13, 31, 13), (9, 9, 5)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_is_that_of_the_cpu(kernels, high, wide, side, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, high, wide, 3), dtype=np.uint8)
    rows = np.array([3, 10, 0, 3, 7])
    left, top = rng.integers(0, wide - side + 1, 5), rng.integers(0, high - side + 1, 5)
    sides = np.full(5, side)
    boxes = augment.Boxes(left, top, sides, sides, mirror=rng.random(5) < 0.5)
    scale = (1 / (255 * np.float32(STD))).astype(np.float32)
    shift = (-np.float32(MEAN) / np.float32(STD)).astype(np.float32)
    (found,) = kernels.call(
        "augment.batch", [images, rows, boxes.left, boxes.top, boxes.mirror],
        {"side_px": side, "scale": scale, "shift": shift, "dtype": dtype}, kind="float32",
    )  # fmt: skip
    wanted = batch(images, rows, boxes, side, getattr(torch, dtype))
    # One rounding fewer where product and sum are fused; bfloat16 is rounded once more.
    np.testing.assert_allclose(found, wanted, rtol=1e-2 if dtype == "bfloat16" else 1e-6, atol=1e-6)


def test_what_is_outside_an_image_counts_as_black(kernels):
    images, one, zero = np.full((1, 2, 2, 1), 7, np.uint8), np.ones(1, np.float32), np.zeros(1, np.float32)
    where = [np.array([0]), np.array([-1]), np.array([1]), np.array([True])]
    (found,) = kernels.call(
        "augment.batch",
        [images, *where],
        {"side_px": 2, "scale": one, "shift": zero, "dtype": "float32"},
        kind="float32",
    )
    assert found[0, 0].tolist() == [[7, 0], [0, 0]]
