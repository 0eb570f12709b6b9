"""Softmax and cross-entropy on a GPU. N rows, K classes; sums and means are the caller's.

A class outside 0 … K − 1 is refused in an array. In a tensor it makes its row's loss and gradient NaN: to look would mean to
wait for the GPU.
"""

from __future__ import annotations

import numpy as np
import torch

from fanlight.kernels import cross_entropy as kernels
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room


def cross_entropy(logits: Array, targets: Array, *, out: Array | None = None) -> tuple[Array, Array]:
    """Each row's loss [N], log Σ_k exp(logits[k]) − logits[target], and `out`, its probabilities [N, K]."""
    if isinstance(targets, np.ndarray):
        shapes.classes(logits, targets)
    return _forward(logits, targets, out=out)


def cross_entropy_backward(
    probabilities: Array,
    targets: Array,
    *,
    scale: float | Array = 1.0,
    out: Array | None = None,
) -> Array:
    """The gradient of the logits, of Σ_n scale[n] · loss[n]: scale · (probability − 1 at the target)."""
    if isinstance(targets, np.ndarray):
        shapes.classes(probabilities, targets)
    return _backward(probabilities, targets, scale=scale, out=out)


@operator
def _forward(logits, targets, *, out):
    _check(logits, targets)
    room(out, logits.shape, logits)
    return kernels.forward(logits, targets, out=out)


@operator
def _backward(probabilities, targets, *, scale, out):
    _check(probabilities, targets)
    shapes.row_weights(scale, len(targets))
    room(out, probabilities.shape, probabilities)
    each = scale if isinstance(scale, torch.Tensor) else float(scale)
    return kernels.backward(probabilities, targets, scale=each, out=out)


def _check(logits: torch.Tensor, targets: torch.Tensor) -> None:
    shapes.targets_of(logits, targets)
    number_type(logits)
