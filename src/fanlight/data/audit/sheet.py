"""A contact sheet: the pictures of a group side by side, as one JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fanlight.data import canvas
from fanlight.data.manifest import Manifest
from fanlight.errors import DataError

TILE_PX, GAP_PX = 128, 4
QUALITY = 85
_EMPTY = 255  # white


def sheet(manifest: Manifest, rows: Sequence[int] | np.ndarray, *, columns: int = 6, most: int = 24) -> bytes:
    """JPEG bytes of a mosaic of these rows, at most `most` of them, whole pictures in squares of 128 px, in order.

    A file that cannot be read any more leaves its place empty."""
    chosen = [int(row) for row in rows][:most]
    if not chosen:
        raise DataError("a contact sheet needs at least one image; give the rows of a group")
    columns = min(columns, len(chosen))
    lines = -(-len(chosen) // columns)
    step = TILE_PX + GAP_PX
    page_HWC = np.full((lines * step + GAP_PX, columns * step + GAP_PX, 3), _EMPTY, np.uint8)
    for place, row in enumerate(chosen):
        top, left = (GAP_PX + step * part for part in divmod(place, columns))
        tile_HWC = _tile(manifest, row)
        height, width = tile_HWC.shape[:2]
        down, right = top + (TILE_PX - height) // 2, left + (TILE_PX - width) // 2
        page_HWC[down : down + height, right : right + width] = tile_HWC
    _, data = cv2.imencode(".jpg", cv2.cvtColor(page_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def _tile(manifest: Manifest, row: int) -> np.ndarray:
    try:
        pixels_HWC = canvas.to_canvas(manifest.read(row), TILE_PX)
    except DataError:  # Unreadable is one too
        return np.full((1, 1, 3), _EMPTY, np.uint8)
    scale = TILE_PX / max(pixels_HWC.shape[:2])
    width, height = (max(1, round(side * scale)) for side in pixels_HWC.shape[1::-1])
    return cv2.resize(pixels_HWC, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
