"""Batch norm of [N, C, …], channel by channel (Ioffe and Szegedy 2015). L values per channel of an image, n = N·L.

Training takes mean and variance (divided by n) from the batch, and its gradient goes through both; with fixed statistics it
is a scale and a shift. Running statistics are the caller's, kept by `batch_norm_running`.
"""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch import shapes


def batch_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = weight · (x − mean) / √(var + eps) + bias, with the batch's own mean and var, which are returned beside it."""
    N, C, L = shapes.channels(x.shape, weight=weight.shape, bias=bias.shape)
    dtype = shapes.number_type(x, weight, bias)
    flat, mean, var = x.reshape(N, C, L), np.empty(C, dtype), np.empty(C, dtype)
    for c in range(C):
        centre = sum(float(flat[n, c, i]) for n in range(N) for i in range(L)) / (N * L)
        mean[c] = centre
        var[c] = sum((float(flat[n, c, i]) - centre) ** 2 for n in range(N) for i in range(L)) / (N * L)
    return batch_norm_fixed(x, weight, bias, mean, var, eps=eps, out=out), mean, var


def batch_norm_fixed(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    eps: float = 1e-5,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """y = weight · (x − mean) / √(var + eps) + bias, with statistics that are given."""
    N, C, L = shapes.channels(x.shape, weight=weight.shape, bias=bias.shape, mean=mean.shape, var=var.shape)
    y = shapes.room(out, x.shape, shapes.number_type(x, weight, bias, mean, var))
    flat, result = x.reshape(N, C, L), y.reshape(N, C, L)
    for n, c, i in np.ndindex(N, C, L):
        scale = float(weight[c]) / math.sqrt(float(var[c]) + eps)
        result[n, c, i] = (float(flat[n, c, i]) - float(mean[c])) * scale + float(bias[c])
    return y


def batch_norm_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    eps: float = 1e-5,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dweight, dbias): dx = weight/√(var + eps) · (grad − dbias/n − x̂ · dweight/n), x̂ = (x − mean)/√(var + eps)."""
    return _backward(grad, x, weight, mean, var, eps=eps, out=out, through_statistics=True)


def batch_norm_fixed_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    eps: float = 1e-5,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dweight, dbias) where the statistics are given: dx = weight/√(var + eps) · grad."""
    return _backward(grad, x, weight, mean, var, eps=eps, out=out, through_statistics=False)


def batch_norm_running(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    count: int,
    momentum: float = 0.1,
) -> None:
    """In place: each moves by `momentum` of its way to the batch's; the variance of `count` values is divided by count − 1."""
    shapes.running(running_mean, running_var, mean, var, count=count)
    for c in range(len(mean)):
        running_mean[c] += momentum * (float(mean[c]) - float(running_mean[c]))
        running_var[c] += momentum * (float(var[c]) * count / max(count - 1, 1) - float(running_var[c]))


def _backward(grad, x, weight, mean, var, *, eps, out, through_statistics):
    N, C, L = shapes.norm_gradient(grad, x, weight=weight, mean=mean, var=var)
    dtype = shapes.number_type(grad, x, weight, mean, var)
    dx, dweight, dbias = shapes.room(out, x.shape, dtype), np.empty(C, dtype), np.empty(C, dtype)
    flat, given, result = x.reshape(N, C, L), grad.reshape(N, C, L), dx.reshape(N, C, L)
    for c in range(C):
        rstd = 1 / math.sqrt(float(var[c]) + eps)
        total = along = 0.0
        for n, i in np.ndindex(N, L):
            total += float(given[n, c, i])
            along += float(given[n, c, i]) * (float(flat[n, c, i]) - float(mean[c])) * rstd
        dweight[c], dbias[c] = along, total
        for n, i in np.ndindex(N, L):
            value = float(given[n, c, i])
            if through_statistics:
                normal = (float(flat[n, c, i]) - float(mean[c])) * rstd
                value -= (total + normal * along) / (N * L)
            result[n, c, i] = float(weight[c]) * rstd * value
    return dx, dweight, dbias
