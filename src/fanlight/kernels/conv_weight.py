"""A convolution's weight gradient as an implicit GEMM on tensor cores, split-K: O/G filters × R·S·C/G taps and channels, a sum
over all M = N·P·Q results. There are few tiles and the sum is long, so programs share it, each a part of the results;
`split_sum` adds the parts up. Channels last. With one part it is the plain implicit GEMM.

Letters as in sizes; D parts.
"""

# ruff: noqa: E741  # O is the letter of filters

from typing import Any

import torch
import triton
import triton.language as tl

from fanlight.kernels.conv_gemm import FLAT_BELOW, KEY
from fanlight.kernels.dots import product
from fanlight.kernels.launch import given, pixels, precision, room, size_class, tuned
from fanlight.kernels.sizes import PLAIN, Pair, Sizes, sizes
from fanlight.kernels.split_sum import added, parts

TILE = 64  # assumed for the number of parts, which must not depend on a choice: it decides the bits
STEP = 64
CHOICES = (  # M is what is summed over here, O and K the tile's sides
    {"BLOCK_O": 128, "BLOCK_K": 128, "BLOCK_M": 64, "warps": 8, "stages": 3},
    {"BLOCK_O": 128, "BLOCK_K": 64, "BLOCK_M": 64, "warps": 4, "stages": 4},
    {"BLOCK_O": 64, "BLOCK_K": 128, "BLOCK_M": 64, "warps": 4, "stages": 4},
    {"BLOCK_O": 64, "BLOCK_K": 64, "BLOCK_M": 64, "warps": 4, "stages": 4},
    {"BLOCK_O": 64, "BLOCK_K": 32, "BLOCK_M": 32, "warps": 4, "stages": 4},
)


def gemm(grad: torch.Tensor, x: torch.Tensor, **options: Any) -> torch.Tensor:
    """[O, C/G, R, S], channels last: one program per tile sums over everything. Arguments as `split_k`."""
    return _gradient(grad, x, is_split=False, **options)


def split_k(grad: torch.Tensor, x: torch.Tensor, **options: Any) -> torch.Tensor:
    """[O, C/G, R, S], channels last. kernel, stride, padding, dilation: pairs; groups: int; out: Tensor | None."""
    return _gradient(grad, x, is_split=True, **options)


def _gradient(
    grad: torch.Tensor, x: torch.Tensor, *, is_split: bool, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
    groups: int, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    at = sizes(tuple(x.shape), grad.shape[1], kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    shape = (at.O, at.C // groups, at.R, at.S)
    dweight = room(out, shape, like=grad)
    D = _parts(at) if is_split else 1
    sums = torch.empty((D, *shape), dtype=torch.float32, device=x.device) if D > 1 else dweight
    K, is_flat = at.R * at.S * shape[1], shape[1] < FLAT_BELOW

    def grid(sizes: dict[str, Any]) -> tuple[int, int, int]:
        columns = triton.cdiv(K, sizes["BLOCK_K"])
        if not is_flat:
            columns = at.R * at.S * triton.cdiv(shape[1], sizes["BLOCK_K"])
        return columns * triton.cdiv(at.O // groups, sizes["BLOCK_O"]), groups, D

    _weight[grid](
        pixels(grad), pixels(x), sums, *at, rows=size_class(at.N * at.P * at.Q),
        rows_of_part=triton.cdiv(at.N * at.P * at.Q, D), FLAT=is_flat, PRECISION=precision(x),
    )  # fmt: skip
    return given(dweight if D == 1 else added(sums, dweight), out)


def _parts(at: Sizes) -> int:
    deep = at.C // at.G
    tiles = at.G * triton.cdiv(at.O // at.G, TILE) * (
        at.R * at.S * triton.cdiv(deep, TILE) if deep >= FLAT_BELOW else triton.cdiv(at.R * at.S * deep, TILE))  # fmt: skip
    return parts(tiles=tiles, steps=triton.cdiv(at.N * at.P * at.Q, STEP))


@tuned(*CHOICES, interpreted={"BLOCK_O": 16, "BLOCK_K": 32, "BLOCK_M": 64}, key=KEY)
@triton.jit(do_not_specialize=[*PLAIN, "rows", "rows_of_part"])
def _weight(
    grad_ptr, x_ptr, sums_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, rows, rows_of_part,
    FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    group, deep, filters = tl.program_id(1), C // G, O // G
    tiles_o = tl.cdiv(filters, BLOCK_O)
    o_O = (tl.program_id(0) % tiles_o) * BLOCK_O + tl.arange(0, BLOCK_O)
    tile_k = tl.program_id(0) // tiles_o
    if FLAT:  # taps and channels in one row
        k_K = tile_k * BLOCK_K + tl.arange(0, BLOCK_K)
        ok_K = k_K < R * S * deep
        tap_K, c_K = k_K // deep, k_K % deep
    else:  # one tap
        blocks = tl.cdiv(deep, BLOCK_K)
        tap = tile_k // blocks
        c_K = (tile_k % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        ok_K = c_K < deep
        k_K = tap * deep + c_K
    ok_O = o_O < filters
    begin = tl.program_id(2) * rows_of_part
    end = tl.minimum(begin + rows_of_part, N * P * Q)
    acc_OK = tl.zeros((BLOCK_O, BLOCK_K), tl.float32)
    for start in range(begin, end, BLOCK_M):
        m_M = start + tl.arange(0, BLOCK_M)
        ok_M = m_M < end
        n_M, p_M, q_M = m_M // (P * Q), m_M // Q % P, m_M % Q
        top_M, left_M = p_M * stride_h - pad_h, q_M * stride_w - pad_w
        grad_ptrs = grad_ptr + m_M.to(tl.int64)[:, None] * O + (group * filters + o_O)[None, :]
        grad_MO = tl.load(grad_ptrs, mask=ok_M[:, None] & ok_O[None, :], other=0.0)
        image_M = n_M.to(tl.int64) * H * W * C + group * deep
        if FLAT:
            h_MK = top_M[:, None] + (tap_K // S * dil_h)[None, :]
            w_MK = left_M[:, None] + (tap_K % S * dil_w)[None, :]
            ok = ok_M[:, None] & ok_K[None, :] & (h_MK >= 0) & (h_MK < H) & (w_MK >= 0) & (w_MK < W)
            x_MK = tl.load(x_ptr + image_M[:, None] + ((h_MK * W + w_MK) * C + c_K[None, :]), mask=ok, other=0.0)
        else:
            h_M, w_M = top_M + tap // S * dil_h, left_M + tap % S * dil_w
            seen_M = ok_M & (h_M >= 0) & (h_M < H) & (w_M >= 0) & (w_M < W)
            x_ptrs = x_ptr + image_M[:, None] + (((h_M * W + w_M) * C)[:, None] + c_K[None, :])
            x_MK = tl.load(x_ptrs, mask=seen_M[:, None] & ok_K[None, :], other=0.0)
        acc_OK = product(tl.trans(grad_MO), x_MK, acc_OK, PRECISION)
    row_O = tl.program_id(2).to(tl.int64) * O + group * filters + o_O
    to = row_O[:, None] * (R * S * deep) + k_K[None, :]
    tl.store(sums_ptr + to, acc_OK.to(sums_ptr.dtype.element_ty), mask=ok_O[:, None] & ok_K[None, :])
