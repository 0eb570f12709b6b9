"""Pooling on a GPU, channels last; gradients are gathered, so they need no atomic additions."""

from __future__ import annotations

from fanlight.kernels import pool_avg, pool_max
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room
from fanlight.scratch.shapes import Pair, Window


@operator
def max_pool2d(
    x: Array,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: Array | None = None,
) -> Array:
    """[N, C, P, Q], the largest of each window; a NaN in it is the largest. Without `stride`, windows lie side by side."""
    return max_pool2d_index(x, window, stride=stride, padding=padding, out=out)[0]


@operator
def max_pool2d_index(
    x: Array,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: Array | None = None,
    index: Array | None = None,
) -> tuple[Array, Array]:
    """The largest, and uint16 [N, C, P, Q]: which pixel of its window it is, r·S + s, the first among equals."""
    at = shapes.pool(x.shape, window, stride=stride, padding=padding, index=shapes.of(index))
    number_type(x)
    shapes.index_type(at)
    room(out, at.pooled, x)
    return pool_max.forward(x, (at.R, at.S), **_steps(at), out=out, index=index)


@operator(changes=("out",))
def max_pool2d_backward(
    grad: Array,
    index: Array,
    window: int | Pair,
    *,
    image: Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: Array | None = None,
) -> Array:
    """The gradient [N, C, H, W]: each result's goes to the pixel that was the largest."""
    at = shapes.pool_gradient(grad.shape, window, image=image, stride=stride, padding=padding, index=index.shape)
    number_type(grad)
    room(out, at.x, grad)
    return pool_max.backward(grad, index, (at.R, at.S), image=(at.H, at.W), **_steps(at), out=out)


@operator
def avg_pool2d(
    x: Array,
    window: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: Array | None = None,
) -> Array:
    """[N, C, P, Q], the mean of each window; padding counts as zeros."""
    at = shapes.pool(x.shape, window, stride=stride, padding=padding)
    number_type(x)
    room(out, at.pooled, x)
    return pool_avg.forward(x, (at.R, at.S), **_steps(at), out=out)


@operator
def avg_pool2d_backward(
    grad: Array,
    window: int | Pair,
    *,
    image: Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    out: Array | None = None,
) -> Array:
    """The gradient [N, C, H, W]: each result's is spread evenly over its window."""
    at = shapes.pool_gradient(grad.shape, window, image=image, stride=stride, padding=padding)
    number_type(grad)
    room(out, at.x, grad)
    return pool_avg.backward(grad, (at.R, at.S), image=(at.H, at.W), **_steps(at), out=out)


def _steps(at: Window) -> dict[str, Pair]:
    return {"stride": at.stride, "padding": at.padding}
