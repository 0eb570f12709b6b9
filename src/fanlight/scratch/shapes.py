"""Shapes of the operators, checked once at the edge: every backend asks here, so all refuse the same with the same words.

N images, C channels, H × W image, O filters, G groups, R × S kernel or window, P × Q result; pairs are (down, across).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Pair: TypeAlias = tuple[int, int]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """R × S pixels that move over an image by `stride`; `padding` pixels around it, every `dilation`-th pixel seen."""

    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    P: int
    Q: int
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def x(self) -> Shape:
        return self.N, self.C, self.H, self.W

    @property
    def pooled(self) -> Shape:
        return self.N, self.C, self.P, self.Q


@dataclass(frozen=True)
class Convolution(Window):
    """A Window with O filters in G groups: a filter sees the C/G channels of its group."""

    O: int  # noqa: E741
    G: int

    @property
    def weight(self) -> Shape:
        return self.O, self.C // self.G, self.R, self.S

    @property
    def y(self) -> Shape:
        return self.N, self.O, self.P, self.Q


def pair(name: str, value: int | Pair, *, least: int) -> Pair:
    """(value, value) of one number; two stay."""
    found = tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value, value)
    if len(found) != 2 or any(not isinstance(each, int | np.integer) or each < least for each in found):
        raise ValueError(f"{name} takes one or two whole numbers of at least {least}, got {value!r}")
    return int(found[0]), int(found[1])


def window(x: Shape, kernel: Pair, *, stride: int | Pair, padding: int | Pair, dilation: int | Pair) -> Window:
    """How a window of `kernel` pixels moves over images of shape `x`: P is how often dilation·(R − 1) + 1 pixels fit into
    H + 2·padding, a stride apart."""
    if len(x) != 4:
        raise ValueError(f"images have the shape [N, C, H, W], got {list(x)}")
    stride, dilation = pair("stride", stride, least=1), pair("dilation", dilation, least=1)
    padding = pair("padding", padding, least=0)
    seen = [step * (size - 1) + 1 for step, size in zip(dilation, kernel)]
    room = [side + 2 * around for side, around in zip(x[2:], padding)]
    if seen[0] > room[0] or seen[1] > room[1]:
        raise ValueError(
            f"a window of {list(kernel)} with dilation {list(dilation)} sees {seen[0]} × {seen[1]} pixels, images of "
            f"{list(x)} with padding {list(padding)} have {room[0]} × {room[1]}"
        )
    P, Q = ((there - needed) // step + 1 for there, needed, step in zip(room, seen, stride))
    return Window(*x, *kernel, P, Q, stride, padding, dilation)


def pool(
    x: Shape,
    kernel: int | Pair,
    *,
    stride: int | Pair | None,
    padding: int | Pair,
    y: Shape | None = None,
    index: Shape | None = None,
) -> Window:
    """Of a pooling: the stride is the window unless given, and padding is at most half of the window, so that every window
    sees a pixel. `y` and `index`, where given, have to be what comes out."""
    kernel, padding = pair("window", kernel, least=1), pair("padding", padding, least=0)
    if any(2 * around > size for around, size in zip(padding, kernel)):
        raise ValueError(f"padding {list(padding)} is more than half of a window of {list(kernel)}")
    found = window(x, kernel, stride=kernel if stride is None else stride, padding=padding, dilation=1)
    for name, shape in (("gradient", y), ("index", index)):
        if shape is not None:
            same(name, shape, found.pooled, beside=f"images of {list(x)} under windows of {list(kernel)}")
    return found


def index_type(at: Window) -> np.dtype:
    """Of a position in a window."""
    if at.R * at.S > 1 << 16:
        raise ValueError(f"a window of {at.R} × {at.S} has more than {1 << 16:,} pixels; pool in two steps")
    return np.dtype(np.uint16)


def convolution(
    x: Shape,
    weight: Shape,
    *,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    groups: int,
    bias: Shape | None = None,
    y: Shape | None = None,
) -> Convolution:
    """Of weights [O, C/G, R, S] over images [N, C, H, W]; `y`, where given, has to be what comes out."""
    if len(weight) != 4:
        raise ValueError(f"weights have the shape [O, C/G, R, S], got {list(weight)}")
    groups = pair("groups", groups, least=1)[0]
    at = window(x, weight[2:], stride=stride, padding=padding, dilation=dilation)
    if weight[1] * groups != at.C or weight[0] % groups:
        raise ValueError(f"weights of {list(weight)} in {groups} groups do not fit images of {list(x)}")
    found = Convolution(**vars(at), O=weight[0], G=groups)
    if bias is not None:
        same("bias", bias, (found.O,), beside=f"weights of {list(weight)}")
    if y is not None:
        same("gradient", y, found.y, beside=f"images of {list(x)} and weights of {list(weight)}")
    return found


def input_gradient(
    grad: Shape,
    weight: Shape,
    *,
    image: Pair,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    groups: int,
) -> Convolution:
    """Of the gradient [N, O, P, Q] of what weights [O, C/G, R, S] made of images of H × W = `image` pixels."""
    images, weights, groups = _four(grad, "gradients"), _four(weight, "weights"), pair("groups", groups, least=1)[0]
    return convolution(
        (images[0], weights[1] * groups, *pair("image", image, least=1)), weights, stride=stride, padding=padding,
        dilation=dilation, groups=groups, y=grad,
    )  # fmt: skip


def weight_gradient(
    grad: Shape,
    x: Shape,
    *,
    kernel: Pair,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    groups: int,
) -> Convolution:
    """Of the gradient [N, O, P, Q] of what weights of R × S = `kernel` pixels made of images [N, C, H, W]."""
    results, images, groups = _four(grad, "gradients"), _four(x, "images"), pair("groups", groups, least=1)[0]
    return convolution(
        images, (results[1], images[1] // groups, *pair("kernel", kernel, least=1)), stride=stride, padding=padding,
        dilation=dilation, groups=groups, y=grad,
    )  # fmt: skip


def pool_gradient(
    grad: Shape,
    window: int | Pair,
    *,
    image: Pair,
    stride: int | Pair | None,
    padding: int | Pair,
    index: Shape | None = None,
) -> Window:
    """Of the gradient [N, C, P, Q] of what a pooling made of images of H × W = `image` pixels."""
    results = _four(grad, "gradients")
    images = (*results[:2], *pair("image", image, least=1))
    return pool(images, window, stride=stride, padding=padding, y=grad, index=index)


def _four(shape: Shape, name: str) -> Shape:
    if len(shape) != 4:
        raise ValueError(f"{name} have four axes, got {list(shape)}")
    return shape


def of(array: np.ndarray | None) -> Shape | None:
    """An array's shape, where there is one."""
    return None if array is None else array.shape


