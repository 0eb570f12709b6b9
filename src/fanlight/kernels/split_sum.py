"""Partial sums of programs that shared a long sum, added up in a fixed order: the same bits each time, which atomic
additions would not give. D parts of L numbers."""

import torch
import triton
import triton.language as tl

PROGRAMS = 512  # to share a long sum over: four on each of 128 multiprocessors
PARTS_MOST = 64


def parts(*, tiles: int, steps: int) -> int:
    """Over how many programs each of `tiles` sums of `steps` blocks is split, so that about PROGRAMS run, each for at
    least four blocks. It depends on sizes alone, as the bits of the result do."""
    return max(1, min(PROGRAMS // max(1, tiles), steps // 4, PARTS_MOST))


def added(partial: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`out`, dense, of L numbers: the sums of float32 [D, …]."""
    L = out.numel()
    _add[(triton.cdiv(L, 256),)](partial, out, partial.shape[0], L, BLOCK=256)
    return out


@triton.jit
def _add(partial_ptr, out_ptr, D, L, BLOCK: tl.constexpr):
    l_L = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < L
    total = tl.zeros((BLOCK,), tl.float32)
    for d in range(D):
        total += tl.load(partial_ptr + d * L + l_L, mask=ok, other=0.0)
    tl.store(out_ptr + l_L, total.to(out_ptr.dtype.element_ty), mask=ok)
