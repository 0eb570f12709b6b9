"""Sums of columns, which gradients of biases are. M rows, C columns, D parts of the rows, which run side by side."""

import torch
import triton
import triton.language as tl

from fanlight.kernels.split_sum import PARTS_MOST, PROGRAMS, added
from fanlight.kernels.tiles import BLOCK_C, BLOCK_M, read, tile


def conv2d_bias(grad: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """[O] of [N, O, …]."""
    return summed(rows(grad), out=out)


def linear_bias(grad: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """[O] of [N, O]."""
    return summed(grad.contiguous(), out=out)


def rows(x: torch.Tensor) -> torch.Tensor:
    """[M, C], dense, of [N, C, …]; a copy only if channels do not lie beside each other."""
    return x.movedim(1, -1).contiguous().view(-1, x.shape[1])


def parts(M: int, C: int) -> int:
    """Into how many parts the rows go, about as many as keep a GPU busy; it depends on sizes alone, as the bits do."""
    return max(1, min(PROGRAMS // triton.cdiv(C, BLOCK_C), triton.cdiv(M, BLOCK_M), PARTS_MOST))


def summed(x_MC: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """[C]."""
    M, C = x_MC.shape
    D = parts(M, C)
    sums = torch.empty((D, C), dtype=torch.float32, device=x_MC.device)
    _sum[(triton.cdiv(C, BLOCK_C), D)](x_MC, sums, M, C, triton.cdiv(M, D), BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    total = x_MC.new_empty(C) if out is None or not out.is_contiguous() else out
    added(sums, total)
    return total if out is None or out is total else out.copy_(total)


@triton.jit
def part_of(M, rows_of_part):
    """The rows begin … end of a program's part, where programs go over channels first and parts second."""
    begin = tl.program_id(1) * rows_of_part
    return begin, tl.minimum(begin + rows_of_part, M)


@triton.jit
def _sum(x_ptr, sums_ptr, M, C, rows_of_part, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin, end = part_of(M, rows_of_part)
    acc_C = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(begin, end, BLOCK_M):
        _, _, ok, at = tile(start, end, tl.program_id(0) * BLOCK_C, C, BLOCK_M, BLOCK_C)
        acc_C += tl.sum(read(x_ptr, at, ok), axis=0)
    tl.store(sums_ptr + tl.program_id(1) * C + c_C, acc_C, mask=c_C < C)
