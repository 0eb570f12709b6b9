"""Activations of whole arrays. A gradient takes what its formula needs least: the result y or the input x."""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch import shapes

_erfc = np.frompyfunc(math.erfc, 1, 1)  # NumPy has none


def relu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """max(x, 0); NaN stays."""
    return np.maximum(x, 0, out=shapes.room(out, x.shape, shapes.number_type(x)))


def relu_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad where y > 0, else 0: at x = 0 the gradient is 0, as in PyTorch."""
    found = _room(grad, y, out)
    found[...] = np.where(y > 0, grad, 0)
    return found


def tanh(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The hyperbolic tangent."""
    return np.tanh(x, out=shapes.room(out, x.shape, shapes.number_type(x)))


def tanh_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (1 − y²)."""
    return np.multiply(grad, 1 - y * y, out=_room(grad, y, out))


def gelu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016)."""
    return np.multiply(x, _share_below(x), out=shapes.room(out, x.shape, shapes.number_type(x)))


def gelu_backward(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (Φ(x) + x · φ(x)), φ the normal density."""
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return np.multiply(grad, _share_below(x) + x * density, out=_room(grad, x, out))


def _share_below(x: np.ndarray) -> np.ndarray:
    """Φ; of the complement, which keeps its digits far below zero."""
    return (np.asarray(_erfc(-x.astype(np.float64) / math.sqrt(2)), np.float64) / 2).astype(x.dtype)


def _room(grad: np.ndarray, other: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    shapes.alike(grad, other)
    return shapes.room(out, grad.shape, shapes.number_type(grad, other))
