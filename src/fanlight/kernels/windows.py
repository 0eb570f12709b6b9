"""Which pixels the windows of a pooling see, and which windows see a pixel: both are gathered, without atomic additions.

A tile's rows m are results (n, p, q), or pixels (n, h, w); a place is a pixel's in its window, r·S + s. Letters as in sizes.
"""

import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED
from fanlight.kernels.sizes import Sizes

BLOCK_M, BLOCK_C = (64, 16) if IS_INTERPRETED else (32, 64)


def grid(at: Sizes, *, rows: int) -> tuple[int, int]:
    """Programs over so many rows and all channels."""
    return triton.cdiv(rows, BLOCK_M), triton.cdiv(at.C, BLOCK_C)


@triton.jit
def first_pixel(m_M, P, Q, stride_h, stride_w, pad_h, pad_w):
    """Of each result its image, and the row and column where its window begins."""
    return m_M // (P * Q), m_M // Q % P * stride_h - pad_h, m_M % Q * stride_w - pad_w


@triton.jit
def seen(place, n_M, top_M, left_M, H, W, S):
    """The pixel at `place` of each window, as a row of the images, and whether it is in its image."""
    h_M, w_M = top_M + place // S, left_M + place % S
    inside_M = (h_M >= 0) & (h_M < H) & (w_M >= 0) & (w_M < W)
    return (n_M.to(tl.int64) * H + h_M) * W + w_M, inside_M


@triton.jit
def padded_pixel(m_M, H, W, pad_h, pad_w):
    """Of each pixel its image, and its row and column in that with its padding."""
    return m_M // (H * W), m_M // W % H + pad_h, m_M % W + pad_w


@triton.jit
def seeing(number, n_M, h_M, w_M, R, S, P, Q, stride_h, stride_w):
    """The window with this number, of ⌈R/stride⌉ · ⌈S/stride⌉ that can cover each padded pixel: as a row of the results, the
    pixel's place in it, and whether there is one."""
    across = tl.cdiv(S, stride_w)
    p_M, q_M = h_M // stride_h - number // across, w_M // stride_w - number % across
    r_M, s_M = h_M - p_M * stride_h, w_M - q_M * stride_w
    there_M = (p_M >= 0) & (p_M < P) & (q_M >= 0) & (q_M < Q) & (r_M < R) & (s_M < S)
    return (n_M.to(tl.int64) * P + p_M) * Q + q_M, r_M * S + s_M, there_M
