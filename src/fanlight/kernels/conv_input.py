"""A convolution's input gradient as an implicit GEMM on tensor cores: M = pixels, C/G channels, a sum over the taps that saw a
pixel times O/G filters, gathered from the result's gradient. Nothing is scattered, so no atomic additions. Channels last.

With a stride, pixels are worked on by phase, (h mod stride, w mod stride): a phase is seen by some of the taps only, and all
its pixels by the same. Letters as in sizes.
"""

# ruff: noqa: E741  # O is the letter of filters

import math
from typing import Any

import torch
import triton
import triton.language as tl

from fanlight.kernels.conv_gemm import KEY
from fanlight.kernels.dots import SMALL, TILES, product
from fanlight.kernels.launch import given, pixels, precision, room, size_class, tuned
from fanlight.kernels.sizes import PLAIN, Pair, sizes


def input_gradient(
    grad: torch.Tensor, weight: torch.Tensor, *, image: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, C, H, W], channels last."""
    kernel = weight.shape[2], weight.shape[3]
    shape = (len(grad), weight.shape[1] * groups, *image)
    at = sizes(shape, len(weight), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    dx = room(out, shape, like=grad)
    M = at.N * triton.cdiv(at.H, at.stride_h) * triton.cdiv(at.W, at.stride_w)  # of the largest phase

    def grid(sizes: dict[str, Any]) -> tuple[int, int, int]:
        tiles = triton.cdiv(M, sizes["BLOCK_M"]) * triton.cdiv(at.C // groups, sizes["BLOCK_N"])
        return tiles, groups, at.stride_h * at.stride_w

    _input[grid](
        pixels(grad), pixels(weight), dx, *at, rows=size_class(M), PRECISION=precision(grad),
        EVERY_R=at.stride_h // math.gcd(at.stride_h, at.dil_h), EVERY_S=at.stride_w // math.gcd(at.stride_w, at.dil_w),
    )  # fmt: skip
    return given(dx, out)


@tuned(*TILES, interpreted=SMALL, key=KEY)
@triton.jit(do_not_specialize=[*PLAIN, "rows"])
def _input(
    grad_ptr, weight_ptr, dx_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, rows,
    PRECISION: tl.constexpr, EVERY_R: tl.constexpr, EVERY_S: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    group, deep, filters = tl.program_id(1), C // G, O // G
    phase_h, phase_w = tl.program_id(2) // stride_w, tl.program_id(2) % stride_w
    tiles_n = tl.cdiv(deep, BLOCK_N)
    high, wide = tl.cdiv(H, stride_h), tl.cdiv(W, stride_w)
    m_M = (tl.program_id(0) // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    c_N = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_M, i_M, j_M = m_M // (high * wide), m_M // wide % high, m_M % wide
    h_M, w_M = i_M * stride_h + phase_h, j_M * stride_w + phase_w
    ok_M, ok_N = (n_M < N) & (h_M < H) & (w_M < W), c_N < deep
    # Tap r saw row h from result p where p·stride = h + pad − r·dil: every EVERY_R-th tap from the first that divides.
    first_r, taps_r = _seeing(phase_h + pad_h, R, stride_h, dil_h, EVERY_R)
    first_s, taps_s = _seeing(phase_w + pad_w, S, stride_w, dil_w, EVERY_S)
    image_M = n_M.to(tl.int64) * P * Q * O + group * filters
    k_K = tl.arange(0, BLOCK_K)
    blocks = tl.cdiv(filters, BLOCK_K)
    acc_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(taps_r * taps_s * blocks):
        tap = step // blocks
        r, s = first_r + tap // taps_s * EVERY_R, first_s + tap % taps_s * EVERY_S
        o_K = (step % blocks) * BLOCK_K + k_K
        p_M = i_M + (phase_h + pad_h - r * dil_h) // stride_h  # divides, so the sign of a remainder does not matter
        q_M = j_M + (phase_w + pad_w - s * dil_w) // stride_w
        seen_M = ok_M & (p_M >= 0) & (p_M < P) & (q_M >= 0) & (q_M < Q)
        grad_ptrs = grad_ptr + image_M[:, None] + (((p_M * Q + q_M) * O)[:, None] + o_K[None, :])
        grad_MK = tl.load(grad_ptrs, mask=seen_M[:, None] & (o_K < filters)[None, :], other=0.0)
        filter_K = (group * filters + o_K).to(tl.int64) * (R * S * deep)
        weight_ptrs = weight_ptr + filter_K[:, None] + ((r * S + s) * deep + c_N[None, :])
        weight_KN = tl.load(weight_ptrs, mask=(o_K < filters)[:, None] & ok_N[None, :], other=0.0)
        acc_MN = product(grad_MK, weight_KN, acc_MN, PRECISION)
    pixel_M = (n_M.to(tl.int64) * H + h_M) * W + w_M
    dx_ptrs = dx_ptr + pixel_M[:, None] * C + group * deep + c_N[None, :]
    tl.store(dx_ptrs, acc_MN.to(dx_ptr.dtype.element_ty), mask=ok_M[:, None] & ok_N[None, :])


@triton.jit
def _seeing(origin, taps, stride, dil, EVERY: tl.constexpr):
    """The first of `taps` t for which origin − t·dil is divisible by the stride, and how many there are, EVERY apart."""
    first = tl.program_id(0) * 0 + taps  # none
    for back in tl.static_range(EVERY):
        first = tl.where((origin - (EVERY - 1 - back) * dil) % stride == 0, EVERY - 1 - back, first)
    return first, tl.where(first < taps, (taps - 1 - first) // EVERY + 1, 0)
