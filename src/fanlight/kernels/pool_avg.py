"""Average pooling, channels last: a program is some results × some channels; padding counts as zeros. Letters as in sizes."""

# ruff: noqa: E741  # O is the letter of filters

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import given, pixels, room
from fanlight.kernels.pool_max import BLOCK_C, BLOCK_M
from fanlight.kernels.sizes import PLAIN, Pair, sizes


def forward(
    x: torch.Tensor, window: Pair, *, stride: Pair, padding: Pair, out: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, C, P, Q], the mean of each window."""
    at = sizes(tuple(x.shape), x.shape[1], window, stride=stride, padding=padding)
    y = room(out, (at.N, at.C, at.P, at.Q), like=x)
    grid = (triton.cdiv(at.N * at.P * at.Q, BLOCK_M), triton.cdiv(at.C, BLOCK_C))
    _forward[grid](pixels(x), y, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(y, out)


def backward(
    grad: torch.Tensor, window: Pair, *, image: Pair, stride: Pair, padding: Pair, out: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, C, H, W]: each result's gradient is spread evenly over its window."""
    shape = (*grad.shape[:2], *image)
    at = sizes(tuple(shape), grad.shape[1], window, stride=stride, padding=padding)
    dx = room(out, tuple(shape), like=grad)
    grid = (triton.cdiv(at.N * at.H * at.W, BLOCK_M), triton.cdiv(at.C, BLOCK_C))
    _backward[grid](pixels(grad), dx, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(dx, out)


@triton.jit(do_not_specialize=PLAIN)
def _forward(
    x_ptr, y_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n_M, top_M, left_M = m_M // (P * Q), m_M // Q % P * stride_h - pad_h, m_M % Q * stride_w - pad_w
    ok = (m_M < N * P * Q)[:, None] & (c_C < C)[None, :]
    image_M = n_M.to(tl.int64) * H * W * C
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for tap in range(R * S):
        h_M, w_M = top_M + tap // S, left_M + tap % S
        inside_M = (h_M >= 0) & (h_M < H) & (w_M >= 0) & (w_M < W)
        x_ptrs = x_ptr + image_M[:, None] + (((h_M * W + w_M) * C)[:, None] + c_C[None, :])
        acc += tl.load(x_ptrs, mask=ok & inside_M[:, None], other=0.0).to(tl.float32)
    to = m_M.to(tl.int64)[:, None] * C + c_C[None, :]
    tl.store(y_ptr + to, (acc / (R * S)).to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=PLAIN)
def _backward(
    grad_ptr, dx_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n_M, h_M, w_M = m_M // (H * W), m_M // W % H + pad_h, m_M % W + pad_w
    ok = (m_M < N * H * W)[:, None] & (c_C < C)[None, :]
    image_M = n_M.to(tl.int64) * P * Q * C
    across = tl.cdiv(S, stride_w)  # windows that can cover a pixel
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for back in range(tl.cdiv(R, stride_h) * across):
        p_M, q_M = h_M // stride_h - back // across, w_M // stride_w - back % across
        r_M, s_M = h_M - p_M * stride_h, w_M - q_M * stride_w
        seen_M = (p_M >= 0) & (p_M < P) & (q_M >= 0) & (q_M < Q) & (r_M < R) & (s_M < S)
        grad_ptrs = grad_ptr + image_M[:, None] + (((p_M * Q + q_M) * C)[:, None] + c_C[None, :])
        acc += tl.load(grad_ptrs, mask=ok & seen_M[:, None], other=0.0).to(tl.float32)
    to = m_M.to(tl.int64)[:, None] * C + c_C[None, :]
    tl.store(dx_ptr + to, (acc / (R * S)).to(dx_ptr.dtype.element_ty), mask=ok)
