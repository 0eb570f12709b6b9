"""Optimizers of whole arrays, in place; each is PyTorch's of the same name. g gradient, w parameter."""

from __future__ import annotations

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
) -> None:
    """g ← g + decay·w;  v ← momentum·v + g;  w ← w − lr·v, or lr·(g + momentum·v). `velocity` begins as zeros."""
    shapes.updated(parameter, grad, velocity)
    slope = grad + weight_decay * parameter
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
) -> None:
    """Loshchilov and Hutter 2019: w ← w·(1 − lr·decay) − lr · m̂ / (√v̂ + eps), with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) and
    t = `step`, which counts from 1. `mean` m and `square` v begin as zeros."""
    shapes.updated(parameter, grad, mean, square)
    shapes.step(step)
    mean += (1 - betas[0]) * (grad - mean)
    square += (1 - betas[1]) * (grad * grad - square)
    parameter *= 1 - lr * weight_decay
    parameter -= lr / (1 - betas[0] ** step) * mean / (np.sqrt(square / (1 - betas[1] ** step)) + eps)
