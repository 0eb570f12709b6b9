"""SGD with momentum and AdamW, in place, each number read and written once. L numbers.

`lr`, `step` and `divisor` may be tensors of one number on the GPU: a CUDA graph repeats the numbers it was captured with,
but reads tensors anew. Where the divisor is not finite, nothing is written.
"""

import math

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED

BLOCK = 256 if IS_INTERPRETED else 1024
Number = float | torch.Tensor


def sgd(
    parameter: torch.Tensor, grad: torch.Tensor, velocity: torch.Tensor, *, lr: Number, momentum: float,
    weight_decay: float, nesterov: bool, divisor: Number = 1.0,
) -> None:  # fmt: skip
    """g ← g/divisor + decay·w;  v ← momentum·v + g;  w ← w − lr·v, or lr·(g + momentum·v). All in one memory order."""
    L = parameter.numel()
    _sgd[(triton.cdiv(L, BLOCK),)](
        parameter, grad, velocity, lr, divisor, L, momentum, weight_decay, NESTEROV=nesterov,
        LR_IS_READ=isinstance(lr, torch.Tensor), DIVISOR_IS_READ=isinstance(divisor, torch.Tensor), BLOCK=BLOCK,
    )  # fmt: skip


def adamw(
    parameter: torch.Tensor, grad: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, *, step: int | torch.Tensor,
    lr: Number, betas: tuple[float, float], eps: float, weight_decay: float, divisor: Number = 1.0,
) -> None:  # fmt: skip
    """g ← g/divisor;  w ← w·(1 − lr·decay) − lr · m̂ / (√v̂ + eps). All in one memory order."""
    L = parameter.numel()
    _adamw[(triton.cdiv(L, BLOCK),)](
        parameter, grad, mean, square, lr, divisor, step, L, 1 - betas[0], 1 - betas[1], math.log(betas[0]), math.log(betas[1]),
        eps, weight_decay, LR_IS_READ=isinstance(lr, torch.Tensor), DIVISOR_IS_READ=isinstance(divisor, torch.Tensor),
        STEP_IS_READ=isinstance(step, torch.Tensor), BLOCK=BLOCK,
    )  # fmt: skip


@triton.jit
def _sgd(
    parameter_ptr, grad_ptr, velocity_ptr, lr, divisor, L, momentum, decay,
    NESTEROV: tl.constexpr, LR_IS_READ: tl.constexpr, DIVISOR_IS_READ: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    l_L = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rate = tl.load(lr).to(tl.float32) if LR_IS_READ else lr
    share, ok = _share(divisor, l_L < L, DIVISOR_IS_READ, BLOCK)
    weight_L = tl.load(parameter_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    slope_L = tl.load(grad_ptr + l_L, mask=ok, other=0.0).to(tl.float32) * share + decay * weight_L
    moving_L = momentum * tl.load(velocity_ptr + l_L, mask=ok, other=0.0).to(tl.float32) + slope_L
    tl.store(velocity_ptr + l_L, moving_L.to(velocity_ptr.dtype.element_ty), mask=ok)
    if NESTEROV:
        moving_L = slope_L + momentum * moving_L
    tl.store(parameter_ptr + l_L, (weight_L - rate * moving_L).to(parameter_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _share(divisor, ok, IS_READ: tl.constexpr, BLOCK: tl.constexpr):
    """What gradients are multiplied by, and which of `ok` are written."""
    value = tl.load(divisor).to(tl.float32) if IS_READ else tl.cast(divisor, tl.float32)
    off_L = tl.zeros((BLOCK,), tl.float32) + (value - value)  # of an infinity no number
    return 1.0 / value, ok & (off_L == 0.0)


@triton.jit(do_not_specialize=["step"])
def _adamw(
    parameter_ptr, grad_ptr, mean_ptr, square_ptr, lr, divisor, step, L, new_mean, new_square, log_mean, log_square, eps, decay,
    LR_IS_READ: tl.constexpr, DIVISOR_IS_READ: tl.constexpr, STEP_IS_READ: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    l_L = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rate = tl.load(lr).to(tl.float32) if LR_IS_READ else lr
    share, ok = _share(divisor, l_L < L, DIVISOR_IS_READ, BLOCK)
    steps = tl.load(step).to(tl.float64) if STEP_IS_READ else tl.cast(step, tl.float64)
    # 1 − βᵗ in double precision: of float32, the first steps of β₂ = .999 would have four digits.
    of_mean = (1 - tl.exp(steps * tl.cast(log_mean, tl.float64))).to(tl.float32)
    of_square = (1 - tl.exp(steps * tl.cast(log_square, tl.float64))).to(tl.float32)
    weight_L = tl.load(parameter_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    slope_L = tl.load(grad_ptr + l_L, mask=ok, other=0.0).to(tl.float32) * share
    mean_L = tl.load(mean_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    square_L = tl.load(square_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    mean_L += new_mean * (slope_L - mean_L)
    square_L += new_square * (slope_L * slope_L - square_L)
    tl.store(mean_ptr + l_L, mean_L.to(mean_ptr.dtype.element_ty), mask=ok)
    tl.store(square_ptr + l_L, square_L.to(square_ptr.dtype.element_ty), mask=ok)
    way_L = (rate / of_mean) * mean_L / (tl.sqrt(square_L / of_square) + eps)
    tl.store(parameter_ptr + l_L, (weight_L * (1 - rate * decay) - way_L).to(parameter_ptr.dtype.element_ty), mask=ok)
