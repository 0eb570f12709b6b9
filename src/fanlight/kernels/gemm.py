"""Dense layers: the product of two matrices on tensor cores, of any strides, so that one kernel is the layer and both of its
gradients; bias and ReLU while the sums are in registers. Where tiles are few and the sum is long, programs share it.

M rows, N columns, K of the sum; D parts.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from fanlight.kernels.dots import SMALL, TILES, product
from fanlight.kernels.launch import given, precision, room, size_class, tuned
from fanlight.kernels.split_sum import added, parts

TILE, STEP, TALL = 64, 64, 8  # TALL: tiles of rows that go over the columns together, and so share them in the L2 cache


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """x · weightᵀ + bias."""
    return multiplied(x, weight.T, bias, relu=relu, out=out)


def linear_input(grad: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """grad · weight."""
    return multiplied(grad, weight, out=out)


def linear_weight(grad: torch.Tensor, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """gradᵀ · x."""
    return multiplied(grad.T, x, out=out)


def multiplied(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[M, N] of a [M, K] and b [K, N]."""
    (M, K), N = a.shape, b.shape[1]
    y = room(out, (M, N), like=a)
    has_more = bias is not None or relu
    D = 1 if has_more else parts(tiles=triton.cdiv(M, TILE) * triton.cdiv(N, TILE), steps=triton.cdiv(K, STEP))
    sums = torch.empty((D, M, N), dtype=torch.float32, device=a.device) if D > 1 else y

    def grid(sizes: dict[str, Any]) -> tuple[int, int]:
        return triton.cdiv(M, sizes["BLOCK_M"]) * triton.cdiv(N, sizes["BLOCK_N"]), D

    _multiply[grid](
        a, b, a if bias is None else bias.contiguous(), sums, M, N, K, *a.stride(), *b.stride(),
        depth=triton.cdiv(K, D), rows=size_class(M), columns=size_class(N), PRECISION=precision(a),
        HAS_BIAS=bias is not None, RELU=relu, TALL=TALL,
    )  # fmt: skip
    return given(y if D == 1 else added(sums, y), out)


@tuned(*TILES, interpreted=SMALL, key=("rows", "columns", "depth", "a_k", "b_k"))
@triton.jit(do_not_specialize=["rows", "columns"])
def _multiply(
    a_ptr, b_ptr, bias_ptr, y_ptr, M, N, K, a_m, a_k, b_k, b_n, depth, rows, columns,
    PRECISION: tl.constexpr, HAS_BIAS: tl.constexpr, RELU: tl.constexpr, TALL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    band = tl.program_id(0) // (TALL * tiles_n)
    height = tl.minimum(tiles_m - band * TALL, TALL)
    within = tl.program_id(0) % (TALL * tiles_n)
    m_M = (band * TALL + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_N = within // height * BLOCK_N + tl.arange(0, BLOCK_N)
    ok_M, ok_N = m_M < M, n_N < N
    begin = tl.program_id(1) * depth
    end = tl.minimum(begin + depth, K)
    acc_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(begin, end, BLOCK_K):
        k_K = start + tl.arange(0, BLOCK_K)
        ok_K = k_K < end
        a_ptrs = a_ptr + m_M.to(tl.int64)[:, None] * a_m + k_K[None, :] * a_k
        b_ptrs = b_ptr + k_K.to(tl.int64)[:, None] * b_k + n_N[None, :] * b_n
        a_MK = tl.load(a_ptrs, mask=ok_M[:, None] & ok_K[None, :], other=0.0)
        b_KN = tl.load(b_ptrs, mask=ok_K[:, None] & ok_N[None, :], other=0.0)
        acc_MN = product(a_MK, b_KN, acc_MN, PRECISION)
    if HAS_BIAS:
        acc_MN += tl.load(bias_ptr + n_N, mask=ok_N, other=0.0).to(tl.float32)[None, :]
    if RELU:
        acc_MN = tl.where(acc_MN < 0, 0.0, acc_MN)
    row_M = tl.program_id(1).to(tl.int64) * M + m_M
    tl.store(
        y_ptr + row_M[:, None] * N + n_N[None, :], acc_MN.to(y_ptr.dtype.element_ty), mask=ok_M[:, None] & ok_N[None, :]
    )
