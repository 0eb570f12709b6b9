"""Convolution as NumPy users write it: windows copied to columns, then one matrix product per image and group, by BLAS.

Letters as in scratch/shapes; K = C/G·R·S values that a filter sees, P·Q results. The columns take K/C·P·Q/(H·W) times the
image's memory: 9 times for 3 × 3.
"""

from __future__ import annotations

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
    weight_GOK = weight.reshape(at.G, at.O // at.G, -1)
    np.matmul(weight_GOK, _columns(x, at), out=y.reshape(at.N, at.G, at.O // at.G, at.P * at.Q))
    if bias is not None:
        y += bias[:, None, None]
    if relu:
        np.maximum(y, 0, out=y)
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
    """The gradient [N, C, H, W] of images of H × W = `image` pixels: the columns' gradient, added where each came from."""
    at = shapes.input_gradient(
        grad.shape, weight.shape, image=image, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dx = shapes.room(out, at.x, shapes.number_type(grad, weight))
    weight_GKO = weight.reshape(at.G, at.O // at.G, -1).swapaxes(1, 2)
    columns = weight_GKO @ grad.reshape(at.N, at.G, at.O // at.G, at.P * at.Q)
    columns = columns.reshape(at.N, at.C, at.R, at.S, at.P, at.Q)
    ph, pw = at.padding
    padded = np.zeros((at.N, at.C, at.H + 2 * ph, at.W + 2 * pw), dx.dtype)
    for r in range(at.R):
        for s in range(at.S):
            padded[:, :, *_places(at, r, s)] += columns[:, :, r, s]
    dx[:] = padded[:, :, ph : ph + at.H, pw : pw + at.W]
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
    """The gradient [O, C/G, R, S] of weights of R × S = `kernel` pixels."""
    at = shapes.weight_gradient(
        grad.shape, x.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dweight = shapes.room(out, at.weight, shapes.number_type(grad, x))
    given = grad.reshape(at.N, at.G, at.O // at.G, at.P * at.Q)
    of_image = given @ _columns(x, at).swapaxes(2, 3)
    dweight[:] = of_image.sum(axis=0).reshape(at.weight)
    return dweight


def conv2d_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient [O] of the bias: what arrives at each filter, added up."""
    N, O, L = shapes.channels(grad.shape)  # noqa: E741
    return grad.reshape(N, O, L).sum(axis=(0, 2), out=shapes.room(out, (O,), shapes.number_type(grad)))


def _columns(x: np.ndarray, at: Convolution) -> np.ndarray:
    """[N, G, K, P·Q]: beside each other, what each result's window sees."""
    (ph, pw), (sh, sw), (dh, dw) = at.padding, at.stride, at.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))) if ph or pw else x
    reach = (dh * (at.R - 1) + 1, dw * (at.S - 1) + 1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    seen = seen[:, :, ::sh, ::sw, ::dh, ::dw]  # [N, C, P, Q, R, S], a view
    return seen.transpose(0, 1, 4, 5, 2, 3).reshape(at.N, at.G, -1, at.P * at.Q)


def _places(at: Convolution, r: int, s: int) -> tuple[slice, slice]:
    """The padded image's pixels that the weight (r, s) meets."""
    (sh, sw), (down, across) = at.stride, (r * at.dilation[0], s * at.dilation[1])
    return slice(down, down + sh * at.P, sh), slice(across, across + sw * at.Q, sw)
