"""What kernels over rows × channels share: where a tile lies, and numbers of its channels. M rows, C channels."""

import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED

BLOCK_M, BLOCK_C = (64, 16) if IS_INTERPRETED else (64, 64)


@triton.jit
def tile(first_m, end_m, first_c, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows from `first_m` on and channels from `first_c` on, which of them there are, and where their numbers lie."""
    m_M, c_C = first_m + tl.arange(0, BLOCK_M), first_c + tl.arange(0, BLOCK_C)
    ok = (m_M < end_m)[:, None] & (c_C < C)[None, :]
    return m_M, c_C, ok, m_M.to(tl.int64)[:, None] * C + c_C[None, :]


@triton.jit
def own_tile(M, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """That of a program, where programs go over rows first and channels second."""
    return tile(tl.program_id(0) * BLOCK_M, M, tl.program_id(1) * BLOCK_C, C, BLOCK_M, BLOCK_C)


@triton.jit
def of_channels(ptr, c_C, C, other: tl.constexpr):
    """float32 [C] of numbers that belong to channels, `other` past the last."""
    return tl.load(ptr + c_C, mask=c_C < C, other=other).to(tl.float32)


@triton.jit
def read(ptr, at, ok):
    """float32 of any numbers, 0 where there is none."""
    return tl.load(ptr + at, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def write(ptr, at, value, ok):
    """As numbers of the memory's own type."""
    tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=ok)
