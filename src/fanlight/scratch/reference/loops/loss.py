"""Softmax and cross-entropy, row by row. N rows, K classes; sums and means are the caller's."""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch import shapes


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's loss [N], log Σ_k exp(logits[k]) − logits[target], and `out`, its probabilities [N, K]."""
    N, K = shapes.classes(logits, targets)
    dtype = shapes.number_type(logits)
    losses, probabilities = np.empty(N, dtype), shapes.room(out, (N, K), dtype)
    for n in range(N):
        row = [float(value) for value in logits[n]]
        top = max(row)  # exp of what is left cannot overflow
        shares = [math.exp(value - top) for value in row]
        total = sum(shares)
        losses[n] = math.log(total) + top - row[targets[n]]
        probabilities[n] = [share / total for share in shares]
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
    grad = shapes.room(out, (N, K), shapes.number_type(probabilities))
    scales = np.broadcast_to(scale, N)
    for n, k in np.ndindex(N, K):
        grad[n, k] = float(scales[n]) * (float(probabilities[n, k]) - (k == targets[n]))
    return grad
