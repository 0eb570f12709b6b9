"""Pooling over a view of all windows. N images, C channels, H × W image, R × S window, P × Q result."""

from __future__ import annotations

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
    at = shapes.pool(x.shape, window, stride=stride, padding=padding)
    y = shapes.room(out, at.pooled, shapes.number_type(x))
    return _windows(x, at, around=-np.inf).max(axis=(4, 5), out=y)


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
    down, across = (
        np.arange(count) * step - around for count, step, around in zip((at.P, at.Q), at.stride, at.padding)
    )
    first = np.maximum(0, -down)[:, None] * at.S + np.maximum(0, -across)  # where all is −∞, padding must not win
    values = _windows(x, at, around=-np.inf).reshape(*at.pooled, at.R * at.S)
    best = values.argmax(axis=-1)
    y[:] = np.take_along_axis(values, best[..., None], axis=-1)[..., 0]
    index[:] = np.where(y == -np.inf, np.maximum(best, first), best)
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
    return _spread((np.where(index == place, grad, 0) for place in range(at.R * at.S)), at, dx)


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
    return _windows(x, at, around=0).mean(axis=(4, 5), out=y)


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
    share = grad / (at.R * at.S)
    return _spread((share for _ in range(at.R * at.S)), at, dx)


def _windows(x: np.ndarray, at: Window, *, around: float) -> np.ndarray:
    """[N, C, P, Q, R, S], a view of the image with padding."""
    (ph, pw), (sh, sw) = at.padding, at.stride
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=around) if ph or pw else x
    return np.lib.stride_tricks.sliding_window_view(padded, (at.R, at.S), axis=(2, 3))[:, :, ::sh, ::sw]


def _spread(parts, at: Window, dx: np.ndarray) -> np.ndarray:
    """Adds part r·S + s, [N, C, P, Q], to the pixels that are at (r, s) of the windows."""
    (ph, pw), (sh, sw) = at.padding, at.stride
    padded = np.zeros((at.N, at.C, at.H + 2 * ph, at.W + 2 * pw), dx.dtype)
    for place, part in enumerate(parts):
        r, s = divmod(place, at.S)
        padded[:, :, r : r + sh * at.P : sh, s : s + sw * at.Q : sw] += part
    dx[:] = padded[:, :, ph : ph + at.H, pw : pw + at.W]
    return dx
