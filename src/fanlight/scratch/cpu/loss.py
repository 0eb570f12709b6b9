"""Softmax and cross-entropy, each thread some of the rows. N rows, K classes; sums and means are the caller's."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import compiled, parallel


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's loss [N], log Σ_k exp(logits[k]) − logits[target], and `out`, its probabilities [N, K]."""
    N, K = shapes.classes(logits, targets)
    dtype = shapes.number_type(logits)
    losses, probabilities = np.empty(N, dtype), shapes.room(out, (N, K), dtype)
    _losses(np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64), losses, probabilities)
    return losses, probabilities


def cross_entropy_backward(
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    scale: float | np.ndarray = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the logits, of Σ_n scale[n] · loss[n]: scale · (probability − 1 at the target)."""
    N, K = shapes.classes(probabilities, targets)
    shapes.row_weights(scale, N)
    dtype = shapes.number_type(probabilities)
    grad = shapes.room(out, (N, K), dtype)
    scales = np.ascontiguousarray(np.broadcast_to(scale, N), dtype)
    _gradients(np.ascontiguousarray(probabilities), np.ascontiguousarray(targets, np.int64), scales, grad)
    return grad


@parallel
def _losses(logits, targets, losses, probabilities):
    for n in prange(len(logits)):
        losses[n] = _loss(logits[n], targets[n], probabilities[n])


@compiled
def _loss(row, target, shares):
    top = row[0]
    for k in range(1, len(row)):
        top = row[k] if row[k] > top or row[k] != row[k] else top
    total = 0.0
    for k in range(len(row)):
        shares[k] = math.exp(row[k] - top)  # cannot overflow
        total += shares[k]
    for k in range(len(row)):
        shares[k] /= total
    return math.log(total) + (top - row[target])


@parallel
def _gradients(probabilities, targets, scales, grad):
    for n in prange(len(grad)):
        for k in range(grad.shape[1]):
            grad[n, k] = scales[n] * probabilities[n, k]
        grad[n, targets[n]] = scales[n] * (probabilities[n, targets[n]] - 1)
