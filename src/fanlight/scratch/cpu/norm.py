"""Batch norm of [N, C, …] over all cores (Ioffe and Szegedy 2015). L values per channel of an image, n = N·L.

A channel's sums run over one image after the other in double precision: its mean first, then the squares of what is left,
since Σx² − n·mean² loses the digits that matter. Two of three passes over the input are for the statistics.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.reference.vectorised.norm import batch_norm_running  # C numbers: nothing to share out

__all__ = [
    "batch_norm", "batch_norm_backward", "batch_norm_fixed", "batch_norm_fixed_backward", "batch_norm_running",
]  # fmt: skip


def batch_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = weight · (x − mean) / √(var + eps) + bias, with the batch's own mean and var, which are returned beside it."""
    shape = shapes.channels(x.shape, weight=weight.shape, bias=bias.shape)
    dtype = shapes.number_type(x, weight, bias)
    y, mean, var = shapes.room(out, x.shape, dtype), np.empty(shape[1], dtype), np.empty(shape[1], dtype)
    flat = np.ascontiguousarray(x).reshape(shape)
    _statistics(flat, mean, var)
    _normalise(flat, weight, bias, mean, var, eps, y.reshape(shape))
    return y, mean, var


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
    shape = shapes.channels(x.shape, weight=weight.shape, bias=bias.shape, mean=mean.shape, var=var.shape)
    y = shapes.room(out, x.shape, shapes.number_type(x, weight, bias, mean, var))
    _normalise(np.ascontiguousarray(x).reshape(shape), weight, bias, mean, var, eps, y.reshape(shape))
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


def _backward(grad, x, weight, mean, var, *, eps, out, through_statistics):
    shape = shapes.norm_gradient(grad, x, weight=weight, mean=mean, var=var)
    dtype = shapes.number_type(grad, x, weight, mean, var)
    dx, dweight, dbias = shapes.room(out, x.shape, dtype), np.empty(shape[1], dtype), np.empty(shape[1], dtype)
    _gradients(
        np.ascontiguousarray(grad).reshape(shape), np.ascontiguousarray(x).reshape(shape), weight, mean, var, eps,
        through_statistics, dx.reshape(shape), dweight, dbias,
    )  # fmt: skip
    return dx, dweight, dbias


@parallel
def _statistics(x, mean, var):
    count = x.shape[0] * x.shape[2]
    for c in prange(x.shape[1]):
        centre = 0.0
        for n in range(x.shape[0]):
            centre += _sum(x[n, c])
        centre /= count
        spread = 0.0
        for n in range(x.shape[0]):
            spread += _squares(x[n, c], centre)
        mean[c], var[c] = centre, spread / count


@compiled
def _sum(line):
    total = 0.0
    for i in range(len(line)):
        total += line[i]
    return total


@compiled
def _squares(line, centre):
    total = 0.0
    for i in range(len(line)):
        total += (line[i] - centre) * (line[i] - centre)
    return total


@parallel
def _normalise(x, weight, bias, mean, var, eps, y):
    N, C, L = x.shape
    number = x.dtype.type
    for work in prange(N * C):
        c = work % C
        centre, scale, shift = mean[c], number(weight[c] / math.sqrt(var[c] + eps)), bias[c]
        line, result = x[work // C, c], y[work // C, c]
        for i in range(L):
            result[i] = (line[i] - centre) * scale + shift


@parallel
def _gradients(grad, x, weight, mean, var, eps, through_statistics, dx, dweight, dbias):
    N, C, L = x.shape
    number = x.dtype.type
    for c in prange(C):
        rstd = 1 / math.sqrt(var[c] + eps)
        total, along = 0.0, 0.0
        for n in range(N):
            of_line, along_line = _products(grad[n, c], x[n, c], mean[c])
            total += of_line
            along += along_line
        dweight[c], dbias[c] = along * rstd, total
        slope, shift = along * rstd * rstd / (N * L), total / (N * L)
        if not through_statistics:
            slope, shift = 0.0, 0.0
        scale = number(weight[c] * rstd)
        for n in range(N):
            _slope_line(grad[n, c], x[n, c], mean[c], number(slope), number(shift), scale, dx[n, c])


@compiled
def _products(given, line, centre):
    """Σ given, and Σ given · (x − mean)."""
    total, along = 0.0, 0.0
    for i in range(len(line)):
        total += given[i]
        along += np.float64(given[i]) * (line[i] - centre)
    return total, along


@compiled
def _slope_line(given, line, centre, slope, shift, scale, result):
    for i in range(len(line)):
        result[i] = (given[i] - shift - (line[i] - centre) * slope) * scale
