"""Which part of a whole tensor a rank holds, as rectangles: what checkpoints, exports and the dry run read.

A tensor that no `Held` describes is whole, and equal on every rank that has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Box(NamedTuple):
    """A rectangle of `size`, which begins at `whole` in the whole tensor and at `part` in what the rank holds."""

    whole: Shape
    part: Shape
    size: Shape

    @property
    def numel(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True)
class Held:
    """A rank's part, of shape `part`, of a tensor of shape `whole`. The boxes fill the part and do not overlap."""

    whole: Shape
    part: Shape
    boxes: tuple[Box, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.part)

    def rows(self, first: int, last: int) -> Held:
        """Rows first … last-1 of the part alone: a share of a share."""
        kept = []
        for box in self.boxes:
            low, high = max(first, box.part[0]), min(last, box.part[0] + box.size[0])
            if low < high:
                ahead = low - box.part[0]
                kept.append(
                    Box(
                        (box.whole[0] + ahead, *box.whole[1:]),
                        (low - first, *box.part[1:]),
                        (high - low, *box.size[1:]),
                    )
                )
        return Held(self.whole, (max(0, last - first), *self.part[1:]), tuple(kept))

    def document(self) -> list[list[list[int]]]:
        """The boxes as JSON has them: equal for ranks that hold the same part."""
        return [[list(box.whole), list(box.part), list(box.size)] for box in self.boxes]


def all_of(shape: Sequence[int]) -> Held:
    """The whole tensor."""
    at = (0,) * len(shape)
    return Held(tuple(shape), tuple(shape), (Box(at, at, tuple(shape)),))


def stretch(shape: Sequence[int], *, dim: int, start: int, stop: int) -> Held:
    """`start` … `stop`-1 of dimension `dim`."""
    part = (*shape[:dim], stop - start, *shape[dim + 1 :])
    at = tuple(start if d == dim else 0 for d in range(len(shape)))
    return Held(tuple(shape), part, (Box(at, (0,) * len(shape), part),))


def groups(shape: Sequence[int], *, count: int, start: int, stop: int) -> Held:
    """Of a first dimension that is `count` stacked parts of equal size, `start` … `stop`-1 of each: the queries, keys and
    values of some heads of a fused projection."""
    rows, each = shape[0] // count, stop - start
    boxes = tuple(
        Box(
            (index * rows + start, *(0,) * (len(shape) - 1)),
            (index * each, *(0,) * (len(shape) - 1)),
            (each, *shape[1:]),
        )
        for index in range(count)
    )
    return Held(tuple(shape), (count * each, *shape[1:]), boxes)


def share(size: int, *, index: int, of: int) -> tuple[int, int]:
    """First and last+1 of the `index`-th of `of` parts of `size`: uneven ones differ by 1, and together are all of it."""
    return index * size // of, (index + 1) * size // of


def cut(whole: Tensor, held: Held) -> Tensor:
    """A copy of the rank's part of `whole`, contiguous."""
    part = torch.empty(held.part, dtype=whole.dtype, device=whole.device)
    for box in held.boxes:
        part[_slices(box.part, box.size)] = whole[_slices(box.whole, box.size)]
    return part


def put(part: Tensor, held: Held, *, into: Tensor) -> None:
    """Writes the rank's part to its places in a whole tensor."""
    for box in held.boxes:
        into[_slices(box.whole, box.size)] = part[_slices(box.part, box.size)]


def overlaps(
    held: Held, *, at: Sequence[int], size: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For a saved rectangle (`at`, `size`) of the whole: slices of the part and of the rectangle that are the same numbers."""
    for box in held.boxes:
        low = [max(a, b) for a, b in zip(box.whole, at)]
        high = [min(a + n, b + m) for a, n, b, m in zip(box.whole, box.size, at, size)]
        if all(a < b for a, b in zip(low, high)):
            yield (
                tuple(slice(a - w + p, b - w + p) for a, b, w, p in zip(low, high, box.whole, box.part)),
                tuple(slice(a - w, b - w) for a, b, w in zip(low, high, at)),
            )


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory: a sharded one's own rows."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _slices(at: Shape, size: Shape) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(at, size))
