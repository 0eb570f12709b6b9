"""Average pooling, channels last: a program is some results × some channels; padding counts as zeros. Letters as in sizes."""

# ruff: noqa: E741  # O is the letter of filters

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import given, pixels, room
from fanlight.kernels.sizes import PLAIN, Pair, sizes
from fanlight.kernels.tiles import own_tile, read, write
from fanlight.kernels.windows import BLOCK_C, BLOCK_M, first_pixel, grid, padded_pixel, seeing, seen


def forward(
    x: torch.Tensor, window: Pair, *, stride: Pair, padding: Pair, out: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, C, P, Q], the mean of each window."""
    at = sizes(tuple(x.shape), x.shape[1], window, stride=stride, padding=padding)
    y = room(out, (at.N, at.C, at.P, at.Q), like=x)
    _forward[grid(at, rows=at.N * at.P * at.Q)](pixels(x), y, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(y, out)


def backward(
    grad: torch.Tensor, window: Pair, *, image: Pair, stride: Pair, padding: Pair, out: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, C, H, W]: each result's gradient is spread evenly over its window."""
    shape = (*grad.shape[:2], *image)
    at = sizes(tuple(shape), grad.shape[1], window, stride=stride, padding=padding)
    dx = room(out, tuple(shape), like=grad)
    _backward[grid(at, rows=at.N * at.H * at.W)](pixels(grad), dx, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(dx, out)


@triton.jit(do_not_specialize=PLAIN)
def _forward(
    x_ptr, y_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M, c_C, ok, to = own_tile(N * P * Q, C, BLOCK_M, BLOCK_C)
    n_M, top_M, left_M = first_pixel(m_M, P, Q, stride_h, stride_w, pad_h, pad_w)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for tap in range(R * S):
        pixel_M, inside_M = seen(tap, n_M, top_M, left_M, H, W, S)
        acc += read(x_ptr, pixel_M[:, None] * C + c_C[None, :], ok & inside_M[:, None])
    write(y_ptr, to, acc / (R * S), ok)


@triton.jit(do_not_specialize=PLAIN)
def _backward(
    grad_ptr, dx_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M, c_C, ok, to = own_tile(N * H * W, C, BLOCK_M, BLOCK_C)
    n_M, h_M, w_M = padded_pixel(m_M, H, W, pad_h, pad_w)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for number in range(tl.cdiv(R, stride_h) * tl.cdiv(S, stride_w)):
        result_M, _, there_M = seeing(number, n_M, h_M, w_M, R, S, P, Q, stride_h, stride_w)
        acc += read(grad_ptr, result_M[:, None] * C + c_C[None, :], ok & there_M[:, None])
    write(dx_ptr, to, acc / (R * S), ok)
