"""What is done to one image, by every engine alike: a table of named functions, so that a worker is told a name.

Two kinds: of a file's bytes (`canvas`, `decode`), and of pixels uint8 [h, w, 3] that are decoded already. Results are
contiguous arrays whose shape and type are known before the work begins. All of it is pure and lets other threads run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from fanlight.data import canvas

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, of pixels in [0, 1]
BINS = 256
# Nanoseconds, from least squares over the 957 photos of a weather set on one core: only their ratios matter.
FILE_NS, FILE_BYTE_NS, PIXEL_NS = 200_000, 10, 2


class Operation(NamedTuple):
    """One of OPERATIONS."""

    name: str
    px: int = 0  # short side of `canvas`, side of `resize`

    @property
    def reads_files(self) -> bool:
        return self.name in FILE_OPERATIONS

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the result, for an image whose header says this size."""
        if self.name == "canvas":
            width, height = canvas.canvas_size(width, height, self.px)
        if self.name == "resize":
            height = width = self.px
        return (3, BINS) if self.name == "histogram" else (height, width, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        kinds: dict[str, type] = {"normalise": np.float32, "standardise": np.float32, "histogram": np.int32}
        return np.dtype(kinds.get(self.name, np.uint8))

    def result_bytes(self, height: int, width: int) -> int:
        return int(np.prod(self.shape(height, width))) * self.dtype.itemsize

    def cost_ns(self, height: int, width: int, *, file_bytes: int) -> float:
        """About how long it takes, from the header alone."""
        if self.reads_files:
            return FILE_NS + FILE_BYTE_NS * file_bytes + PIXEL_NS * height * width
        return 10_000 + PIXEL_NS * height * width

    def __call__(self, image: Any) -> np.ndarray:
        """The result for a file's bytes, or for pixels. Unreadable as `to_canvas` has it."""
        return OPERATIONS[self.name](image, self.px)


def resize(pixels_HWC: np.ndarray, px: int) -> np.ndarray:
    """To a square: shrinking averages areas, enlarging interpolates linearly."""
    shrinks = min(pixels_HWC.shape[:2]) > px
    return cv2.resize(pixels_HWC, (px, px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalise(pixels_HWC: np.ndarray, _: int) -> np.ndarray:
    """float32, by the mean and deviation of ImageNet."""
    scale, shift = 1 / (255 * np.array(STD, np.float32)), np.array(MEAN, np.float32) / np.array(STD, np.float32)
    out = np.multiply(pixels_HWC, scale, dtype=np.float32)
    return np.subtract(out, shift, out=out)


def standardise(pixels_HWC: np.ndarray, _: int) -> np.ndarray:
    """float32, by the image's own mean and deviation per channel; a constant channel becomes 0."""
    mean, std = (part.reshape(3).astype(np.float32) for part in cv2.meanStdDev(pixels_HWC))
    out = np.subtract(pixels_HWC, mean, dtype=np.float32)
    return np.divide(out, np.where(std > 0, std, 1), out=out)


def flip(pixels_HWC: np.ndarray, _: int) -> np.ndarray:
    """Mirrored left-right."""
    return cv2.flip(pixels_HWC, 1)


def histogram(pixels_HWC: np.ndarray, _: int) -> np.ndarray:
    """int32 [3, 256], pixels of each value per channel."""
    counts = [cv2.calcHist([pixels_HWC], [channel], None, [BINS], [0, BINS]).reshape(-1) for channel in range(3)]
    return np.stack(counts).astype(np.int32)


FILE_OPERATIONS: dict[str, Callable[[Any, int], np.ndarray]] = {
    "canvas": lambda data, px: canvas.to_canvas(data, px),
    "decode": lambda data, _: canvas.to_canvas(data, None),
}
PIXEL_OPERATIONS: dict[str, Callable[[Any, int], np.ndarray]] = {
    "resize": resize, "normalise": normalise, "standardise": standardise, "flip": flip, "histogram": histogram,
}  # fmt: skip
OPERATIONS = FILE_OPERATIONS | PIXEL_OPERATIONS
