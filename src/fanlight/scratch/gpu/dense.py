"""Dense layer on tensor cores: one kernel multiplies, for the layer and both of its gradients."""

from __future__ import annotations

from fanlight.kernels import column_sum, gemm
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room


@operator
def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """y = x · weightᵀ + bias, [N, O]."""
    wanted = shapes.linear(x.shape, weight.shape, bias=shapes.of(bias))
    number_type(x, weight, bias)
    room(out, wanted, x)
    return gemm.linear(x, weight, bias, relu=relu, out=out)


@operator
def linear_input(grad: Array, weight: Array, *, out: Array | None = None) -> Array:
    """dx = grad · weight, [N, I]."""
    wanted = shapes.linear_input(grad.shape, weight.shape)
    number_type(grad, weight)
    room(out, wanted, grad)
    return gemm.linear_input(grad, weight, out=out)


@operator
def linear_weight(grad: Array, x: Array, *, out: Array | None = None) -> Array:
    """dweight = gradᵀ · x, [O, I]."""
    wanted = shapes.linear_weight(grad.shape, x.shape)
    number_type(grad, x)
    room(out, wanted, grad)
    return gemm.linear_weight(grad, x, out=out)


@operator
def linear_bias(grad: Array, *, out: Array | None = None) -> Array:
    """dbias = Σ over rows, [O]."""
    wanted = shapes.linear_bias(grad.shape)
    number_type(grad)
    room(out, wanted, grad)
    return column_sum.linear_bias(grad, out=out)
