"""Pooling, each thread some of the N·C planes. H × W image, R × S window, P × Q result.

Rows are worked on whole, so that what is next to each other becomes a vector. Windows of 2 × 2 side by side, the usual
case, have a loop of their own that waits for memory only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.shapes import Pair, Window


class _At(NamedTuple):
    H: int
    W: int
    R: int
    S: int
    P: int
    Q: int
    down: int  # stride
    across: int
    above: int  # padding
    left: int


def max_pool2d(
    x: np.ndarray,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """[N, C, P, Q], the largest of each window; a NaN in it is the largest. Without `stride`, windows lie side by side."""
    at = shapes.pool(x.shape, window, stride=stride, padding=padding)
    y = shapes.room(out, at.pooled, shapes.number_type(x))
    if not _is_of_pairs(at):
        return max_pool2d_index(x, window, stride=stride, padding=padding, out=y)[0]
    _max_of_pairs(_planes(x), _planes(y))
    return y


def max_pool2d_index(
    x: np.ndarray,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
    index: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest, and uint16 [N, C, P, Q]: which pixel of its window it is, r·S + s, the first among equals."""
    at = shapes.pool(x.shape, window, stride=stride, padding=padding)
    y = shapes.room(out, at.pooled, shapes.number_type(x))
    index = shapes.room(index, at.pooled, shapes.index_type(at))
    if _is_of_pairs(at):
        _max_index_of_pairs(_planes(x), _planes(y), _planes(index))
    else:
        _max_index(_planes(x), _planes(y), _planes(index), _at(at))
    return y, index


def max_pool2d_backward(
    grad: np.ndarray,
    index: np.ndarray,
    window: int | Pair,
    *,
    image: Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient [N, C, H, W]: each result's goes to the pixel that was the largest."""
    at = shapes.pool_gradient(grad.shape, window, image=image, stride=stride, padding=padding, index=index.shape)
    dx = shapes.room(out, at.x, shapes.number_type(grad))
    _max_backward(_planes(grad), _planes(index.astype(np.uint16, copy=False)), _planes(dx), _at(at))
    return dx


def avg_pool2d(
    x: np.ndarray,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """[N, C, P, Q], the mean of each window; padding counts as zeros."""
    at = shapes.pool(x.shape, window, stride=stride, padding=padding)
    y = shapes.room(out, at.pooled, shapes.number_type(x))
    _mean(_planes(x), _planes(y), _at(at))
    return y


def avg_pool2d_backward(
    grad: np.ndarray,
    window: int | Pair,
    *,
    image: Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient [N, C, H, W]: each result's is spread evenly over its window."""
    at = shapes.pool_gradient(grad.shape, window, image=image, stride=stride, padding=padding)
    dx = shapes.room(out, at.x, shapes.number_type(grad))
    _mean_backward(_planes(grad), _planes(dx), _at(at))
    return dx


def _is_of_pairs(at: Window) -> bool:
    """Whether windows are of 2 × 2, side by side."""
    return (at.R, at.S, *at.stride, *at.padding) == (2, 2, 2, 2, 0, 0)


def _planes(x: np.ndarray) -> np.ndarray:
    """[N·C, H, W]"""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


def _at(at: Window) -> _At:
    return _At(at.H, at.W, at.R, at.S, at.P, at.Q, *at.stride, *at.padding)


@parallel
def _max_of_pairs(x, y):
    for plane in prange(len(x)):
        for p in range(y.shape[1]):
            _max_of_two_rows(x[plane, 2 * p], x[plane, 2 * p + 1], y[plane, p])


@compiled
def _max_of_two_rows(upper, lower, result):
    for q in range(len(result)):
        a, b, c, d = upper[2 * q], upper[2 * q + 1], lower[2 * q], lower[2 * q + 1]
        # The second is taken where it is not smaller, which a NaN never is; a NaN in the first place stays by `a != a`.
        above = a if a > b or a != a else b
        below = c if c > d or c != c else d
        result[q] = above if above > below or above != above else below


@parallel
def _max_index_of_pairs(x, y, index):
    for plane in prange(len(x)):
        for p in range(y.shape[1]):
            _max_index_of_two_rows(x[plane, 2 * p], x[plane, 2 * p + 1], y[plane, p], index[plane, p])


@compiled
def _max_index_of_two_rows(upper, lower, result, index):
    for q in range(len(result)):
        best, place = upper[2 * q], 0
        for own, value in ((1, upper[2 * q + 1]), (2, lower[2 * q]), (3, lower[2 * q + 1])):
            better = value > best or value != value
            best = value if better else best
            place = own if better else place
        result[q], index[q] = best, np.uint16(place)


@parallel
def _max_index(x, y, index, at):
    for plane in prange(len(x)):
        for p in range(at.P):
            _max_index_of_rows(x[plane], y[plane, p], index[plane, p], np.int64(p), at)


@compiled
def _max_index_of_rows(x, result, index, p, at):
    nothing = 65535
    result[:] = -np.inf
    index[:] = nothing
    for r in range(at.R):
        h = p * at.down + r - at.above
        if h < 0 or h >= at.H:
            continue
        for s in range(at.S):
            low, high = _inside(s, at)
            line = x[h, low * at.across + s - at.left :]
            best, place, own = result[low:high], index[low:high], np.uint16(r * at.S + s)
            for q in range(len(best)):
                value = line[q * at.across]
                better = value > best[q] or value != value or place[q] == nothing
                best[q] = value if better else best[q]
                place[q] = own if better else place[q]


@parallel
def _max_backward(grad, index, dx, at):
    for plane in prange(len(dx)):
        dx[plane] = 0
        for p in range(at.P):
            for q in range(at.Q):
                r, s = divmod(np.int64(index[plane, p, q]), at.S)
                h, w = p * at.down + r - at.above, q * at.across + s - at.left
                if r < at.R and 0 <= h < at.H and 0 <= w < at.W:  # a wrong index must not write beside the array
                    dx[plane, h, w] += grad[plane, p, q]


@parallel
def _mean(x, y, at):
    for plane in prange(len(x)):
        for p in range(at.P):
            _mean_of_rows(x[plane], y[plane, p], np.int64(p), at)


@compiled
def _mean_of_rows(x, result, p, at):
    result[:] = 0
    for r in range(at.R):
        h = p * at.down + r - at.above
        if h < 0 or h >= at.H:
            continue
        for s in range(at.S):
            low, high = _inside(s, at)
            line, total = x[h, low * at.across + s - at.left :], result[low:high]
            for q in range(len(total)):
                total[q] += line[q * at.across]
    size = result.dtype.type(at.R * at.S)
    for q in range(len(result)):
        result[q] /= size


@parallel
def _mean_backward(grad, dx, at):
    for plane in prange(len(dx)):
        dx[plane] = 0
        for p in range(at.P):
            _spread_rows(grad[plane, p], dx[plane], np.int64(p), at)


@compiled
def _spread_rows(grad, dx, p, at):
    size = grad.dtype.type(at.R * at.S)
    for r in range(at.R):
        h = p * at.down + r - at.above
        if h < 0 or h >= at.H:
            continue
        for s in range(at.S):
            low, high = _inside(s, at)
            line, given = dx[h, low * at.across + s - at.left :], grad[low:high]
            for q in range(len(given)):
                line[q * at.across] += given[q] / size


@compiled
def _inside(s, at):
    """low, high: results whose window has its column s in the image; 0 ≤ q·across + s − left < W."""
    shift = s - at.left
    low = min(max(0, -(shift // at.across)), at.Q)
    return low, max(low, min(at.Q, (at.W - 1 - shift) // at.across + 1))