def linear(x: Shape, weight: Shape, *, bias: Shape | None = None, y: Shape | None = None) -> Shape:
    """The result's shape [N, O] of rows [N, I] and weights [O, I]."""
    if len(x) != 2 or len(weight) != 2 or x[1] != weight[1]:
        raise ValueError(f"weights of {list(weight)} do not fit rows of {list(x)}: [O, I] and [N, I]")
    if bias is not None:
        same("bias", bias, (weight[0],), beside=f"weights of {list(weight)}")
    if y is not None:
        same("gradient", y, (x[0], weight[0]), beside=f"rows of {list(x)} and weights of {list(weight)}")
    return x[0], weight[0]


def linear_input(grad: Shape, weight: Shape) -> Shape:
    """The shape [N, I] of rows of which weights [O, I] made the rows whose gradient this is, [N, O]."""
    x = (*grad[:1], *weight[1:])
    linear(x, weight, y=grad)
    return x


def linear_weight(grad: Shape, x: Shape) -> Shape:
    """The shape [O, I] of weights that made of rows [N, I] the rows whose gradient this is, [N, O]."""
    weight = (*grad[1:], *x[1:])
    linear(x, weight, y=grad)
    return weight


def linear_bias(grad: Shape) -> Shape:
    """The shape [O] of a bias, of the gradient [N, O] of what it was added to."""
    if len(grad) != 2:
        raise ValueError(f"the gradient of a dense layer has the shape [N, O], got {list(grad)}")
    return grad[1:]


def channels(x: Shape, **of_channel: Shape) -> tuple[int, int, int]:
    """[N, C, …] as (N, C, L), L values per channel of an image; the others named have C values each."""
    if len(x) < 2:
        raise ValueError(f"a batch norm takes [N, C, …], got {list(x)}")
    for name, shape in of_channel.items():
        same(name, shape, (x[1],), beside=f"values of {list(x)}")
    return x[0], x[1], int(np.prod(x[2:]))


def norm_gradient(grad: Any, x: Any, *, weight: Any, mean: Any, var: Any) -> tuple[int, int, int]:
    """As `channels`, of a batch norm's input and the gradient of its result, arrays or tensors."""
    alike(grad, x)
    return channels(x.shape, weight=weight.shape, mean=mean.shape, var=var.shape)


