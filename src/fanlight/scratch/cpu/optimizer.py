"""Optimizers over all cores, in place, each number read and written once; PyTorch's of the same name."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import parallel


def sgd(
    parameter: np.ndarray,
    grad: np.ndarray,
    velocity: np.ndarray,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    divisor: float = 1.0,
) -> None:
    """g ← g/divisor + decay·w;  v ← momentum·v + g;  w ← w − lr·v, or lr·(g + momentum·v). `velocity` begins as zeros.
    Where the divisor is not finite, nothing changes."""
    shapes.updated(parameter, grad, velocity)
    if not math.isfinite(divisor):
        return
    hyper = map(parameter.dtype.type, (1 / divisor, lr, momentum, weight_decay))
    _sgd(*_flat(parameter, grad, velocity), *hyper, nesterov)


def adamw(
    parameter: np.ndarray,
    grad: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    divisor: float = 1.0,
) -> None:
    """Loshchilov and Hutter 2019: w ← w·(1 − lr·decay) − lr · m̂ / (√v̂ + eps), with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) and
    t = `step`, which counts from 1. `mean` m and `square` v begin as zeros; g is divided by `divisor` first, and where that
    is not finite, nothing changes."""
    shapes.updated(parameter, grad, mean, square)
    shapes.step(step)
    if not math.isfinite(divisor):
        return
    numbers = (
        1 / divisor, 1 - betas[0], 1 - betas[1], 1 - lr * weight_decay, lr / (1 - betas[0] ** step),
        1 / math.sqrt(1 - betas[1] ** step), eps,
    )  # fmt: skip
    _adamw(*_flat(parameter, grad, mean, square), *map(parameter.dtype.type, numbers))


def _flat(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.reshape(-1) for array in arrays]


@parallel
def _sgd(parameter, grad, velocity, share, lr, momentum, decay, nesterov):
    for i in prange(len(parameter)):
        slope = share * grad[i] + decay * parameter[i]
        moving = momentum * velocity[i] + slope
        velocity[i] = moving
        parameter[i] -= lr * (slope + momentum * moving if nesterov else moving)


@parallel
def _adamw(parameter, grad, mean, square, share, new_mean, new_square, keep, lr, root, eps):
    for i in prange(len(parameter)):
        slope = share * grad[i]
        mean[i] += new_mean * (slope - mean[i])
        square[i] += new_square * (slope * slope - square[i])
        parameter[i] = parameter[i] * keep - lr * mean[i] / (math.sqrt(square[i]) * root + eps)
