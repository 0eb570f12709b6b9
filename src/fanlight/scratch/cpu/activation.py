"""Activations over all cores, of any shape. A gradient takes what its formula needs least: the result y or the input x."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu import exponential
from fanlight.scratch.cpu.compiled import compiled, parallel

_ROOT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)


def relu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """max(x, 0); NaN stays."""
    return _run(_relu, x, out=out)


def relu_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad where y > 0, else 0: at x = 0 the gradient is 0, as in PyTorch."""
    return _run(_relu_backward, grad, y, out=out)


def tanh(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The hyperbolic tangent."""
    return _run(_tanh32 if x.dtype == np.float32 else _tanh, x, out=out)


def tanh_backward(grad: np.ndarray, y: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (1 − y²)."""
    return _run(_tanh_backward, grad, y, out=out)


def gelu(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016)."""
    return _run(_gelu32 if x.dtype == np.float32 else _gelu, x, out=out)


def gelu_backward(grad: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """grad · (Φ(x) + x · φ(x)), φ the normal density."""
    return _run(_gelu_backward32 if x.dtype == np.float32 else _gelu_backward, grad, x, out=out)


def _run(kernel, *arrays: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    shapes.alike(*arrays)
    found = shapes.room(out, arrays[0].shape, shapes.number_type(*arrays))
    kernel(*(np.ascontiguousarray(array).reshape(-1) for array in arrays), found.reshape(-1))
    return found


@parallel
def _relu(x, y):
    for i in prange(len(x)):
        y[i] = x.dtype.type(0) if x[i] < 0 else x[i]


@parallel
def _relu_backward(grad, y, dx):
    for i in prange(len(y)):
        dx[i] = grad[i] if y[i] > 0 else y.dtype.type(0)


@parallel
def _tanh(x, y):
    for i in prange(len(x)):
        y[i] = math.tanh(x[i])


@parallel
def _tanh_backward(grad, y, dx):
    for i in prange(len(y)):
        dx[i] = grad[i] * (y.dtype.type(1) - y[i] * y[i])


@parallel
def _gelu(x, y):
    for i in prange(len(x)):
        y[i] = x[i] * _share_below(x[i])


@parallel
def _gelu_backward(grad, x, dx):
    for i in prange(len(x)):
        dx[i] = grad[i] * (_share_below(x[i]) + x[i] * math.exp(-x[i] * x[i] / 2) * _DENSITY)


@compiled
def _share_below(x):
    """Φ; of the complement, which keeps its digits far below zero."""
    return math.erfc(-x * _ROOT_HALF) / 2


@parallel
def _tanh32(x, y):
    for i in prange(len(x)):
        y[i] = exponential.tanh(x[i])


@parallel
def _gelu32(x, y):
    for i in prange(len(x)):
        y[i] = x[i] * (exponential.erfc(-x[i] * _ROOT_HALF) / 2)


@parallel
def _gelu_backward32(grad, x, dx):
    for i in prange(len(x)):
        below, square = exponential.erfc(-x[i] * _ROOT_HALF) / 2, -x[i] * x[i] / 2
        dx[i] = grad[i] * (below + x[i] * (exponential.expm1(square) + 1) * _DENSITY)
