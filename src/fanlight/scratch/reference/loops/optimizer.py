"""Optimizers, number by number, in place; each is PyTorch's of the same name. g gradient, w parameter."""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch import shapes


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
    for i in np.ndindex(parameter.shape):
        slope = float(grad[i]) / divisor + weight_decay * float(parameter[i])
        moving = momentum * float(velocity[i]) + slope
        velocity[i] = moving
        parameter[i] = float(parameter[i]) - lr * (slope + momentum * moving if nesterov else moving)


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
    for i in np.ndindex(parameter.shape):
        slope = float(grad[i]) / divisor
        m = betas[0] * float(mean[i]) + (1 - betas[0]) * slope
        v = betas[1] * float(square[i]) + (1 - betas[1]) * slope * slope
        mean[i], square[i] = m, v
        move = m / (1 - betas[0] ** step) / (math.sqrt(v / (1 - betas[1] ** step)) + eps)
        parameter[i] = float(parameter[i]) * (1 - lr * weight_decay) - lr * move
