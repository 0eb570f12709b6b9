"""Keypoints that survive turning, cropping and zooming: SIFT (Lowe 2004), its descriptor shortened to C = 48 numbers.

A descriptor is 4 × 4 cells of 8 directions. Written in cosines over the cells and a Fourier series over the
directions, it is decorrelated without learning anything, and the descriptor of the mirrored picture is the same numbers
with some signs changed: mirrored copies are found without a second look at the pixels.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

MOST = 40  # strongest keypoints of a picture
CONTRAST_LEAST = 0.01  # of OpenCV's; its default .04 finds nothing in skies
CODE = 48
SCALE = 200.0  # int8 per unit: root descriptors have length 1, and no number is beyond ±.6

# The numbers of largest variance, as (cosine down, cosine across, Fourier term) = divmod by 32 and 8; from 120 pictures
# of weather, tissue and people, 96 px. Fixed, so that codes made today compare with those made tomorrow.
_CHOSEN = [
    1, 9, 2, 3, 34, 25, 17, 8, 4, 66, 42, 10, 32, 41, 11, 74, 0, 33, 49, 35, 36, 50, 98, 12,
    89, 19, 114, 73, 18, 16, 44, 40, 64, 43, 82, 106, 57, 81, 5, 67, 65, 20, 68, 52, 51, 75, 13, 6,
]  # fmt: skip
_MEANS = [
    0.123, -0.006, 0.0, 0.126, 0.005, 0.006, -0.096, 0.002, 0.0, 0.0, 0.054, 0.0, 0.0, 0.0, -0.002, 0.0,
    0.758, 0.0, 0.0, 0.0, 0.002, -0.006, -0.007, 0.0, -0.004, -0.037, 0.006, 0.004, 0.0, -0.095, 0.005, 0.0,
    -0.079, 0.0, 0.0, -0.016, 0.0, 0.02, 0.032, -0.038, -0.015, 0.0, 0.0, -0.003, 0.0, 0.0, -0.002, 0.0,
]  # fmt: skip
_sines = (2, 4, 6)  # Fourier terms that change sign when the picture is mirrored
_made = threading.local()


def _basis() -> np.ndarray:
    """float64 [128, 128], orthonormal rows."""
    cell = np.arange(4)
    cosines = np.cos(np.pi * (cell + 0.5) * cell[:, None] / 4)
    turn = 2 * np.pi * np.arange(8) / 8
    series = np.array([turn * 0 + 1, *(f(k * turn) for k in (1, 2, 3) for f in (np.cos, np.sin)), np.cos(4 * turn)])
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    series /= np.linalg.norm(series, axis=1, keepdims=True)
    return np.einsum("ay,bx,co->abcyxo", cosines, cosines, series).reshape(128, 128)


MIRROR = np.array([(-1.0) ** (k // 32) * (-1.0 if k % 8 in _sines else 1.0) for k in _CHOSEN], np.float32)
_PROJECT = np.ascontiguousarray(_basis()[_CHOSEN].T, np.float32)
_CENTRE = np.where(MIRROR > 0, np.array(_MEANS, np.float32), np.float32(0))  # what mirroring negates has mean 0
NONE = (np.zeros((0, 4), np.float16), np.zeros((0, CODE), np.int8))


def describe(grey_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points, float16 [k, 4] of x, y, size, angle, and codes, int8 [k, C], of the strongest keypoints."""
    if not hasattr(_made, "sift"):
        _made.sift = cv2.SIFT_create(nfeatures=MOST, contrastThreshold=CONTRAST_LEAST)  # type: ignore[attr-defined]
    found, descriptors = _made.sift.detectAndCompute(grey_HW, None)
    if descriptors is None:
        return NONE
    found, descriptors = found[:MOST], descriptors[:MOST]
    points = np.array([(*one.pt, one.size, one.angle) for one in found], np.float16)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))  # Arandjelović, Zisserman 2012
    codes = (root @ _PROJECT - _CENTRE) * SCALE
    return points, np.clip(np.rint(codes), -127, 127).astype(np.int8)
