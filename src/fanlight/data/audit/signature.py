"""What is kept of a picture, made in one pass from its bytes, and the arrays that hold this for D pictures.

u, v frequencies down and across (F = 16 each), S side of the small grey picture, T keypoints of all pictures. Pure; may
be called from many threads.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fanlight.data import canvas
from fanlight.data.audit import keypoints

VERSION = "2"  # of what is kept; signatures of another version are made again
CANVAS_PX = 72  # short side: large JPEGs decode at a fraction, and SIFT costs a third less than at 96 px
FREQUENCIES = 16
THUMB_PX = 32
COLOUR_PX = 8
WHITENING = 0.75  # exponent of the frequency: amplitudes are ~ 1/f, so plain correlation sees only large shapes
LEVELS_LEAST = 2.0  # root mean square of the grey levels about their mean: below, JPEG noise is what is compared
SPREAD_LEAST = 2.0  # effective number of frequencies: fewer is a plain gradient, which says nothing


@dataclass(frozen=True, eq=False)
class Signature:
    """One picture."""

    size: np.ndarray  # int16 [2], width and height of the canvas
    levels: np.float32  # root mean square of the grey levels about their mean
    spread: np.float32  # effective number of frequencies, 1 / Σ share²
    spectrum: np.ndarray  # float16 [F·F], whitened cosine transform of the grey picture, of length 1
    thumb: np.ndarray  # uint8 [S, S], grey, squeezed to a square
    colours: np.ndarray  # uint8 [8, 8, 3]
    points: np.ndarray  # float16 [k, 4], x, y, size, angle in degrees; none where not asked for
    codes: np.ndarray  # int8 [k, C]


def signature(data: bytes, *, thorough: bool) -> Signature:
    """Of a file's bytes; `Unreadable` where there is no picture."""
    return of_canvas(canvas.to_canvas(data, CANVAS_PX), thorough=thorough)


def of_canvas(pixels_HWC: np.ndarray, *, thorough: bool) -> Signature:
    """Of pixels at hand, uint8 [h, w, 3], shrunk to the canvas of signatures where they are larger."""
    size = canvas.canvas_size(pixels_HWC.shape[1], pixels_HWC.shape[0], CANVAS_PX)
    if size != pixels_HWC.shape[1::-1]:
        pixels_HWC = cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)
    grey_HW = cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY)
    thumb = cv2.resize(grey_HW, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    levels = np.float32(thumb.std())
    spectrum = spectra(thumb[None], frequencies=FREQUENCIES)[0]
    shares = spectrum**2
    spread = np.float32(1 / max(float(shares @ shares), 1e-6)) if levels > 0 else np.float32(0)
    points, codes = keypoints.describe(grey_HW) if thorough else keypoints.NONE
    return Signature(
        np.array(grey_HW.shape[::-1], np.int16),
        levels,
        spread,
        spectrum.astype(np.float16),
        thumb,
        cv2.resize(pixels_HWC, (COLOUR_PX, COLOUR_PX), interpolation=cv2.INTER_AREA),
        points,
        codes,
    )


def spectra(squares_NSS: np.ndarray, *, frequencies: int) -> np.ndarray:
    """float32 [N, F·F], whitened cosine transforms of grey squares, each of length 1; 0 of a plain one."""
    cosines_FS, weights_FF = _transform(squares_NSS.shape[-1], frequencies)
    found = (cosines_FS @ squares_NSS.astype(np.float32) @ cosines_FS.T * weights_FF).reshape(len(squares_NSS), -1)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


@functools.lru_cache
def _transform(px: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, float32 [F, S], orthonormal rows, and the weights of the frequencies, float32 [F, F]; 0 of the mean."""
    number = np.arange(frequencies)
    cosines = np.cos(np.pi * (np.arange(px) + 0.5) * number[:, None] / px)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    return cosines.astype(np.float32), (np.hypot(number[:, None], number) ** WHITENING).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Signatures:
    """D pictures, sorted by hash; the keypoints of picture d are rows `starts[d] … starts[d] + counts[d]`."""

    sha256: np.ndarray  # str [D], sorted
    known: np.ndarray  # bool [D], False where the file could not be decoded
    size: np.ndarray
    levels: np.ndarray
    spread: np.ndarray
    spectrum: np.ndarray
    thumb: np.ndarray
    colours: np.ndarray
    starts: np.ndarray  # int64 [D]
    counts: np.ndarray  # int64 [D]
    points: np.ndarray  # float16 [T, 4]
    codes: np.ndarray  # int8 [T, C]

    def __len__(self) -> int:
        return len(self.sha256)

    @property
    def has_structure(self) -> np.ndarray:
        """bool [D]: enough to be compared with others."""
        return self.known & (self.levels >= LEVELS_LEAST) & (self.spread >= SPREAD_LEAST)

    @property
    def bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in SHAPES)

    def fill(self, place: int, one: Signature, *, start: int) -> int:
        """Writes picture `place`, its keypoints from row `start` on; returns the next free row."""
        end = start + len(one.points)
        self.known[place], self.starts[place], self.counts[place] = True, start, len(one.points)
        self.points[start:end], self.codes[start:end] = one.points, one.codes
        for name in WHOLE:
            getattr(self, name)[place] = getattr(one, name)
        return end


def empty(sha256: np.ndarray, *, thorough: bool, memory_bytes: int) -> Signatures:
    """To be filled. What goes beyond `memory_bytes` lies in unnamed files, which the system writes out when it must."""
    arrays, left = {}, memory_bytes
    for name, (tail, kind) in SHAPES.items():
        rows = len(sha256) if name in WHOLE else len(sha256) * keypoints.MOST * thorough
        arrays[name] = room((rows, *tail), kind, memory_bytes=left)
        left -= arrays[name].nbytes
    places = {name: np.zeros(len(sha256), np.int64) for name in ("starts", "counts")}
    return Signatures(sha256=sha256, known=np.zeros(len(sha256), bool), **arrays, **places)


def room(shape: tuple[int, ...], kind: Any, *, memory_bytes: int) -> np.ndarray:
    """Zeros; in an unnamed file where they take more than `memory_bytes`."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    if count <= memory_bytes or not count:
        return np.zeros(shape, kind)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, kind, "w+", shape=shape)


SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "size": ((2,), np.int16),
    "levels": ((), np.float32),
    "spread": ((), np.float32),
    "spectrum": ((FREQUENCIES * FREQUENCIES,), np.float16),
    "thumb": ((THUMB_PX, THUMB_PX), np.uint8),
    "colours": ((COLOUR_PX, COLOUR_PX, 3), np.uint8),
    "points": ((4,), np.float16),
    "codes": ((keypoints.CODE,), np.int8),
}
WHOLE = ("size", "levels", "spread", "spectrum", "thumb", "colours")  # one row per picture
