"""Dense layer by BLAS. N rows, I inputs, O outputs; weights [O, I], as in PyTorch."""

from __future__ import annotations

import numpy as np

from fanlight.scratch import shapes


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
    y = np.matmul(x, weight.T, out=shapes.room(out, shape, shapes.number_type(x, weight, bias)))
    if bias is not None:
        y += bias
    if relu:
        np.maximum(y, 0, out=y)
    return y


def linear_input(grad: np.ndarray, weight: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dx = grad · weight, [N, I]."""
    shape = shapes.linear_input(grad.shape, weight.shape)
    return np.matmul(grad, weight, out=shapes.room(out, shape, shapes.number_type(grad, weight)))


def linear_weight(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dweight = gradᵀ · x, [O, I]."""
    shape = shapes.linear_weight(grad.shape, x.shape)
    return np.matmul(grad.T, x, out=shapes.room(out, shape, shapes.number_type(grad, x)))


def linear_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dbias = Σ over rows, [O]."""
    return grad.sum(axis=0, out=shapes.room(out, shapes.linear_bias(grad.shape), shapes.number_type(grad)))
