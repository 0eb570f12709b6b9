"""Shear, translation and rotation: an affine map of the square's pixels, for one image and for a batch.

A map takes (amount, side in pixels) to (a, b, c, d, e, f): the pixel at (x, y) comes from (a·x + b·y + c, d·x + e·y + f),
interpolated linearly; what comes from outside is `FILL`. And boxes of a batch as masks. n images of a batch, B boxes,
P side in pixels.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F

FILL = (124, 116, 104)  # the mean colour of ImageNet, which is 0 once normalised
Matrix = Callable[[float, int], tuple[float, float, float, float, float, float]]


def shear_x(amount: float, side: int) -> tuple[float, float, float, float, float, float]:
    """Rows slide by `amount` times their distance from the middle."""
    return 1, amount, -amount * (side - 1) / 2, 0, 1, 0


def shear_y(amount: float, side: int) -> tuple[float, float, float, float, float, float]:
    """Columns slide by `amount` times their distance from the middle."""
    return 1, 0, 0, amount, 1, -amount * (side - 1) / 2


def translate_x(amount: float, side: int) -> tuple[float, float, float, float, float, float]:
    """To the right by `amount` sides."""
    return 1, 0, -amount * side, 0, 1, 0


def translate_y(amount: float, side: int) -> tuple[float, float, float, float, float, float]:
    """Down by `amount` sides."""
    return 1, 0, 0, 0, 1, -amount * side


def rotate(amount: float, side: int) -> tuple[float, float, float, float, float, float]:
    """Around the middle, counter-clockwise by `amount` degrees."""
    cosine, sine, middle = math.cos(math.radians(amount)), math.sin(math.radians(amount)), (side - 1) / 2
    return cosine, -sine, middle * (1 - cosine + sine), sine, cosine, middle * (1 - sine - cosine)


def of_image(matrix: Matrix) -> Callable[[np.ndarray, float], np.ndarray]:
    """The map for one image, uint8 [P, P, 3], by OpenCV."""

    def warp(image: np.ndarray, amount: float) -> np.ndarray:
        side = image.shape[0]
        return cv2.warpAffine(
            image, np.array(matrix(amount, side)).reshape(2, 3), (side, side), borderValue=FILL,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
        )  # fmt: skip

    return warp


def of_batch(matrix: Matrix) -> Callable[[torch.Tensor, np.ndarray], torch.Tensor]:
    """The map for a batch, float32 [n, 3, P, P] of whole numbers, by the device."""

    def warp(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
        side = x.shape[-1]
        entries = np.array([matrix(amount, side) for amount in amounts.tolist()], np.float32)
        a, b, c, d, e, f = torch.from_numpy(entries).to(x.device, non_blocking=True).view(-1, 6, 1, 1).unbind(1)
        place = torch.arange(side, dtype=x.dtype, device=x.device)
        across, down = place.view(1, 1, -1), place.view(1, -1, 1)
        source = torch.stack([a * across + b * down + c, d * across + e * down + f], dim=-1)
        fill = fill_like(x)
        grid = source * (2 / max(1, side - 1)) - 1
        found = F.grid_sample(x - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return (found + fill).round_().clamp_(0, 255)

    return warp


def fill_like(x: torch.Tensor) -> torch.Tensor:
    """[1, 3, 1, 1], `FILL` on the device of `x`."""
    return torch.tensor(FILL, dtype=x.dtype).to(x.device, non_blocking=True).view(1, 3, 1, 1)


def inside(box_B4: torch.Tensor, side: int) -> torch.Tensor:
    """bool [B, 1, P, P]: which pixels lie in each box int64 [B, 4] (left, top, right, bottom)."""
    left, top, right, bottom = box_B4.view(-1, 4, 1, 1, 1).unbind(1)
    place = torch.arange(side, device=box_B4.device)
    across, down = place.view(1, 1, 1, -1), place.view(1, 1, -1, 1)
    return (across >= left) & (across < right) & (down >= top) & (down < bottom)
