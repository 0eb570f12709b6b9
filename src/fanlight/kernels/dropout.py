"""Dropout: number i of row n stays if SplitMix64's i-th number from the row's key is at least the rate's share of 2⁶⁴: the
mask of all backends, made where it is needed and never stored. i counts in the order of [C, H, W], also where memory has
channels last. N rows of L numbers.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED, aligned, given

WHOLE = 1 << 64
BLOCK = 256 if IS_INTERPRETED else 1024


def masked(x: torch.Tensor, keep: torch.Tensor, *, rate: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """x / (1 − rate) where `keep`, else 0."""
    x, keep, y = aligned(x, keep.view(torch.uint8), torch.empty_like(x) if out is None else out)
    _masked[(triton.cdiv(x.numel(), BLOCK),)](x, keep, y, x.numel(), 1 / (1 - rate), BLOCK=BLOCK)
    return given(y, out)


def keyed(x: torch.Tensor, keys: torch.Tensor, *, rate: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """As `masked`, with the mask of the rows' keys, 64 bits each."""
    x, y = aligned(x, torch.empty_like(x) if out is None else out)
    _run(x, keys, y, rate=rate, scale=1 / (1 - rate))
    return given(y, out)


def kept(keys: torch.Tensor, shape: tuple[int, ...], *, rate: float) -> torch.Tensor:
    """bool `shape`, [N, …]: what stays."""
    keep = torch.empty(shape, dtype=torch.uint8, device=keys.device)
    _run(keep, keys, keep, rate=rate, scale=1.0)
    return keep.view(torch.bool)


def _run(x: torch.Tensor, keys: torch.Tensor, y: torch.Tensor, *, rate: float, scale: float) -> None:
    N, L = len(x), x[0].numel() if len(x) else 0
    C = x.shape[1] if not x.is_contiguous() else 1  # channels last
    limit = round(rate * WHOLE)
    limit -= WHOLE if limit >= WHOLE // 2 else 0  # the same bits as a signed number
    _hashed[(N * triton.cdiv(L, BLOCK),)](
        x,
        keys.contiguous().view(torch.int64),
        y,
        L,
        C,
        limit,
        scale,
        MAKES_MASK=x is y and x.dtype == torch.uint8,
        BLOCK=BLOCK,
    )


@triton.jit
def _masked(x_ptr, keep_ptr, y_ptr, L, scale, BLOCK: tl.constexpr):
    l_L = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < L
    stays = tl.load(keep_ptr + l_L, mask=ok, other=0) != 0
    x_L = tl.load(x_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    tl.store(y_ptr + l_L, tl.where(stays, x_L * scale, 0.0).to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["limit"])
def _hashed(x_ptr, keys_ptr, y_ptr, L, C, limit, scale, MAKES_MASK: tl.constexpr, BLOCK: tl.constexpr):
    blocks = tl.cdiv(L, BLOCK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    l_L = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < L
    position_L = l_L % C * (L // C) + l_L // C  # in memory a channel is last, where C is not 1
    z = tl.load(keys_ptr + n).to(tl.uint64) + (position_L + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    stays = (z ^ (z >> 31)) >= tl.cast(tl.cast(limit, tl.int64), tl.uint64)
    if MAKES_MASK:
        tl.store(y_ptr + n * L + l_L, stays.to(tl.uint8), mask=ok)
    else:
        x_L = tl.load(x_ptr + n * L + l_L, mask=ok, other=0.0).to(tl.float32)
        tl.store(y_ptr + n * L + l_L, tl.where(stays, x_L * scale, 0.0).to(y_ptr.dtype.element_ty), mask=ok)