def running(running_mean: Any, running_var: Any, mean: Any, var: Any, *, count: int) -> None:
    """What a batch norm's running statistics are moved by, arrays or tensors [C]; of `count` values."""
    if running_mean.ndim != 1:
        raise ValueError(f"running statistics have the shape [C], got {list(running_mean.shape)}")
    alike(running_mean, running_var, mean, var)
    if count < 1:
        raise ValueError(f"statistics are of one value or more, got {count}")


def alike(first: Any, *others: Any) -> None:
    """All of one shape, arrays or tensors."""
    for each in others:
        if each.shape != first.shape:
            raise ValueError(f"{list(each.shape)} beside {list(first.shape)}: both are of one shape")


def updated(parameter: np.ndarray, *others: np.ndarray) -> None:
    """What an optimizer works on: of one shape and type, and changed in place, so contiguous."""
    alike(parameter, *others)
    number_type(parameter, *others)
    if not all(array.flags.c_contiguous for array in (parameter, *others)):
        raise ValueError(f"a parameter of {list(parameter.shape)}, its gradient or its state is not contiguous")


def step(count: int) -> None:
    """Steps count from 1: the first has moments to correct."""
    if count < 1:
        raise ValueError(f"optimizer steps count from 1, got {count}")


def masked(keep: Any, x: Any, *, rate: float) -> None:
    """A dropout of `x` by a mask, arrays or tensors."""
    same("mask", keep.shape, x.shape, beside=f"values of {list(x.shape)}")
    _rate(rate)


def keyed(keys: Any, shape: Shape, *, rate: float) -> None:
    """A dropout by one uint64 key per row of `shape`."""
    if kind(keys) != "uint64":
        raise ValueError(f"keys are uint64, got {kind(keys)}")
    same("keys", keys.shape, shape[:1], beside=f"values of {list(shape)}")
    _rate(rate)


def _rate(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"a dropout rate is at least 0 and below 1, got {share}")


def kind(array: Any) -> str:
    """The name of an array's or a tensor's number type."""
    return str(array.dtype).removeprefix("torch.")


def targets_of(logits: Any, targets: Any) -> tuple[int, int]:
    """(N, K) of logits [N, K] and classes [N], arrays or tensors, whose values are not looked at."""
    if logits.ndim != 2 or not kind(targets).startswith(("int", "uint")):
        raise ValueError(f"a loss takes [N, K] and whole numbers [N], got {list(logits.shape)} and {kind(targets)}")
    same("targets", targets.shape, logits.shape[:1], beside=f"logits of {list(logits.shape)}")
    return logits.shape[0], logits.shape[1]


def classes(logits: np.ndarray, targets: np.ndarray) -> tuple[int, int]:
    """(N, K) of logits [N, K] and classes [N], which are 0 … K − 1."""
    targets_of(logits, targets)
    if len(targets) and not 0 <= targets.min() <= targets.max() < logits.shape[1]:
        raise ValueError(
            f"classes {targets.min()} … {targets.max()} of logits {list(logits.shape)}: 0 … {logits.shape[1] - 1}"
        )
    return logits.shape[0], logits.shape[1]


def row_weights(scale: Any, rows: int) -> None:
    """What each row's loss counts: one number for all, or one per row."""
    if tuple(getattr(scale, "shape", ())):
        same("scale", scale.shape, (rows,), beside=f"{rows} rows")


def same(name: str, shape: Shape, wanted: Shape, *, beside: str) -> None:
    """`shape` is `wanted`, or an error that names both."""
    if tuple(shape) != tuple(wanted):
        raise ValueError(f"{name} of {list(shape)} does not fit {beside}: {list(wanted)} is needed")


def number_type(*arrays: np.ndarray | None) -> np.dtype:
    """float32 or float64, the same for all."""
    found = {array.dtype for array in arrays if array is not None}
    if len(found) != 1 or next(iter(found)) not in (np.float32, np.float64):
        raise ValueError(f"operators take float32 or float64, one for all, got {', '.join(sorted(map(str, found)))}")
    return found.pop()


def room(out: np.ndarray | None, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """`out` if it can take the result, a new array if None."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != tuple(shape) or out.dtype != dtype or not out.flags.c_contiguous:
        kind = "" if out.flags.c_contiguous else " that is not contiguous"
        raise ValueError(f"out of {list(out.shape)} {out.dtype}{kind} cannot take a result of {list(shape)} {dtype}")
    return out
