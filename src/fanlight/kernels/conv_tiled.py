"""Convolution, version 2: tiled. A program is O filters × L positions of one image, kept in registers: a number loaded from
the image is used for each of the filters, a weight for each of the positions. NCHW, no tensor cores.

Letters as in sizes; a position is p·Q + q.
"""

# ruff: noqa: E741  # O is the letter of filters

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import given, tuned
from fanlight.kernels.sizes import PLAIN, Pair, sizes


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: Pair, padding: Pair,
    dilation: Pair, groups: int, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[N, O, P, Q]."""
    kernel = weight.shape[2], weight.shape[3]
    at = sizes(tuple(x.shape), len(weight), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = out if out is not None and out.is_contiguous() else torch.empty(
        (at.N, at.O, at.P, at.Q), dtype=x.dtype if out is None else out.dtype, device=x.device)  # fmt: skip
    filters = at.O // groups

    def grid(sizes: dict[str, int]) -> tuple[int, int]:
        tiles = triton.cdiv(filters, sizes["BLOCK_O"]) * triton.cdiv(at.P * at.Q, sizes["BLOCK_L"])
        return at.N * tiles, groups

    _forward[grid](x.contiguous(), weight.contiguous(), x if bias is None else bias.contiguous(), y, *at,
                   HAS_BIAS=bias is not None)  # fmt: skip
    return given(y, out)


@tuned(
    {"BLOCK_O": 8, "BLOCK_L": 256}, {"BLOCK_O": 16, "BLOCK_L": 128}, {"BLOCK_O": 32, "BLOCK_L": 128},
    interpreted={"BLOCK_O": 16, "BLOCK_L": 128}, key=("C", "H", "O", "R", "stride_h", "G"),
)  # fmt: skip
@triton.jit(do_not_specialize=PLAIN)
def _forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, N, C, H, W, O, R, S, P, Q, G,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    HAS_BIAS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    deep, filters = C // G, O // G
    blocks, tiles_o = tl.cdiv(P * Q, BLOCK_L), tl.cdiv(filters, BLOCK_O)
    pid, group = tl.program_id(0), tl.program_id(1)
    n = (pid // (blocks * tiles_o)).to(tl.int64)
    at_L = (pid // tiles_o % blocks) * BLOCK_L + tl.arange(0, BLOCK_L)
    o_O = (pid % tiles_o) * BLOCK_O + tl.arange(0, BLOCK_O)
    inside, there = at_L < P * Q, o_O < filters
    top_L, left_L = (at_L // Q) * stride_h - pad_h, (at_L % Q) * stride_w - pad_w
    o_O += group * filters
    acc_OL = tl.zeros((BLOCK_O, BLOCK_L), tl.float32)
    for c in range(deep):
        image_ptr = x_ptr + (n * C + group * deep + c) * H * W
        for tap in range(R * S):
            h_L, w_L = top_L + (tap // S) * dil_h, left_L + (tap % S) * dil_w
            ok = inside & (h_L >= 0) & (h_L < H) & (w_L >= 0) & (w_L < W)
            seen_L = tl.load(image_ptr + h_L * W + w_L, mask=ok, other=0.0).to(tl.float32)
            tap_O = tl.load(weight_ptr + (o_O * deep + c) * R * S + tap, mask=there, other=0.0).to(tl.float32)
            acc_OL += tap_O[:, None] * seen_L[None, :]
    if HAS_BIAS:
        acc_OL += tl.load(bias_ptr + o_O, mask=there, other=0.0).to(tl.float32)[:, None]
    y_ptrs = y_ptr + (n * O + o_O[:, None]) * P * Q + at_L[None, :]
    tl.store(y_ptrs, acc_OL.to(y_ptr.dtype.element_ty), mask=there[:, None] & inside[None, :])
