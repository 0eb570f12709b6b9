"""Gradient of a convolution's weights: for each tap, the products of what it sees with the result's gradient, added up.

Images are laid out by cpu/walk; the gradient beside them, with zeros where a row's end is no result, so that both are
walked through in one go (tile.add_dots). Sums of some images are kept apart and added last: their number depends on
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

DOT_POSITIONS = (
    800  # numbers of a filter's gradient at once: of M = 8 filters they stay in a first-level cache of 32 KB
)
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
    at = shapes.convolution(
        x.shape, (grad.shape[1], x.shape[1] // groups, *kernel), stride=stride, padding=padding, dilation=dilation,
        groups=groups, y=grad.shape,
    )  # fmt: skip
    dtype = shapes.number_type(grad, x)
    dweight = shapes.room(out, at.weight, dtype)
    walk, offsets = walks.forward(at, dtype, most=DOT_POSITIONS)
    taps = len(offsets)
    offsets = np.append(offsets, np.repeat(offsets[-1:], -taps % V))  # the sums of these are of no tap
    blocks = -(-walk.O // M)
    parts = min(at.N, WORKS, max(1, APART_NUMBERS // (at.G * blocks * M * len(offsets))))
    splits = min(blocks, max(1, WORKS // (4 * parts * at.G)))
    sums = np.zeros((parts, at.G, blocks * M, len(offsets)), dtype)
    _dots(np.ascontiguousarray(x), np.ascontiguousarray(grad), offsets, sums, splits, walk)
    dweight[...] = sums.sum(axis=0)[:, : walk.O, :taps].reshape(at.weight)
    return dweight


@parallel
def _dots(x, grad, offsets, sums, splits, walk):
    """sums[part, g, o, k] over the images of each part. A piece of work: a part, a group, a share of its filters."""
    for work in prange(sums.shape[0] * sums.shape[1] * splits):
        _dots_of(
            x, grad, offsets, sums, splits, walk, np.int64(work)
        )  # Numba counts in uint64, which divides as a float


@compiled
def _dots_of(x, grad, offsets, sums, splits, walk, work):
    parts, G, filters, _ = sums.shape
    part, rest = divmod(work, G * splits)
    g, split = divmod(rest, splits)
    low, high = split * (filters // M) // splits * M, (split + 1) * (filters // M) // splits * M
    L = REGISTER_BYTES // x.itemsize
    length = (walk.rows * walk.pitch + L - 1) // L * L
    buffer = np.zeros(walks.buffer_numbers(walk, L), x.dtype)
    beside = np.zeros((high - low, length), x.dtype)
    for n in range(part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts):
        for p in range(0, walk.P, walk.rows):
            walks.fill(buffer, x, n, g, p, walk)
            _lay(beside, grad, n, g, p, low, walk)
            _sum_rows(sums[part, g], buffer, beside, offsets, low, min(walk.rows, walk.P - p) * walk.pitch)


@compiled
def _lay(beside, grad, n, g, p, low, walk):
    """The gradient of filters from `low` and rows from p on, at the buffer's pitch; zeros between stay as they are."""
    rows = min(walk.rows, walk.P - p)
    for m in range(min(len(beside), walk.O - low)):
        for row in range(rows):
            line, at = grad[n, g * walk.O + low + m, p + row], row * walk.pitch
            for q in range(walk.Q):
                beside[m, at + q] = line[q]
        beside[m, rows * walk.pitch :] = 0


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
