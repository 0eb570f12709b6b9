"""Batch norm of [N, C, …] on a GPU (Ioffe and Szegedy 2015). Parameters and statistics may be float32 beside 16-bit numbers;
the batch's own statistics always are. n values per channel.
"""

from __future__ import annotations

from fanlight.kernels import batch_norm as kernels
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, parameters, room


@operator
def batch_norm(
    x: Array, weight: Array, bias: Array, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """y = weight · (x − mean) / √(var + eps) + bias, with the batch's own mean and var, which are returned beside it."""
    shapes.channels(x.shape, weight=weight.shape, bias=bias.shape)
    parameters(x, weight, bias)
    room(out, x.shape, x)
    return kernels.forward(x, weight, bias, eps=eps, out=out)


@operator
def batch_norm_fixed(
    x: Array,
    weight: Array,
    bias: Array,
    mean: Array,
    var: Array,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """y = weight · (x − mean) / √(var + eps) + bias, with statistics that are given."""
    shapes.channels(x.shape, weight=weight.shape, bias=bias.shape, mean=mean.shape, var=var.shape)
    parameters(x, weight, bias, mean, var)
    room(out, x.shape, x)
    return kernels.forward_fixed(x, weight, bias, mean, var, eps=eps, out=out)


@operator
def batch_norm_backward(
    grad: Array,
    x: Array,
    weight: Array,
    mean: Array,
    var: Array,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias): dx = weight/√(var + eps) · (grad − dbias/n − x̂ · dweight/n), x̂ = (x − mean)/√(var + eps)."""
    return _backward(grad, x, weight, mean, var, eps=eps, out=out, through_statistics=True)


@operator
def batch_norm_fixed_backward(
    grad: Array,
    x: Array,
    weight: Array,
    mean: Array,
    var: Array,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) where the statistics are given: dx = weight/√(var + eps) · grad."""
    return _backward(grad, x, weight, mean, var, eps=eps, out=out, through_statistics=False)


@operator(changes=("running_mean", "running_var"))
def batch_norm_running(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    var: Array,
    *,
    count: int,
    momentum: float = 0.1,
) -> None:
    """In place: each moves by `momentum` of its way to the batch's; the variance of `count` values is divided by count − 1."""
    shapes.running(running_mean, running_var, mean, var, count=count)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / max(count - 1, 1))).to(running_var.dtype), momentum)


def _backward(grad, x, weight, mean, var, *, eps, out, through_statistics):
    shapes.norm_gradient(grad, x, weight=weight, mean=mean, var=var)
    number_type(grad, x)
    parameters(x, weight, mean, var)
    room(out, x.shape, x)
    return kernels.backward(grad, x, weight, mean, var, eps=eps, through_statistics=through_statistics, out=out)
