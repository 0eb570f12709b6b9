"""Pixels of two small grey pictures laid over each other by a map: how well their details agree where both are seen."""

from __future__ import annotations

import cv2
import numpy as np

from fanlight.data.audit.signature import THUMB_PX

BLUR_PX = 2.7  # what is smoother than this is light and shade, not detail
SEEN_LEAST = 90  # pixels of 32²: fewer agree by chance
COVERED_LEAST = 0.45  # of the more detailed picture: less is another view of one place, not a copy (rims are not seen)
_whole = np.full((THUMB_PX, THUMB_PX), 255, np.uint8)
_edge = np.ones((3, 3), np.uint8)


def matrix(map_3: np.ndarray, *, is_mirrored: bool) -> np.ndarray:
    """float64 [3, 3] of (x, y, 1), for z -> αz + γconj(z) + β, on conj(z) if mirrored."""
    alpha, gamma, beta = map_3
    rows = [
        [(alpha + gamma).real, (gamma - alpha).imag, beta.real],
        [(alpha + gamma).imag, (alpha - gamma).real, beta.imag],
        [0, 0, 1],
    ]
    return np.array(rows) @ np.diag([1.0, -1.0 if is_mirrored else 1.0, 1.0])


def agreement(
    thumb_a: np.ndarray, thumb_b: np.ndarray, *, matrix: np.ndarray, sizes: tuple[np.ndarray, np.ndarray]
) -> float:
    """Correlation of the details, -1 … 1; 0 where too little of both is seen. `matrix` takes a's canvas to b's.

    The more detailed picture of the two is the one that is shrunk."""
    whole = np.linalg.inv(_canvas(sizes[1])) @ matrix @ _canvas(sizes[0])
    area = float(np.linalg.det(whole[:2, :2]))
    if not 0.01 < abs(area) < 100 or not np.isfinite(whole).all():
        return 0.0
    if abs(area) > 1:
        thumb_a, thumb_b, whole = thumb_b, thumb_a, np.linalg.inv(whole)
    size = (THUMB_PX, THUMB_PX)
    laid = cv2.warpAffine(thumb_a, whole[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.erode(cv2.warpAffine(_whole, whole[:2], size), _edge, borderValue=255) == 255
    if seen.sum() < max(SEEN_LEAST, COVERED_LEAST * min(abs(area), 1 / abs(area)) * THUMB_PX**2):
        return 0.0
    return likeness(laid, thumb_b, seen=seen)


def likeness(thumb_a: np.ndarray, thumb_b: np.ndarray, *, seen: np.ndarray) -> float:
    """Correlation of the details where `seen`, bool [S, S]."""
    one, two = _details(thumb_a)[seen], _details(thumb_b)[seen]
    one, two = one - one.mean(), two - two.mean()
    return float(one @ two / np.sqrt(max(float((one @ one) * (two @ two)), 1e-6)))


def _canvas(size: np.ndarray) -> np.ndarray:
    """From pixels of the small picture to those of the canvas, whose centres are at half pixels of either."""
    scale = np.asarray(size, np.float64) / THUMB_PX
    return np.array([[scale[0], 0, scale[0] / 2 - 0.5], [0, scale[1], scale[1] / 2 - 0.5], [0, 0, 1]])


def _details(thumb: np.ndarray) -> np.ndarray:
    grey = thumb.astype(np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), BLUR_PX)
