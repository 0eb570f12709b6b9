"""The operators by PyTorch's own functions, on tensors, in the memory format that these have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fanlight.scratch.bench.subjects import Call

Work = Callable[[], Any]
aten = torch.ops.aten


def work(calls: list[Call], *, is_compiled: bool = False) -> Work | None:
    """All operators of a subject; None where PyTorch has none that does just that. `is_compiled`: it is for torch.compile,
    which refuses the fused optimizers, and is given their formulas to fuse."""
    if [call.operator for call in calls] == ["conv2d_input", "conv2d_weight", "conv2d_bias"]:
        (grad, weight), x = calls[0].args, calls[1].args[1]
        return _convolution_backward(grad, x, weight, calls[0].options, (True, True, True), slice(3))
    if is_compiled and calls[0].operator in FORMULAS:
        return _by_formula(calls[0])
    found = [_of(call.operator, call.args, call.options) for call in calls]
    if any(each is None for each in found):
        return None
    if len(found) == 1:
        return found[0]
    works: list[Any] = found
    return lambda: tuple(each() for each in works)


def _of(operator: str, args: list, o: dict[str, Any]) -> Work | None:
    if operator.startswith("conv2d"):
        return _convolution(operator, args, o)
    if "pool2d" in operator:
        return _pooling(operator, args, o)
    if operator.startswith("linear"):
        return {
            "linear": lambda: F.linear(*args), "linear_input": lambda: args[0] @ args[1],
            "linear_weight": lambda: args[0].T @ args[1], "linear_bias": lambda: args[0].sum(0),
        }[operator]  # fmt: skip
    if operator in ("relu", "gelu", "tanh"):
        return lambda: getattr(torch if operator == "tanh" else F, operator)(*args)
    if operator == "relu_backward":
        return lambda: aten.threshold_backward(*args, 0)
    if operator in ("gelu_backward", "tanh_backward"):
        return lambda: getattr(aten, operator)(*args)
    if operator.startswith("batch_norm"):
        return _norm(operator, args)
    if operator == "cross_entropy":
        return lambda: F.cross_entropy(args[0], args[1], reduction="none")
    if operator in ("sgd", "adamw"):
        return _optimizer(operator, args, o)
    return None  # dropout by keys is ours; a loss's gradient by row weights has no function of its own


def _convolution(operator: str, args: list, o: dict[str, Any]) -> Work:
    if operator == "conv2d":
        return lambda: F.conv2d(*args, **o)
    if operator == "conv2d_pooled":
        return lambda: F.max_pool2d(F.relu(F.conv2d(*args, **o)), 2)
    if operator == "conv2d_bias":
        return lambda: args[0].sum((0, 2, 3))
    grad, other = args
    of_input, like = operator == "conv2d_input", {"dtype": grad.dtype, "device": grad.device}
    if of_input:
        size = [len(grad), other.shape[1] * o["groups"], *o["image"]]
        x = torch.empty(size, memory_format=_layout(grad), **like)
        return _convolution_backward(grad, x, other, o, (True, False, False), 0)
    size = [grad.shape[1], other.shape[1] // o["groups"], *o["kernel"]]
    weight = torch.empty(size, memory_format=_layout(grad), **like)
    return _convolution_backward(grad, other, weight, o, (False, True, False), 1)


def _convolution_backward(grad: Any, x: Any, weight: Any, o: dict, wanted: tuple[bool, ...], taken: Any) -> Work:
    steps = (o["stride"], o["padding"], o["dilation"], False, [0, 0], o["groups"], list(wanted))
    return lambda: aten.convolution_backward(grad, x, weight, [len(weight)], *steps)[taken]


def _pooling(operator: str, args: list, o: dict[str, Any]) -> Work:
    if operator == "max_pool2d":
        return lambda: F.max_pool2d(*args, **o)
    if operator == "max_pool2d_index":
        return lambda: F.max_pool2d(*args, **o, return_indices=True)[0]
    if operator == "avg_pool2d":
        return lambda: F.avg_pool2d(*args, **o)
    grad, window, image = args[0], args[-1], o["image"]
    how = (window, o["stride"], o["padding"])
    x = torch.empty((*grad.shape[:2], *image), dtype=grad.dtype, device=grad.device, memory_format=_layout(grad))
    if operator == "avg_pool2d_backward":
        return lambda: aten.avg_pool2d_backward(grad, x, *how, False, True, None)
    place = args[1].to(torch.int64)  # in its window; PyTorch counts in the image
    at = [
        torch.arange(n, device=grad.device) * step - around for n, step, around in zip(grad.shape[2:], how[1], how[2])
    ]
    index = (at[0][:, None] + place // window[1]) * image[1] + at[1] + place % window[1]
    index = index.contiguous(memory_format=_layout(grad))
    return lambda: aten.max_pool2d_with_indices_backward(grad, x, *how, [1, 1], False, index)


def _norm(operator: str, args: list) -> Work:
    if operator == "batch_norm":
        return lambda: F.batch_norm(args[0], None, None, args[1], args[2], training=True)
    if operator == "batch_norm_fixed":
        x, weight, bias, mean, var = args
        return lambda: F.batch_norm(x, mean, var, weight, bias, training=False)
    grad, x, weight, mean, var = args
    trains = operator == "batch_norm_backward"
    kept = (None, None, mean, (var + 1e-5).rsqrt()) if trains else (mean, var, None, None)
    return lambda: aten.native_batch_norm_backward(grad, x, weight, *kept, trains, 1e-5, [True, True, True])


def _optimizer(operator: str, args: list, o: dict[str, Any]) -> Work:
    """In place, as ours: what is given back is the parameter."""
    parameter, grad, *state = args
    o, fixed = dict(o), {"amsgrad": False, "maximize": False}
    if operator == "sgd":
        del fixed["amsgrad"]
        more = {"dampening": 0.0, "is_first_step": False, **o, **fixed}
        return lambda: (torch._fused_sgd_([parameter], [grad], [state[0]], **more), parameter)[1]
    step, betas = torch.tensor(float(o.pop("step")), device=grad.device), o.pop("betas")
    more = {"beta1": betas[0], "beta2": betas[1], **o, **fixed}
    return lambda: (torch._fused_adamw_([parameter], [grad], [state[0]], [state[1]], [], [step], **more), parameter)[1]


def _by_formula(call: Call) -> Work:
    """As `_optimizer`."""
    formula, args, options = FORMULAS[call.operator], call.args, call.options

    def update() -> torch.Tensor:
        formula(*args, **options)
        return args[0]

    return update


def _sgd(w: Any, g: Any, v: Any, *, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> None:
    slope = g + weight_decay * w
    v.mul_(momentum).add_(slope)
    w.sub_(lr * (slope + momentum * v if nesterov else v))


def _adamw(
    w: Any, g: Any, m: Any, v: Any, *, step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    m.lerp_(g, 1 - betas[0])
    v.lerp_(g * g, 1 - betas[1])
    w.mul_(1 - lr * weight_decay)
    w.sub_(lr / (1 - betas[0] ** step) * m / ((v / (1 - betas[1] ** step)).sqrt() + eps))


FORMULAS: dict[str, Callable[..., None]] = {"sgd": _sgd, "adamw": _adamw}


def _layout(x: torch.Tensor) -> torch.memory_format:
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format
