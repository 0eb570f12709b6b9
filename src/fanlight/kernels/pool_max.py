"""Max pooling, channels last: a program is some results × some channels, or some pixels × some channels. Letters as in sizes."""

# ruff: noqa: E741  # O is the letter of filters

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import given, pixels, room
from fanlight.kernels.sizes import PLAIN, Pair, sizes
from fanlight.kernels.tiles import own_tile, read, write
from fanlight.kernels.windows import BLOCK_C, BLOCK_M, first_pixel, grid, padded_pixel, seeing, seen


def forward(
    x: torch.Tensor, window: Pair, *, stride: Pair, padding: Pair, out: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The largest [N, C, P, Q] of each window, a NaN before all, and which pixel of it that is: uint16, r·S + s."""
    at = sizes(tuple(x.shape), x.shape[1], window, stride=stride, padding=padding)
    shape = (at.N, at.C, at.P, at.Q)
    y = room(out, shape, like=x)
    places = room(index, shape, like=torch.empty(0, dtype=torch.uint16, device=x.device))
    _forward[grid(at, rows=at.N * at.P * at.Q)](pixels(x), y, places, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(y, out), given(places, index)


def backward(
    grad: torch.Tensor, index: torch.Tensor, window: Pair, *, image: Pair, stride: Pair, padding: Pair,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, C, H, W]: each result's gradient goes to the pixel that was the largest."""
    shape = (*grad.shape[:2], *image)
    at = sizes(tuple(shape), grad.shape[1], window, stride=stride, padding=padding)
    dx = room(out, tuple(shape), like=grad)
    _backward[grid(at, rows=at.N * at.H * at.W)](pixels(grad), pixels(index), dx, *at, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    return given(dx, out)


@triton.jit(do_not_specialize=PLAIN)
def _forward(
    x_ptr, y_ptr, index_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M, c_C, ok, to = own_tile(N * P * Q, C, BLOCK_M, BLOCK_C)
    n_M, top_M, left_M = first_pixel(m_M, P, Q, stride_h, stride_w, pad_h, pad_w)
    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
    place = tl.full((BLOCK_M, BLOCK_C), -1, tl.int32)
    for tap in range(R * S):
        pixel_M, inside_M = seen(tap, n_M, top_M, left_M, H, W, S)
        value = read(x_ptr, pixel_M[:, None] * C + c_C[None, :], ok & inside_M[:, None])
        is_more = inside_M[:, None] & ((value > best) | (value != value) | (place < 0))
        best, place = tl.where(is_more, value, best), tl.where(is_more, tap, place)
    write(y_ptr, to, best, ok)
    write(index_ptr, to, place, ok)


@triton.jit(do_not_specialize=PLAIN)
def _backward(
    grad_ptr, index_ptr, dx_ptr, N, C, H, W, O, R, S, P, Q, G, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M, c_C, ok, to = own_tile(N * H * W, C, BLOCK_M, BLOCK_C)
    n_M, h_M, w_M = padded_pixel(m_M, H, W, pad_h, pad_w)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for number in range(tl.cdiv(R, stride_h) * tl.cdiv(S, stride_w)):
        result_M, own_M, there_M = seeing(number, n_M, h_M, w_M, R, S, P, Q, stride_h, stride_w)
        at, there = result_M[:, None] * C + c_C[None, :], ok & there_M[:, None]
        place = tl.load(index_ptr + at, mask=there, other=0).to(tl.int32)
        acc += tl.where(there & (place == own_M[:, None]), read(grad_ptr, at, there), 0.0)
    write(dx_ptr, to, acc, ok)
