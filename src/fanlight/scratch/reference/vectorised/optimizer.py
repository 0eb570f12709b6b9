"""Optimizers of whole arrays, in place; each is PyTorch's of the same name. g gradient, w parameter."""

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
    slope = grad / divisor + weight_decay * parameter
    velocity *= momentum
    velocity += slope
    parameter -= lr * (slope + momentum * velocity if nesterov else velocity)


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
    slope = grad / divisor
    mean += (1 - betas[0]) * (slope - mean)
    square += (1 - betas[1]) * (slope * slope - square)
    parameter *= 1 - lr * weight_decay
    parameter -= lr / (1 - betas[0] ** step) * mean / (np.sqrt(square / (1 - betas[1] ** step)) + eps)
