"""Convolution on tensor cores: the fused kernel, and its gradients as implicit GEMMs; a group of few channels goes directly."""

from __future__ import annotations

from fanlight.kernels import column_sum, conv_direct, conv_fused, conv_input, conv_weight
from fanlight.scratch import shapes
from fanlight.scratch.gpu.activation import relu as relu_of
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room
from fanlight.scratch.shapes import Convolution, Pair

ACTIVATIONS = ("none", "relu", "tanh", "gelu")
FEW = 8  # channels or filters of a group, of several: a tile on tensor cores would be padding mostly


@operator
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """[N, O, P, Q] of images [N, C, H, W] and weights [O, C/G, R, S]; bias and ReLU cost no pass of their own."""
    at = _at(x, weight, bias, stride, padding, dilation, groups)
    room(out, at.y, x)
    if not _is_direct(at):
        return conv_fused.forward(x, weight, bias, **_steps(at), relu=relu, out=out)
    y = conv_direct.forward(x, weight, bias, **_steps(at), out=out)
    return relu_of(y, out=y) if relu else y


@operator
def conv2d_pooled(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str = "relu",
    out: Array | None = None,
    index: Array | None = None,
) -> tuple[Array, Array]:
    """max_pool2d_index(activation(conv2d(…)), 2) in one kernel, for an activation of none, relu, tanh, gelu."""
    at = _at(x, weight, bias, stride, padding, dilation, groups)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; choose {', '.join(ACTIVATIONS)}")
    pooled = shapes.pool(at.y, 2, stride=None, padding=0, index=shapes.of(index)).pooled
    room(out, pooled, x)
    return conv_fused.forward_pooled(x, weight, bias, **_steps(at), activation=activation, out=out, index=index)


@operator
def conv2d_input(
    grad: Array,
    weight: Array,
    *,
    image: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient [N, C, H, W] of images of H × W = `image` pixels, from that of the result."""
    at = shapes.input_gradient(
        grad.shape, weight.shape, image=image, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    number_type(grad, weight)
    room(out, at.x, grad)
    version = conv_direct if _is_direct(at) else conv_input
    return version.input_gradient(grad, weight, image=(at.H, at.W), **_steps(at), out=out)


@operator
def conv2d_weight(
    grad: Array,
    x: Array,
    *,
    kernel: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient [O, C/G, R, S] of weights of R × S = `kernel` pixels."""
    at = shapes.weight_gradient(
        grad.shape, x.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    number_type(grad, x)
    room(out, at.weight, grad)
    version = conv_direct.weight_gradient if _is_direct(at) else conv_weight.split_k
    return version(grad, x, kernel=(at.R, at.S), **_steps(at), out=out)


@operator
def conv2d_bias(grad: Array, *, out: Array | None = None) -> Array:
    """The gradient [O] of the bias: what arrives at each filter, added up."""
    channels = shapes.channels(grad.shape)[1]
    number_type(grad)
    room(out, (channels,), grad)
    return column_sum.conv2d_bias(grad, out=out)


def _at(x, weight, bias, stride, padding, dilation, groups) -> Convolution:
    at = shapes.convolution(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        bias=shapes.of(bias),
    )  # fmt: skip
    number_type(x, weight, bias)
    return at


def _steps(at: Convolution) -> dict:
    return {"stride": at.stride, "padding": at.padding, "dilation": at.dilation, "groups": at.G}


def _is_direct(at: Convolution) -> bool:
    return at.G > 1 and min(at.C, at.O) // at.G < FEW
