"""Activations on a GPU, of any shape. A gradient takes what its formula needs least: the result y or the input x."""

from __future__ import annotations

from collections.abc import Callable

from fanlight.kernels import activation
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room


@operator
def relu(x: Array, *, out: Array | None = None) -> Array:
    """max(x, 0); NaN stays."""
    return _run(activation.relu, x, out=out)


@operator
def relu_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """grad where y > 0, else 0: at x = 0 the gradient is 0, as in PyTorch."""
    return _run(activation.relu_backward, grad, y, out=out)


@operator
def tanh(x: Array, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent."""
    return _run(activation.tanh, x, out=out)


@operator
def tanh_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """grad · (1 − y²)."""
    return _run(activation.tanh_backward, grad, y, out=out)


@operator
def gelu(x: Array, *, out: Array | None = None) -> Array:
    """x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016)."""
    return _run(activation.gelu, x, out=out)


@operator
def gelu_backward(grad: Array, x: Array, *, out: Array | None = None) -> Array:
    """grad · (Φ(x) + x · φ(x)), φ the normal density."""
    return _run(activation.gelu_backward, grad, x, out=out)


def _run(kernel: Callable, *tensors: Array, out: Array | None) -> Array:
    shapes.alike(*tensors)
    number_type(*tensors)
    room(out, tensors[0].shape, tensors[0])
    return kernel(*tensors, out=out)
