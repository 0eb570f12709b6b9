"""Convolution as its definition says, one multiplication at a time: the sequential baseline. Letters as in scratch/shapes.

y[n, o, p, q] = bias[o] + Σ_{c, r, s} weight[o, c, r, s] · x[n, c, p·stride + r·dilation − padding, …]; pixels outside are 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fanlight.scratch import shapes
from fanlight.scratch.shapes import Convolution, Pair


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """[N, O, P, Q] of images [N, C, H, W] and weights [O, C/G, R, S]."""
    at = shapes.convolution(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        bias=shapes.of(bias),
    )  # fmt: skip
    y = shapes.room(out, at.y, shapes.number_type(x, weight, bias))
    for n in range(at.N):
        for o in range(at.O):
            for p in range(at.P):
                for q in range(at.Q):
                    total = 0.0 if bias is None else float(bias[o])
                    for c, r, s, h, w in _seen(at, o, p, q):
                        total += float(weight[o, c, r, s]) * float(x[n, _channel(at, o, c), h, w])
                    y[n, o, p, q] = 0.0 if relu and total < 0 else total
    return y


def conv2d_input(
    grad: np.ndarray,
    weight: np.ndarray,
    *,
    image: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient [N, C, H, W] of images of H × W = `image` pixels: each pixel collects from every result that saw it."""
    at = shapes.input_gradient(
        grad.shape, weight.shape, image=image, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dx = shapes.room(out, at.x, shapes.number_type(grad, weight))
    for n in range(at.N):
        totals = np.zeros(at.x[1:])
        for o in range(at.O):
            for p in range(at.P):
                for q in range(at.Q):
                    for c, r, s, h, w in _seen(at, o, p, q):
                        totals[_channel(at, o, c), h, w] += float(grad[n, o, p, q]) * float(weight[o, c, r, s])
        dx[n] = totals
    return dx


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
    """The gradient [O, C/G, R, S] of weights of R × S = `kernel` pixels: each weight collects from every use of it."""
    at = shapes.weight_gradient(
        grad.shape, x.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dweight = shapes.room(out, at.weight, shapes.number_type(grad, x))
    for o in range(at.O):
        totals = np.zeros(at.weight[1:])
        for n in range(at.N):
            for p in range(at.P):
                for q in range(at.Q):
                    for c, r, s, h, w in _seen(at, o, p, q):
                        totals[c, r, s] += float(grad[n, o, p, q]) * float(x[n, _channel(at, o, c), h, w])
        dweight[o] = totals
    return dweight


def conv2d_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient [O] of the bias: what arrives at each filter, added up."""
    N, O, L = shapes.channels(grad.shape)  # noqa: E741
    dbias = shapes.room(out, (O,), shapes.number_type(grad))
    flat = grad.reshape(N, O, L)
    for o in range(O):
        dbias[o] = sum(float(flat[n, o, i]) for n in range(N) for i in range(L))
    return dbias


def _seen(at: Convolution, o: int, p: int, q: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(c, r, s, h, w): which weight of filter `o` meets which pixel, for the result at (p, q); pixels outside are left out."""
    for c in range(at.C // at.G):
        for r in range(at.R):
            h = p * at.stride[0] + r * at.dilation[0] - at.padding[0]
            for s in range(at.S):
                w = q * at.stride[1] + s * at.dilation[1] - at.padding[1]
                if 0 <= h < at.H and 0 <= w < at.W:
                    yield c, r, s, h, w


def _channel(at: Convolution, o: int, c: int) -> int:
    """The image's channel that is the c-th of filter `o`'s group."""
    return o // (at.O // at.G) * (at.C // at.G) + c
