"""Pooling, one window after the other. N images, C channels, H × W image, R × S window, P × Q result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fanlight.scratch import shapes
from fanlight.scratch.shapes import Pair, Window


def max_pool2d(
    x: np.ndarray,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """[N, C, P, Q], the largest of each window; a NaN in it is the largest. Without `stride`, windows lie side by side."""
    return max_pool2d_index(x, window, stride=stride, padding=padding, out=out)[0]


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
    for n, c, p, q in np.ndindex(at.pooled):
        best, place = -np.inf, -1
        for r, s, h, w in _seen(at, p, q):
            value = x[n, c, h, w]
            if place < 0 or value > best or np.isnan(value):
                best, place = value, r * at.S + s
        y[n, c, p, q], index[n, c, p, q] = best, place
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
    dx[:] = 0
    for n, c, p, q in np.ndindex(at.pooled):
        for r, s, h, w in _seen(at, p, q):
            if index[n, c, p, q] == r * at.S + s:
                dx[n, c, h, w] += grad[n, c, p, q]
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
    for n, c, p, q in np.ndindex(at.pooled):
        y[n, c, p, q] = sum(float(x[n, c, h, w]) for _, _, h, w in _seen(at, p, q)) / (at.R * at.S)
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
    dx[:] = 0
    for n, c, p, q in np.ndindex(at.pooled):
        for _, _, h, w in _seen(at, p, q):
            dx[n, c, h, w] += grad[n, c, p, q] / (at.R * at.S)
    return dx


def _seen(at: Window, p: int, q: int) -> Iterator[tuple[int, int, int, int]]:
    """(r, s, h, w): the window's pixels that are in the image, for the result at (p, q)."""
    for r in range(at.R):
        h = p * at.stride[0] + r - at.padding[0]
        for s in range(at.S):
            w = q * at.stride[1] + s - at.padding[1]
            if 0 <= h < at.H and 0 <= w < at.W:
                yield r, s, h, w
