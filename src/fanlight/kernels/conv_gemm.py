"""Convolution, version 3: implicit GEMM on tensor cores. M = N·P·Q results times O filters, a sum over K = R·S·C/G: the matrix
of windows is never made, its tiles are gathered from the image. Channels last, so that what a tap sees is contiguous.

Groups of fewer than FLAT_BELOW channels have their taps and channels in one row of K, or most of a tile would be padding.
Letters as in sizes.
"""

# ruff: noqa: E741  # O is the letter of filters

from typing import Any

import torch
import triton
import triton.language as tl

from fanlight.kernels.dots import SMALL, TILES, product
from fanlight.kernels.launch import given, pixels, precision, room, size_class, tuned
from fanlight.kernels.sizes import PLAIN, Pair, sizes

FLAT_BELOW = 16
KEY = ("rows", "C", "O", "R", "S", "stride_h", "dil_h", "G")


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: Pair, padding: Pair,
    dilation: Pair, groups: int, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, O, P, Q], channels last; a bias costs a pass of its own."""
    kernel = weight.shape[2], weight.shape[3]
    at = sizes(tuple(x.shape), len(weight), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = room(out, (at.N, at.O, at.P, at.Q), like=x)
    M = at.N * at.P * at.Q

    def grid(sizes: dict[str, Any]) -> tuple[int, int]:
        return triton.cdiv(M, sizes["BLOCK_M"]) * triton.cdiv(at.O // groups, sizes["BLOCK_N"]), groups

    _forward[grid](pixels(x), pixels(weight), y, *at, rows=size_class(M), FLAT=at.C // groups < FLAT_BELOW,
                   PRECISION=precision(x))  # fmt: skip
    if bias is not None:
        y += bias[:, None, None]
    return given(y, out)


@tuned(*TILES, interpreted=SMALL, key=KEY)
@triton.jit(do_not_specialize=[*PLAIN, "rows"])
def _forward(
    x_ptr, weight_ptr, y_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, rows,
    FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    group, filters = tl.program_id(1), O // G
    tiles_n = tl.cdiv(filters, BLOCK_N)
    # Programs that follow each other see the same pixels: all of them, and all weights, stay in the L2 cache.
    m_M = (tl.program_id(0) // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_N = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    ok_M, ok_N = m_M < N * P * Q, o_N < filters
    n_M, p_M, q_M = m_M // (P * Q), m_M // Q % P, m_M % Q
    acc_MN = summed(
        x_ptr, weight_ptr, n_M, p_M * stride_h - pad_h, q_M * stride_w - pad_w, ok_M, group * filters + o_N, ok_N,
        group, C, H, W, R, S, G, dil_h, dil_w, FLAT, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    y_ptrs = y_ptr + m_M.to(tl.int64)[:, None] * O + group * filters + o_N[None, :]
    tl.store(y_ptrs, acc_MN.to(y_ptr.dtype.element_ty), mask=ok_M[:, None] & ok_N[None, :])


@triton.jit
def summed(
    x_ptr, weight_ptr, n_M, top_M, left_M, ok_M, o_N, ok_N, group, C, H, W, R, S, G, dil_h, dil_w,
    FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """float32 [M, N]: of the windows of image n whose first pixel is (top, left), and filters o."""
    deep = C // G
    image_M = n_M.to(tl.int64) * H * W * C + group * deep
    filter_N = o_N.to(tl.int64) * R * S * deep
    k_K = tl.arange(0, BLOCK_K)
    acc_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FLAT:
        for start in range(0, R * S * deep, BLOCK_K):
            at_K = start + k_K
            ok_K = at_K < R * S * deep
            tap_K, c_K = at_K // deep, at_K % deep
            h_MK = top_M[:, None] + (tap_K // S * dil_h)[None, :]
            w_MK = left_M[:, None] + (tap_K % S * dil_w)[None, :]
            ok = ok_M[:, None] & ok_K[None, :] & (h_MK >= 0) & (h_MK < H) & (w_MK >= 0) & (w_MK < W)
            x_MK = tl.load(x_ptr + image_M[:, None] + ((h_MK * W + w_MK) * C + c_K[None, :]), mask=ok, other=0.0)
            weight_ptrs = weight_ptr + filter_N[None, :] + at_K[:, None]
            weight_KN = tl.load(weight_ptrs, mask=ok_K[:, None] & ok_N[None, :], other=0.0)
            acc_MN = product(x_MK, weight_KN, acc_MN, PRECISION)
    else:
        window_M = image_M + (top_M * W + left_M) * C
        blocks = tl.cdiv(deep, BLOCK_K)
        for step in range(R * S * blocks):
            tap = step // blocks
            c_K = (step % blocks) * BLOCK_K + k_K
            down, across = (tap // S) * dil_h, (tap % S) * dil_w
            h_M, w_M = top_M + down, left_M + across
            seen_M = ok_M & (h_M >= 0) & (h_M < H) & (w_M >= 0) & (w_M < W)
            x_ptrs = x_ptr + window_M[:, None] + ((down * W + across) * C + c_K[None, :])
            x_MK = tl.load(x_ptrs, mask=seen_M[:, None] & (c_K < deep)[None, :], other=0.0)
            weight_ptrs = weight_ptr + filter_N[None, :] + (tap * deep + c_K[:, None])
            weight_KN = tl.load(weight_ptrs, mask=(c_K < deep)[:, None] & ok_N[None, :], other=0.0)
            acc_MN = product(x_MK, weight_KN, acc_MN, PRECISION)
    return acc_MN
