"""Optimizers on a GPU, in place, each number read and written once; PyTorch's of the same name.

`lr`, `step` and `divisor` may be tensors of one number on the GPU, which a CUDA graph reads anew each time it runs. Gradients
may be of another float type than parameters and their state: all but parameters are best kept float32.
"""

from __future__ import annotations

import torch

from fanlight.kernels import optimizer as kernels
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator


@operator(changes=("parameter", "velocity"))
def sgd(
    parameter: Array,
    grad: Array,
    velocity: Array,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    divisor: float = 1.0,
) -> None:
    """g ← g/divisor + decay·w;  v ← momentum·v + g;  w ← w − lr·v, or lr·(g + momentum·v). `velocity` begins as zeros.
    Where the divisor is not finite, nothing changes."""
    _check(parameter, grad, velocity)
    kernels.sgd(
        parameter, _ordered(grad, parameter), velocity, lr=lr, momentum=float(momentum), weight_decay=float(weight_decay),
        nesterov=nesterov, divisor=divisor,
    )  # fmt: skip


@operator(changes=("parameter", "mean", "square"))
def adamw(
    parameter: Array,
    grad: Array,
    mean: Array,
    square: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    divisor: float = 1.0,
) -> None:
    """Loshchilov and Hutter 2019: w ← w·(1 − lr·decay) − lr · m̂ / (√v̂ + eps), with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) and
    t = `step`, which counts from 1. `mean` m and `square` v begin as zeros; g is divided by `divisor` first, and where that
    is not finite, nothing changes."""
    _check(parameter, grad, mean, square)
    if not isinstance(step, torch.Tensor):  # to look at a tensor would mean to wait for the GPU
        shapes.step(step)
    kernels.adamw(
        parameter, _ordered(grad, parameter), mean, square, step=step, lr=lr, betas=betas, eps=float(eps),
        weight_decay=float(weight_decay), divisor=divisor,
    )  # fmt: skip


def _check(parameter: torch.Tensor, grad: torch.Tensor, *state: torch.Tensor) -> None:
    shapes.alike(parameter, grad, *state)
    number_type(parameter)
    number_type(grad)
    number_type(*state)
    is_dense = parameter.is_contiguous() or (
        parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )
    if not is_dense or any(each.stride() != parameter.stride() for each in state):
        raise ValueError(
            f"a parameter of {list(parameter.shape)} and its state have to be dense and in one memory order, strides "
            f"{list(parameter.stride())} and {', '.join(str(list(each.stride())) for each in state)} are not"
        )


def _ordered(grad: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The gradient in the parameter's memory order."""
    return grad if grad.stride() == parameter.stride() else torch.empty_like(parameter, dtype=grad.dtype).copy_(grad)
