"""Activations, number by number, of any shape. A gradient takes what its formula needs least: the result y or the input x."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fanlight.scratch import shapes


def relu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """max(x, 0); NaN stays."""
    return _each(lambda value: 0.0 if value < 0 else value, x, out=out)


def relu_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad where y > 0, else 0: at x = 0 the gradient is 0, as in PyTorch."""
    return _each(lambda value, result: value if result > 0 else 0.0, grad, y, out=out)


def tanh(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The hyperbolic tangent."""
    return _each(math.tanh, x, out=out)


def tanh_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (1 − y²)."""
    return _each(lambda value, result: value * (1 - result * result), grad, y, out=out)


def gelu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016)."""
    return _each(lambda value: value * _share_below(value), x, out=out)


def gelu_backward(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (Φ(x) + x · φ(x)), φ the normal density."""

    def slope(given: float, value: float) -> float:
        density = math.exp(-value * value / 2) / math.sqrt(2 * math.pi)
        return given * (_share_below(value) + value * density)

    return _each(slope, grad, x, out=out)


def _share_below(value: float) -> float:
    """Φ; of the complement, which keeps its digits far below zero."""
    return math.erfc(-value / math.sqrt(2)) / 2


def _each(function: Callable[..., float], *arrays: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    shapes.alike(*arrays)
    found = shapes.room(out, arrays[0].shape, shapes.number_type(*arrays))
    for place in np.ndindex(found.shape):
        found[place] = function(*(float(array[place]) for array in arrays))
    return found
