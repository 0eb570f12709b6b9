"""Batch norm of [N, C, …] by whole channels (Ioffe and Szegedy 2015). L values per channel of an image, n = N·L.

Training takes mean and variance (divided by n) from the batch, and its gradient goes through both; with fixed statistics it
is a scale and a shift. Running statistics are the caller's, kept by `batch_norm_running`.
"""

from __future__ import annotations

import numpy as np

from fanlight.scratch import shapes


def batch_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = weight · (x − mean) / √(var + eps) + bias, with the batch's own mean and var, which are returned beside it."""
    N, C, L = shapes.channels(x.shape, weight=weight.shape, bias=bias.shape)
    flat = x.reshape(N, C, L)
    mean, var = flat.mean(axis=(0, 2)), flat.var(axis=(0, 2))
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
    scale = weight / np.sqrt(var + eps)
    result = y.reshape(N, C, L)
    np.subtract(x.reshape(N, C, L), mean[:, None], out=result)
    result *= scale[:, None]
    result += bias[:, None]
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
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var * (count / max(count - 1, 1)) - running_var)


def _backward(grad, x, weight, mean, var, *, eps, out, through_statistics):
    N, C, L = shapes.norm_gradient(grad, x, weight=weight, mean=mean, var=var)
    dx = shapes.room(out, x.shape, shapes.number_type(grad, x, weight, mean, var))
    rstd = 1 / np.sqrt(var + eps)
    normal = (x.reshape(N, C, L) - mean[:, None]) * rstd[:, None]
    given = grad.reshape(N, C, L)
    dweight, dbias = (given * normal).sum(axis=(0, 2)), given.sum(axis=(0, 2))
    if through_statistics:
        given = given - (dbias[:, None] + normal * dweight[:, None]) / (N * L)
    np.multiply(given, (weight * rstd)[:, None], out=dx.reshape(N, C, L))
    return dx, dweight, dbias
