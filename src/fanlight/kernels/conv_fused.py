"""Convolution, version 4: fused. The implicit GEMM of conv_gemm, whose sums get their bias, activation and, of 2×2 windows, the
largest while they are in registers: what a layer would write, read and write again goes to memory once, a quarter of it.

With a pooling, rows of the tile are counted so that the four results of a window lie beside each other. Letters as in sizes.
"""

# ruff: noqa: E741  # O is the letter of filters

from typing import Any

import torch
import triton
import triton.language as tl

from fanlight.kernels.activation import curved
from fanlight.kernels.conv_gemm import FLAT_BELOW, KEY, summed
from fanlight.kernels.dots import SMALL, TILES
from fanlight.kernels.launch import given, pixels, precision, room, size_class, tuned
from fanlight.kernels.sizes import PLAIN, Pair, sizes


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: Pair, padding: Pair,
    dilation: Pair, groups: int, relu: bool = False, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, O, P, Q], channels last."""
    kernel = weight.shape[2], weight.shape[3]
    at = sizes(tuple(x.shape), len(weight), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = room(out, (at.N, at.O, at.P, at.Q), like=x)
    _run(x, weight, bias, y, y, at, activation="relu" if relu else "none", pool=False)
    return given(y, out)


def forward_pooled(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: Pair, padding: Pair,
    dilation: Pair, groups: int, activation: str, out: torch.Tensor | None = None, index: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """[N, O, P//2, Q//2], channels last: the largest of 2 × 2 results after their `activation` (none, relu, tanh, gelu); and
    uint16, which of the four it is, as max_pool2d_index says it."""
    kernel = weight.shape[2], weight.shape[3]
    at = sizes(tuple(x.shape), len(weight), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    shape = (at.N, at.O, at.P // 2, at.Q // 2)
    y = room(out, shape, like=x)
    places = room(index, shape, like=torch.empty(0, dtype=torch.uint16, device=x.device))
    _run(x, weight, bias, y, places, at, activation=activation, pool=True)
    return given(y, out), given(places, index)


def _run(x, weight, bias, y, places, at, *, activation: str, pool: bool) -> None:
    M = at.N * (at.P // 2) * (at.Q // 2) * 4 if pool else at.N * at.P * at.Q

    def grid(sizes: dict[str, Any]) -> tuple[int, int]:
        return triton.cdiv(M, sizes["BLOCK_M"]) * triton.cdiv(at.O // at.G, sizes["BLOCK_N"]), at.G

    _fused[grid](
        pixels(x), pixels(weight), x if bias is None else bias.contiguous(), y, places, *at, rows=size_class(M),
        FLAT=at.C // at.G < FLAT_BELOW, PRECISION=precision(x), HAS_BIAS=bias is not None, ACTIVATION=activation,
        POOL=pool,
    )  # fmt: skip


@tuned(*TILES, interpreted=SMALL, key=(*KEY, "ACTIVATION", "POOL"))
@triton.jit(do_not_specialize=[*PLAIN, "rows"])
def _fused(
    x_ptr, weight_ptr, bias_ptr, y_ptr, index_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, rows,
    FLAT: tl.constexpr, PRECISION: tl.constexpr, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr, POOL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    group, filters = tl.program_id(1), O // G
    tiles_n = tl.cdiv(filters, BLOCK_N)
    first_m = (tl.program_id(0) // tiles_n) * BLOCK_M
    m_M = first_m + tl.arange(0, BLOCK_M)
    o_N = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    ok_N = o_N < filters
    if POOL:  # m is 4·window + 2·row + column
        windows = N * (P // 2) * (Q // 2)
        ok_M = m_M < 4 * windows
        w_M, n_M = m_M // 4, m_M // (4 * (P // 2) * (Q // 2))
        p_M, q_M = w_M // (Q // 2) % (P // 2) * 2 + m_M // 2 % 2, w_M % (Q // 2) * 2 + m_M % 2
    else:
        ok_M = m_M < N * P * Q
        n_M, p_M, q_M = m_M // (P * Q), m_M // Q % P, m_M % Q
    acc_MN = summed(
        x_ptr, weight_ptr, n_M, p_M * stride_h - pad_h, q_M * stride_w - pad_w, ok_M, group * filters + o_N, ok_N,
        group, C, H, W, R, S, G, dil_h, dil_w, FLAT, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    if HAS_BIAS:
        acc_MN += tl.load(bias_ptr + group * filters + o_N, mask=ok_N, other=0.0).to(tl.float32)[None, :]
    acc_MN = curved(acc_MN, ACTIVATION)
    if POOL:
        largest, place = largest_of_four(acc_MN, BLOCK_M, BLOCK_N)
        w_M4 = first_m // 4 + tl.arange(0, BLOCK_M // 4)
        to = w_M4.to(tl.int64)[:, None] * O + group * filters + o_N[None, :]
        ok = (w_M4 < windows)[:, None] & ok_N[None, :]
        tl.store(y_ptr + to, largest.to(y_ptr.dtype.element_ty), mask=ok)
        tl.store(index_ptr + to, place.to(index_ptr.dtype.element_ty), mask=ok)
    else:
        y_ptrs = y_ptr + m_M.to(tl.int64)[:, None] * O + group * filters + o_N[None, :]
        tl.store(y_ptrs, acc_MN.to(y_ptr.dtype.element_ty), mask=ok_M[:, None] & ok_N[None, :])


@triton.jit
def largest_of_four(acc_MN, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """[M/4, N]: the largest of rows 4i … 4i + 3, a NaN before all, and the first place it is at."""
    rows_MN22 = acc_MN.reshape(BLOCK_M // 4, 2, 2, BLOCK_N).permute(0, 3, 1, 2)
    left_MN2, right_MN2 = tl.split(rows_MN22)
    v0, v2 = tl.split(left_MN2)
    v1, v3 = tl.split(right_MN2)
    best, place = v0, tl.zeros((BLOCK_M // 4, BLOCK_N), tl.int32)
    is_more = (v1 > best) | (v1 != v1)
    best, place = tl.where(is_more, v1, best), tl.where(is_more, 1, place)
    is_more = (v2 > best) | (v2 != v2)
    best, place = tl.where(is_more, v2, best), tl.where(is_more, 2, place)
    is_more = (v3 > best) | (v3 != v3)
    return tl.where(is_more, v3, best), tl.where(is_more, 3, place)
