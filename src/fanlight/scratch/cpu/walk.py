"""How a convolution goes over images: a few rows at once, in a buffer where every tap is a fixed offset.

The buffer holds what those rows of the result can see, with padding in place and, for a stride of s, the s × s images of
every s-th pixel ("phases") apart. In it, what a tap sees of neighbouring results is neighbouring numbers, whatever stride,
padding and dilation. Rows follow each other without a gap: a tile of positions runs on into the next row, past the few
columns that are no result. Letters as in scratch/shapes; C and O are of one group, K = C·R·S taps.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from fanlight.scratch.cpu import tile
from fanlight.scratch.cpu.compiled import compiled
from fanlight.scratch.shapes import Convolution, Pair

BUFFER_BYTES = 192 << 10  # with what else is in use it stays below a second-level cache of 512 KB


class Walk(NamedTuple):
    """How a buffer of rows goes over the images. Row ρ of phase a, for the result's rows from p, is the image's row
    (p + ρ)·phases + a + origin; the same holds across."""

    G: int
    C: int  # channels that are read, of a group
    O: int  # channels that are written, of a group  # noqa: E741
    P: int
    Q: int
    phases_down: int
    phases_across: int
    origin_down: int
    origin_across: int
    rows: int  # of the result, at once
    height: int  # of the buffer: `rows` and what taps reach below
    pitch: int  # numbers per row of the buffer: Q and what taps reach to the right
    base_down: int  # the first row that is written, and from one to the next
    base_across: int
    step_down: int
    step_across: int


@functools.lru_cache(maxsize=1024)  # a training step asks for the same few again and again
def forward(at: Convolution, dtype: np.dtype, *, most: int) -> tuple[Walk, np.ndarray]:
    """The walk over a convolution's images, at most about `most` numbers of a filter's result at once; and its offsets."""
    of_tap = taps(at)
    walk = plan(
        at, C=at.C // at.G, O=at.O // at.G, P=at.P, Q=at.Q, phases=at.stride, origin=(-at.padding[0], -at.padding[1]),
        reach=(int(of_tap[:, 2].max()), int(of_tap[:, 3].max())), base=(0, 0), step=(1, 1), dtype=dtype, most=most,
    )  # fmt: skip
    return walk, offsets(walk, of_tap)


@functools.lru_cache(maxsize=1024)
def taps(at: Convolution) -> np.ndarray:
    """[R·S, 4]: in which phase a tap sees its pixels, down and across, and how many of the phase's pixels further on."""
    down, across = np.divmod(np.arange(at.R * at.S), at.S)
    down, across = down * at.dilation[0], across * at.dilation[1]
    return np.stack([down % at.stride[0], across % at.stride[1], down // at.stride[0], across // at.stride[1]], axis=1)


def plan(
    at: Convolution,
    *,
    C: int,
    O: int,  # noqa: E741
    P: int,
    Q: int,
    phases: Pair,
    origin: Pair,
    reach: Pair,
    base: Pair,
    step: Pair,
    dtype: np.dtype,
    most: int,
) -> Walk:
    """The walk whose buffer fits, with as many rows at once as waste little of the last tile."""
    pitch, width = Q + reach[1], tile.V * tile.lanes(dtype.itemsize)
    of_row = C * phases[0] * phases[1] * pitch * dtype.itemsize
    fit = max(1, min(P, most // pitch, BUFFER_BYTES // of_row - reach[0]))
    rows = fewest_tiles(P, pitch, width=width, most=fit)
    return Walk(at.G, C, O, P, Q, *phases, *origin, rows, rows + reach[0], pitch, *base, *step)


def fewest_tiles(rows: int, pitch: int, *, width: int, most: int) -> int:
    """How many rows of a result at once, half of `most` or more, leave least of the last tiles of `width` unused."""

    def tiles(at_once: int) -> int:
        whole, rest = divmod(rows, at_once)
        return whole * -(-at_once * pitch // width) - (-rest * pitch // width)

    return min(range((most + 1) // 2, most + 1), key=lambda at_once: (tiles(at_once), -at_once))


def offsets(walk: Walk, of_tap: np.ndarray) -> np.ndarray:
    """[K]: where in the buffer, from a result's own position, each tap of each channel looks."""
    plane = walk.height * walk.pitch
    phases = walk.phases_down * walk.phases_across
    within = (of_tap[:, 0] * walk.phases_across + of_tap[:, 1]) * plane + of_tap[:, 2] * walk.pitch + of_tap[:, 3]
    return (np.arange(walk.C)[:, None] * (phases * plane) + within).ravel()


@compiled
def buffer_numbers(walk, width):
    """How many numbers a buffer needs: its rows, and what the last tile of `width` numbers reads past them, by as much
    further as taps reach to the right."""
    planes = walk.C * walk.phases_down * walk.phases_across
    return planes * walk.height * walk.pitch + width + walk.pitch - walk.Q


@compiled
def fill(buffer, x, n, g, p, walk, row, rows):
    """Copies what the result's rows from p on can see of image n and group g, so many rows, into the buffer's planes from
    their row `row` on; zeros where is no image."""
    at, plane, size = row * walk.pitch, walk.height * walk.pitch, rows * walk.pitch
    for c in range(g * walk.C, (g + 1) * walk.C):
        for down in range(walk.phases_down):
            first = p * walk.phases_down + down + walk.origin_down
            for across in range(walk.phases_across):
                steps = (walk.phases_down, walk.phases_across)
                fill_rows(buffer[at : at + size], x[n, c], first, across + walk.origin_across, steps, walk.pitch)
                at += plane


@compiled
def fill_rows(rows, plane, first, left, steps, pitch):
    """Rows of `pitch` numbers from a plane: its rows first, first + steps[0], …, their columns left, left + steps[1], …"""
    H, W = plane.shape
    low = min(max(0, -(left // steps[1])), pitch)  # of the columns that there are
    high = max(low, min(pitch, (W - 1 - left) // steps[1] + 1))
    for row in range(len(rows) // pitch):
        line, h = rows[row * pitch : (row + 1) * pitch], first + row * steps[0]
        if h < 0 or h >= H:
            line[:] = 0
        else:
            line[:low] = 0
            line[high:] = 0
            copy(line[low:high], plane[h, low * steps[1] + left :], steps[1])


@compiled
def copy(to, source, step):
    """Every step-th number. Slices that begin at 0: an index that may be negative is no vector."""
    if step == 1:
        for i in range(len(to)):
            to[i] = source[i]
    else:
        for i in range(len(to)):
            to[i] = source[i * step]
