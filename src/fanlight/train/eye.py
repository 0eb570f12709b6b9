"""How a trained network sees image files: bytes → canvas → crop, as in training's evaluation. V views of an image, P its side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fanlight import machine
from fanlight.data import augment, canvas
from fanlight.data.manifest import read_file
from fanlight.errors import DataError

BATCH = 32


@dataclass(frozen=True)
class Eye:
    """How a trained network sees an image file."""

    image_px: int
    canvas_px: int
    eval_share: float
    flip: bool  # a mirrored image shows the same: it may be one of the views

    def squares(self, data: bytes, *, views: int = 1) -> np.ndarray:
        """uint8 [V, P, P, 3]: what the network sees of an image file's bytes. canvas.Unreadable where it is none."""
        pixels = canvas.to_canvas(data, self.canvas_px)
        height, width = (np.array([side]) for side in pixels.shape[:2])
        boxes = augment.view_boxes(height, width, share=self.eval_share, views=views, flip=self.flip)
        out = np.empty((views, self.image_px, self.image_px, 3), np.uint8)
        for view, box in zip(out, boxes):
            augment.cut(pixels, box, 0, out=view)
        return out

    def answers(
        self, paths: Iterable[str | Path], answer: Callable[[np.ndarray], list[dict[str, Any]]], *, views: int = 1
    ) -> Iterator[dict[str, Any]]:
        """One per file, in order: what `answer` makes of uint8 [B, V, P, P, 3], or {path, error}. Files are decoded ahead by
        threads; at most a few batches are in memory."""
        todo = iter(paths)
        with ThreadPoolExecutor(machine.cores_usable()) as threads:
            while chunk := list(islice(todo, BATCH)):
                found = list(threads.map(partial(self._read, views=views), chunk))
                squares = [each for each in found if isinstance(each, np.ndarray)]
                made = iter(answer(np.stack(squares)) if squares else ())
                for path, each in zip(chunk, found):
                    yield {"path": str(path), **({"error": each} if isinstance(each, str) else next(made))}

    def _read(self, path: str | Path, *, views: int) -> np.ndarray | str:
        try:
            return self.squares(read_file(path), views=views)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            return getattr(error, "strerror", None) or str(error)
        except DataError as error:  # no image, or an archive that is damaged
            return str(error)


def several(paths: str | Path | Iterable[str | Path]) -> Iterable[str | Path]:
    """A single path as a list of one: the letters of a text are no paths."""
    return [paths] if isinstance(paths, str | os.PathLike) else paths
