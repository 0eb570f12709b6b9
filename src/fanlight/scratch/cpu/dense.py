"""Dense layer: products by BLAS, which NumPy brings with threads of its own; bias and ReLU in one pass over all cores.

A product of matrices is what BLAS has been tuned for longest; the tiles of the convolution would only come near it. Its
threads are set by `cpu.threads.set_threads` together with Numba's.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import parallel


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """y = x · weightᵀ + bias, [N, O]."""
    shape = shapes.linear(x.shape, weight.shape, bias=None if bias is None else bias.shape)
    dtype = shapes.number_type(x, weight, bias)
    y = np.matmul(x, weight.T, out=shapes.room(out, shape, dtype))
    if bias is not None or relu:
        _finish(y, np.zeros(shape[1], dtype) if bias is None else np.ascontiguousarray(bias), relu)
    return y


def linear_input(grad: np.ndarray, weight: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dx = grad · weight, [N, I]."""
    shapes.linear((len(grad), weight.shape[1]), weight.shape, y=grad.shape)
    return np.matmul(grad, weight, out=shapes.room(out, (len(grad), weight.shape[1]), shapes.number_type(grad, weight)))


def linear_weight(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dweight = gradᵀ · x, [O, I]."""
    shape = (grad.shape[1], x.shape[1])
    shapes.linear(x.shape, shape, y=grad.shape)
    return np.matmul(grad.T, x, out=shapes.room(out, shape, shapes.number_type(grad, x)))


def linear_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dbias = Σ over rows, [O]."""
    return grad.sum(axis=0, out=shapes.room(out, grad.shape[1:], shapes.number_type(grad)))


@parallel
def _finish(y, bias, relu):
    for n in prange(len(y)):
        for o in range(y.shape[1]):
            value = y[n, o] + bias[o]
            y[n, o] = y.dtype.type(0) if relu and value < 0 else value
