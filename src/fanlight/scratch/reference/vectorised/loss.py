"""Softmax and cross-entropy of whole batches. N rows, K classes; sums and means are the caller's."""

from __future__ import annotations

import numpy as np

from fanlight.scratch import shapes


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's loss [N], log Σ_k exp(logits[k]) − logits[target], and `out`, its probabilities [N, K]."""
    N, K = shapes.classes(logits, targets)
    probabilities = shapes.room(out, (N, K), shapes.number_type(logits))
    below = logits - logits.max(axis=1, keepdims=True)  # exp of it cannot overflow
    np.exp(below, out=probabilities)
    totals = probabilities.sum(axis=1)
    probabilities /= totals[:, None]
    return np.log(totals) - below[np.arange(N), targets], probabilities


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
    grad[...] = probabilities
    grad[np.arange(N), targets] -= 1
    grad *= np.broadcast_to(scale, N)[:, None]
    return grad
