"""Gradient of a convolution's weights: for each tap, the products of what it sees with the result's gradient, added up.

Images are laid out by cpu/walk; the gradient beside them, with zeros where a row's end is no result, so that both are
walked through in one go (tile.add_dots): the longer, the fewer lanes are added up. Small images lie one below the other, with
the rows between them that no result begins in. Sums of some images are kept apart and added last: their number depends on
shapes alone, so any number of threads gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu import walk as walks
from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.cpu.tile import REGISTER_BYTES, M, V, add_dots
from fanlight.scratch.shapes import Pair

DOT_POSITIONS = 6400 // M  # numbers of a filter's gradient at once: those of M filters stay in a cache of 32 KB
WORKS = 64  # pieces of work, and so the most threads
APART_NUMBERS = 1 << 24  # that the sums kept apart may take


def conv2d_weight(
    grad: np.ndarray,
    x: np.ndarray,
    *,
    kernel: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient [O, C/G, R, S] of weights of R × S = `kernel` pixels, from that of the result. A NaN or an infinity in
    an image spreads to all taps of its channel."""
    at = shapes.weight_gradient(
        grad.shape, x.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dtype = shapes.number_type(grad, x)
    dweight = shapes.room(out, at.weight, dtype)
    of_one, _ = walks.forward(at, dtype, most=DOT_POSITIONS)
    images = _at_once(of_one, at.N, dtype.itemsize)
    walk = of_one._replace(height=images * of_one.height)
    offsets = walks.offsets(walk, walks.taps(at))
    taps = len(offsets)
    offsets = np.append(offsets, np.repeat(offsets[-1:], -taps % V))  # the sums of these are of no tap
    blocks = -(-walk.O // M)
    parts = max(1, min(-(-at.N // images), WORKS, APART_NUMBERS // (at.G * blocks * M * len(offsets))))
    splits = min(blocks, max(1, WORKS // (4 * parts * at.G)))
    sums = np.zeros((parts, at.G, blocks * M, len(offsets)), dtype)
    _dots(np.ascontiguousarray(x), np.ascontiguousarray(grad), offsets, sums, splits, walk, images)
    dweight[...] = sums.sum(axis=0)[:, : walk.O, :taps].reshape(at.weight)
    return dweight


def _at_once(walk: walks.Walk, images: int, itemsize: int) -> int:
    """How many images lie in the buffer together: several where one is few positions."""
    if walk.rows < walk.P:
        return 1
    of_image = walk.height * walk.pitch
    of_buffer = walk.C * walk.phases_down * walk.phases_across * of_image * itemsize
    return max(1, min(images, DOT_POSITIONS // of_image, walks.BUFFER_BYTES // of_buffer))


@parallel
def _dots(x, grad, offsets, sums, splits, walk, images):
    """sums[part, g, o, k] over the images of each part. A piece of work: a part, a group, a share of its filters."""
    for work in prange(sums.shape[0] * sums.shape[1] * splits):
        _dots_of(
            x, grad, offsets, sums, splits, walk, images, np.int64(work)
        )  # Numba counts in uint64, which divides as a float


@compiled
def _dots_of(x, grad, offsets, sums, splits, walk, images, work):
    parts, G, filters, _ = sums.shape
    part, rest = divmod(work, G * splits)
    g, split = divmod(rest, splits)
    low, high = split * (filters // M) // splits * M, (split + 1) * (filters // M) // splits * M
    L = REGISTER_BYTES // x.itemsize
    own = walk.height // images  # rows of one image in the buffer
    length = (((images - 1) * own + walk.rows) * walk.pitch + L - 1) // L * L
    buffer = np.zeros(walks.buffer_numbers(walk, L), x.dtype)
    beside = np.zeros((high - low, length), x.dtype)
    begin, end = part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts
    for n in range(begin, end, images):
        count = min(images, end - n)
        for p in range(0, walk.P, walk.rows):
            rows = min(walk.rows, walk.P - p)
            for image in range(count):
                walks.fill(buffer, x, n + image, g, p, walk, image * own, own)
                _lay(beside, grad, n + image, g, p, low, walk, image * own, rows)
            positions = ((count - 1) * own + rows) * walk.pitch
            beside[:, positions:] = 0
            _sum_rows(sums[part, g], buffer, beside, offsets, low, positions)


@compiled
def _lay(beside, grad, n, g, p, low, walk, first, rows):
    """The gradient of filters from `low` and of so many rows from p on, at the buffer's pitch, from row `first`; zeros
    between stay as they are."""
    for m in range(min(len(beside), walk.O - low)):
        for row in range(rows):
            line, at = grad[n, g * walk.O + low + m, p + row], (first + row) * walk.pitch
            for q in range(walk.Q):
                beside[m, at + q] = line[q]


@compiled
def _sum_rows(sums, buffer, beside, offsets, low, positions):
    """M filters by V taps at a time."""
    L = REGISTER_BYTES // buffer.itemsize
    length, pitch, K = (positions + L - 1) // L * L, beside.shape[1], len(offsets)
    totals, gradient = sums.ravel(), beside.ravel()
    for m in range(0, len(beside), M):
        for k in range(0, K, V):
            add_dots(
                totals, (low + m) * K + k, K, gradient, m * pitch, pitch,
                buffer, offsets[k], offsets[k + 1], offsets[k + 2], length,
            )  # fmt: skip
