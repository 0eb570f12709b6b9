"""Dense layer, one multiplication at a time. N rows, I inputs, O outputs; weights [O, I], as in PyTorch."""

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
    """y[n, o] = bias[o] + Σ_i weight[o, i] · x[n, i]."""
    shape = shapes.linear(x.shape, weight.shape, bias=shapes.of(bias))
    y = shapes.room(out, shape, shapes.number_type(x, weight, bias))
    for n, o in np.ndindex(shape):
        total = 0.0 if bias is None else float(bias[o])
        for i in range(x.shape[1]):
            total += float(weight[o, i]) * float(x[n, i])
        y[n, o] = 0.0 if relu and total < 0 else total
    return y


def linear_input(grad: np.ndarray, weight: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dx[n, i] = Σ_o grad[n, o] · weight[o, i]."""
    shape = shapes.linear_input(grad.shape, weight.shape)
    dx = shapes.room(out, shape, shapes.number_type(grad, weight))
    for n, i in np.ndindex(dx.shape):
        dx[n, i] = sum(float(grad[n, o]) * float(weight[o, i]) for o in range(len(weight)))
    return dx


def linear_weight(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dweight[o, i] = Σ_n grad[n, o] · x[n, i]."""
    shape = shapes.linear_weight(grad.shape, x.shape)
    dweight = shapes.room(out, shape, shapes.number_type(grad, x))
    for o, i in np.ndindex(shape):
        dweight[o, i] = sum(float(grad[n, o]) * float(x[n, i]) for n in range(len(x)))
    return dweight


def linear_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """dbias[o] = Σ_n grad[n, o]."""
    dbias = shapes.room(out, shapes.linear_bias(grad.shape), shapes.number_type(grad))
    for o in range(grad.shape[1]):
        dbias[o] = sum(float(grad[n, o]) for n in range(len(grad)))
    return dbias
