"""Softmax and cross-entropy, a program per row: the largest and the sum in one pass, the shares in a second. N rows, K classes.

A class outside 0 … K − 1 makes its row's loss and gradient NaN: to refuse it would mean to wait for the GPU.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED, given, room

BLOCK_MOST = 64 if IS_INTERPRETED else 4096


def forward(
    logits: torch.Tensor, targets: torch.Tensor, *, out: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss, float32 [N], and its probabilities [N, K]."""
    N, K = logits.shape
    losses = torch.empty(N, dtype=torch.float32, device=logits.device)
    shares = room(out, (N, K), like=logits)
    _loss[(N,)](logits.contiguous(), targets.contiguous(), losses, shares, K, BLOCK=_block(K))
    return losses, given(shares, out)


def backward(
    probabilities: torch.Tensor, targets: torch.Tensor, *, scale: float | torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """scale · (probability − 1 at the target), [N, K]; `scale` is a number or one per row."""
    N, K = probabilities.shape
    grad = room(out, (N, K), like=probabilities)
    of_row = isinstance(scale, torch.Tensor)
    scales = scale.expand(N).contiguous() if isinstance(scale, torch.Tensor) else scale
    _slope[(N,)](probabilities.contiguous(), targets.contiguous(), scales, grad, K, OF_ROW=of_row, BLOCK=_block(K))
    return given(grad, out)


def _block(K: int) -> int:
    return min(triton.next_power_of_2(K), BLOCK_MOST)


@triton.jit
def _loss(logits_ptr, targets_ptr, losses_ptr, shares_ptr, K, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    k_K = tl.arange(0, BLOCK)
    top_K = tl.full((BLOCK,), float("-inf"), tl.float32)
    sum_K = tl.zeros((BLOCK,), tl.float32)
    spoiled_K = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, K, BLOCK):
        ok = start + k_K < K
        value_K = tl.load(logits_ptr + n * K + start + k_K, mask=ok, other=float("-inf")).to(tl.float32)
        larger_K = tl.maximum(top_K, value_K)
        centre_K = tl.where(larger_K == float("-inf"), 0.0, larger_K)  # −∞ − −∞ is no number
        sum_K = sum_K * tl.exp(top_K - centre_K) + tl.exp(value_K - centre_K)
        spoiled_K += tl.where(value_K != value_K, value_K, 0.0)  # a maximum passes NaN over
        top_K = larger_K
    top = tl.max(top_K, axis=0)
    total = tl.sum(sum_K * tl.exp(top_K - top) + spoiled_K, axis=0)
    target = tl.load(targets_ptr + n)
    is_class = (target >= 0) & (target < K)
    own = tl.load(logits_ptr + n * K + target, mask=is_class, other=float("nan")).to(tl.float32)
    tl.store(losses_ptr + n, tl.log(total) + (top - own))
    for start in range(0, K, BLOCK):
        ok = start + k_K < K
        value_K = tl.load(logits_ptr + n * K + start + k_K, mask=ok, other=0.0).to(tl.float32)
        tl.store(
            shares_ptr + n * K + start + k_K, (tl.exp(value_K - top) / total).to(shares_ptr.dtype.element_ty), mask=ok
        )


@triton.jit
def _slope(shares_ptr, targets_ptr, scales, grad_ptr, K, OF_ROW: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + n)
    scale = tl.load(scales + n).to(tl.float32) if OF_ROW else scales
    scale = tl.where((target >= 0) & (target < K), scale, float("nan"))
    for start in range(0, K, BLOCK):
        k_K = start + tl.arange(0, BLOCK)
        share_K = tl.load(shares_ptr + n * K + k_K, mask=k_K < K, other=0.0).to(tl.float32)
        slope_K = scale * (share_K - tl.where(k_K == target, 1.0, 0.0))
        tl.store(grad_ptr + n * K + k_K, slope_K.to(grad_ptr.dtype.element_ty), mask=k_K < K)
