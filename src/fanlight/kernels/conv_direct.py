"""Convolution, version 1: direct. A program is one filter and some positions of one image; each position's sum runs over all
channels and taps, and every number is loaded from memory for every use. NCHW, no tensor cores.

Where a group has hardly any channel (a depthwise convolution), nothing is used twice anyway, and this stays the one to take.
Letters as in sizes; a position is p·Q + q.
"""

# ruff: noqa: E741  # O is the letter of filters

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED, given
from fanlight.kernels.sizes import PLAIN, Pair, sizes
from fanlight.kernels.tiles import read, write

BLOCK = 128 if IS_INTERPRETED else 256


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: Pair, padding: Pair,
    dilation: Pair, groups: int, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, O, P, Q]."""
    at = sizes(
        tuple(x.shape), len(weight), _kernel(weight), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    y = _flat(out, (at.N, at.O, at.P, at.Q), x)
    grid = (at.N * at.O * triton.cdiv(at.P * at.Q, BLOCK),)
    _forward[grid](x.contiguous(), weight.contiguous(), x if bias is None else bias.contiguous(), y, *at,
                   HAS_BIAS=bias is not None, BLOCK=BLOCK)  # fmt: skip
    return given(y, out)


def input_gradient(
    grad: torch.Tensor, weight: torch.Tensor, *, image: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, C, H, W]."""
    shape = (len(grad), weight.shape[1] * groups, *image)
    at = sizes(shape, len(weight), _kernel(weight), stride=stride, padding=padding, dilation=dilation, groups=groups)
    dx = _flat(out, shape, grad)
    grid = (at.N * at.C * triton.cdiv(at.H * at.W, BLOCK),)
    _input[grid](grad.contiguous(), weight.contiguous(), dx, *at, BLOCK=BLOCK)
    return given(dx, out)


def weight_gradient(
    grad: torch.Tensor, x: torch.Tensor, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[O, C/G, R, S]."""
    at = sizes(tuple(x.shape), grad.shape[1], kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    dweight = _flat(out, (at.O, at.C // groups, *kernel), grad)
    _weight[(dweight.numel(),)](grad.contiguous(), x.contiguous(), dweight, *at, BLOCK=BLOCK)
    return given(dweight, out)


def _kernel(weight: torch.Tensor) -> Pair:
    return weight.shape[2], weight.shape[3]


def _flat(out: torch.Tensor | None, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    if out is not None and out.is_contiguous():
        return out
    return torch.empty(shape, dtype=like.dtype if out is None else out.dtype, device=like.device)


@triton.jit(do_not_specialize=PLAIN)
def _forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane, at_L, inside = _stretch(P * Q, BLOCK)  # plane n·O + o
    n, o = plane // O, plane % O
    top_L, left_L = (at_L // Q) * stride_h - pad_h, (at_L % Q) * stride_w - pad_w
    deep = C // G
    first = (o // (O // G)) * deep
    acc = tl.zeros((BLOCK,), tl.float32)
    for c in range(deep):
        image_ptr = x_ptr + (n * C + first + c) * H * W
        for tap in range(R * S):
            h_L, w_L = top_L + (tap // S) * dil_h, left_L + (tap % S) * dil_w
            seen = _pixel(image_ptr, h_L, w_L, inside, H, W)
            acc += seen * tl.load(weight_ptr + (o * deep + c) * R * S + tap).to(tl.float32)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + o).to(tl.float32)
    write(y_ptr, plane * P * Q + at_L, acc, inside)


@triton.jit(do_not_specialize=PLAIN)
def _input(
    grad_ptr, weight_ptr, dx_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, BLOCK: tl.constexpr,
):  # fmt: skip
    plane, at_L, inside = _stretch(H * W, BLOCK)  # plane n·C + c
    n, c = plane // C, plane % C
    deep = C // G
    first = (c // deep) * (O // G)
    acc = tl.zeros((BLOCK,), tl.float32)
    for k in range(O // G):
        given_ptr = grad_ptr + (n * O + first + k) * P * Q
        for tap in range(R * S):
            down_L = at_L // W + pad_h - (tap // S) * dil_h
            across_L = at_L % W + pad_w - (tap % S) * dil_w
            p_L, q_L = down_L // stride_h, across_L // stride_w
            whole = inside & (p_L * stride_h == down_L) & (q_L * stride_w == across_L)
            came = _pixel(given_ptr, p_L, q_L, whole, P, Q)
            acc += came * tl.load(weight_ptr + ((first + k) * deep + c % deep) * R * S + tap).to(tl.float32)
    write(dx_ptr, plane * H * W + at_L, acc, inside)


@triton.jit(do_not_specialize=PLAIN)
def _weight(
    grad_ptr, x_ptr, dweight_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)  # (o·C/G + c)·R·S + tap
    tap, deep = pid % (R * S), C // G
    c, o = (pid // (R * S)) % deep, pid // (R * S * deep)
    c += (o // (O // G)) * deep
    down, across = (tap // S) * dil_h - pad_h, (tap % S) * dil_w - pad_w
    acc = tl.zeros((BLOCK,), tl.float32)
    for n in range(N):
        image = tl.cast(n, tl.int64)
        given_ptr = grad_ptr + (image * O + o) * P * Q
        image_ptr = x_ptr + (image * C + c) * H * W
        for start in range(0, P * Q, BLOCK):
            at_L = start + tl.arange(0, BLOCK)
            inside = at_L < P * Q
            h_L, w_L = (at_L // Q) * stride_h + down, (at_L % Q) * stride_w + across
            acc += read(given_ptr, at_L, inside) * _pixel(image_ptr, h_L, w_L, inside, H, W)
    tl.store(dweight_ptr + pid, tl.sum(acc, axis=0).to(dweight_ptr.dtype.element_ty))


@triton.jit
def _stretch(L, BLOCK: tl.constexpr):
    """The plane that a program works on, and its positions of L in it; which of them there are."""
    blocks = tl.cdiv(L, BLOCK)
    at_L = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return (tl.program_id(0) // blocks).to(tl.int64), at_L, at_L < L


@triton.jit
def _pixel(plane_ptr, h_L, w_L, inside, H, W):
    """float32 of a plane's pixels, 0 outside."""
    ok = inside & (h_L >= 0) & (h_L < H) & (w_L >= 0) & (w_L < W)
    return read(plane_ptr, h_L * W + w_L, ok)
