"""Dense layer: products by BLAS; bias and ReLU in one pass over all cores.

A product of matrices is what BLAS has been tuned for longest; the tiles of the convolution would only come near it. Each of
Numba's threads multiplies some rows of the result, and BLAS computes on that thread alone (`cpu.threads`): threads of its own
would spin for a while after each product, on the cores that the next kernel wants.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

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
    shape = shapes.linear(x.shape, weight.shape, bias=shapes.of(bias))
    dtype = shapes.number_type(x, weight, bias)
    y = shapes.room(out, shape, dtype)
    _rows_times(np.ascontiguousarray(x), np.ascontiguousarray(weight).T, y, get_num_threads())
    if bias is not None or relu:
        _finish(y, np.zeros(shape[1], dtype) if bias is None else np.ascontiguousarray(bias), relu)
    return y


def linear_input(grad: np.ndarray, weight: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dx = grad · weight, [N, I]."""
    shape = shapes.linear_input(grad.shape, weight.shape)
    dx = shapes.room(out, shape, shapes.number_type(grad, weight))
    _rows_times(np.ascontiguousarray(grad), np.ascontiguousarray(weight), dx, get_num_threads())
    return dx


def linear_weight(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dweight = gradᵀ · x, [O, I]."""
    shape = shapes.linear_weight(grad.shape, x.shape)
    dweight = shapes.room(out, shape, shapes.number_type(grad, x))
    _columns_times(np.ascontiguousarray(grad), np.ascontiguousarray(x), dweight, get_num_threads())
    return dweight


def linear_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dbias = Σ over rows, [O]."""
    return grad.sum(axis=0, out=shapes.room(out, shapes.linear_bias(grad.shape), shapes.number_type(grad)))


@parallel
def _rows_times(a, b, y, threads):
    """y = a · b, rows of a divided over the threads."""
    threads = min(threads, len(a))
    for thread in prange(threads):
        t = np.int64(thread)  # Numba counts in uint64, which divides as a float
        low, high = t * len(a) // threads, (t + 1) * len(a) // threads
        np.dot(a[low:high], b, y[low:high])


@parallel
def _columns_times(a, b, y, threads):
    """y = aᵀ · b, columns of a divided over the threads, which copy theirs: BLAS wants them side by side."""
    threads = min(threads, a.shape[1])
    for thread in prange(threads):
        t = np.int64(thread)
        low, high = t * a.shape[1] // threads, (t + 1) * a.shape[1] // threads
        np.dot(np.ascontiguousarray(a[:, low:high].T), b, y[low:high])


@parallel
def _finish(y, bias, relu):
    for n in prange(len(y)):
        for o in range(y.shape[1]):
            value = y[n, o] + bias[o]
            y[n, o] = y.dtype.type(0) if relu and value < 0 else value
