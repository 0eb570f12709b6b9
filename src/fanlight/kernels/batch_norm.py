"""Batch norm of rows × channels. M = N·H·W rows, C channels, D parts of the rows, which run side by side.

Statistics are merged, block by block and then part by part, from (count, mean, squares around it) as Chan et al. 1979: one
pass over the input, and none of the digits that Σx² − M·mean² loses. They are float32, whatever the input is.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.column_sum import BLOCK_C, BLOCK_M, parts, rows
from fanlight.kernels.launch import given

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, eps: float, out: torch.Tensor | None = None
) -> Three:
    """(y, mean, var): weight · (x − mean) / √(var + eps) + bias, with the batch's own statistics."""
    x_MC = rows(x)
    M, C = x_MC.shape
    D = parts(M, C)
    found = torch.empty((2, D, C), dtype=torch.float32, device=x.device)
    mean, var = torch.empty((2, C), dtype=torch.float32, device=x.device)
    tiles = triton.cdiv(C, BLOCK_C)
    _statistics[(tiles, D)](x_MC, found, M, C, D, triton.cdiv(M, D), BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    _merge[(triton.cdiv(C, 16),)](
        found, mean, var, M, C, D, triton.cdiv(M, D), BLOCK_D=triton.next_power_of_2(D), BLOCK_C=16
    )
    return forward_fixed(x, weight, bias, mean, var, eps=eps, out=out), mean, var


def forward_fixed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *, eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """y with statistics that are given."""
    x_MC, y = rows(x), _room(out, x)
    grid = (triton.cdiv(x_MC.shape[0], BLOCK_M), triton.cdiv(x_MC.shape[1], BLOCK_C))
    _normalise[grid](x_MC, weight.contiguous(), bias.contiguous(), mean.contiguous(), var.contiguous(), y, *x_MC.shape, eps,
                     BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)  # fmt: skip
    return given(y, out)


def backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *, eps: float,
    through_statistics: bool, out: torch.Tensor | None = None,
) -> Three:  # fmt: skip
    """(dx, dweight, dbias)."""
    grad_MC, x_MC = rows(grad), rows(x)
    M, C = x_MC.shape
    D = parts(M, C)
    mean, var, weight = mean.contiguous(), var.contiguous(), weight.contiguous()
    found = torch.empty((2, D, C), dtype=torch.float32, device=x.device)
    dweight, dbias = torch.empty((2, C), dtype=torch.float32, device=x.device)
    dx = _room(out, x)
    tiles = triton.cdiv(C, BLOCK_C)
    _products[(tiles, D)](grad_MC, x_MC, mean, found, M, C, D, triton.cdiv(M, D), BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)
    _totals[(triton.cdiv(C, 16),)](found, var, dweight, dbias, C, D, eps, BLOCK_D=triton.next_power_of_2(D), BLOCK_C=16)
    _slopes[(triton.cdiv(M, BLOCK_M), tiles)](
        grad_MC, x_MC, weight, mean, var, dweight, dbias, dx, M, C, eps, THROUGH=through_statistics, BLOCK_M=BLOCK_M,
        BLOCK_C=BLOCK_C,
    )  # fmt: skip
    return given(dx, out), dweight.to(weight.dtype), dbias.to(weight.dtype)


def _room(out: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """[N, C, …] whose memory is [M, C]."""
    if out is not None and out.movedim(1, -1).is_contiguous():
        return out
    shape = (x.shape[0], *x.shape[2:], x.shape[1])
    return torch.empty(shape, dtype=x.dtype if out is None else out.dtype, device=x.device).movedim(-1, 1)


@triton.jit
def _statistics(x_ptr, found_ptr, M, C, D, rows_of_part, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = tl.program_id(1) * rows_of_part
    end = tl.minimum(begin + rows_of_part, M)
    mean_C, squares_C = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    for start in range(begin, end, BLOCK_M):
        m_M = start + tl.arange(0, BLOCK_M)
        ok = (m_M < end)[:, None] & (c_C < C)[None, :]
        x_MC = tl.load(x_ptr + m_M.to(tl.int64)[:, None] * C + c_C[None, :], mask=ok, other=0.0).to(tl.float32)
        before = tl.cast(start - begin, tl.float32)
        more = tl.cast(tl.minimum(end - start, BLOCK_M), tl.float32)
        own_C = tl.sum(x_MC, axis=0) / more
        off_MC = tl.where(ok, x_MC - own_C[None, :], 0.0)
        step_C = own_C - mean_C
        squares_C += tl.sum(off_MC * off_MC, axis=0) + step_C * step_C * (before * more / (before + more))
        mean_C += step_C * (more / (before + more))
    to = tl.program_id(1) * C + c_C
    tl.store(found_ptr + to, mean_C, mask=c_C < C)
    tl.store(found_ptr + D * C + to, squares_C, mask=c_C < C)


@triton.jit
def _merge(found_ptr, mean_ptr, var_ptr, M, C, D, rows_of_part, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr):
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d_D = tl.arange(0, BLOCK_D)
    ok = (d_D < D)[:, None] & (c_C < C)[None, :]
    at = d_D[:, None] * C + c_C[None, :]
    mean_DC = tl.load(found_ptr + at, mask=ok, other=0.0)
    squares_DC = tl.load(found_ptr + D * C + at, mask=ok, other=0.0)
    count_D = tl.maximum(tl.minimum(M - d_D * rows_of_part, rows_of_part), 0).to(tl.float32)
    count_D = tl.where(d_D < D, count_D, 0.0)[:, None]
    total = tl.cast(M, tl.float32)
    mean_C = tl.sum(mean_DC * count_D, axis=0) / total
    off_DC = mean_DC - mean_C[None, :]
    var_C = tl.sum(squares_DC + count_D * off_DC * off_DC, axis=0) / total
    tl.store(mean_ptr + c_C, mean_C, mask=c_C < C)
    tl.store(var_ptr + c_C, var_C, mask=c_C < C)


@triton.jit
def _normalise(
    x_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, y_ptr, M, C, eps, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    m_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_C = c_C < C
    ok = (m_M < M)[:, None] & ok_C[None, :]
    weight_C = tl.load(weight_ptr + c_C, mask=ok_C, other=0.0).to(tl.float32)
    bias_C = tl.load(bias_ptr + c_C, mask=ok_C, other=0.0).to(tl.float32)
    mean_C = tl.load(mean_ptr + c_C, mask=ok_C, other=0.0).to(tl.float32)
    var_C = tl.load(var_ptr + c_C, mask=ok_C, other=1.0).to(tl.float32)
    scale_C = weight_C / tl.sqrt(var_C + eps)
    at = m_M.to(tl.int64)[:, None] * C + c_C[None, :]
    x_MC = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    y_MC = (x_MC - mean_C[None, :]) * scale_C[None, :] + bias_C[None, :]
    tl.store(y_ptr + at, y_MC.to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _products(
    grad_ptr, x_ptr, mean_ptr, found_ptr, M, C, D, rows_of_part, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Of a part: Σ grad and Σ grad · (x − mean)."""
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean_C = tl.load(mean_ptr + c_C, mask=c_C < C, other=0.0).to(tl.float32)
    begin = tl.program_id(1) * rows_of_part
    end = tl.minimum(begin + rows_of_part, M)
    sum_C, along_C = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    for start in range(begin, end, BLOCK_M):
        m_M = start + tl.arange(0, BLOCK_M)
        ok = (m_M < end)[:, None] & (c_C < C)[None, :]
        at = m_M.to(tl.int64)[:, None] * C + c_C[None, :]
        grad_MC = tl.load(grad_ptr + at, mask=ok, other=0.0).to(tl.float32)
        x_MC = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
        sum_C += tl.sum(grad_MC, axis=0)
        along_C += tl.sum(grad_MC * (x_MC - mean_C[None, :]), axis=0)
    to = tl.program_id(1) * C + c_C
    tl.store(found_ptr + to, sum_C, mask=c_C < C)
    tl.store(found_ptr + D * C + to, along_C, mask=c_C < C)


@triton.jit
def _totals(found_ptr, var_ptr, dweight_ptr, dbias_ptr, C, D, eps, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr):
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d_D = tl.arange(0, BLOCK_D)
    ok = (d_D < D)[:, None] & (c_C < C)[None, :]
    at = d_D[:, None] * C + c_C[None, :]
    var_C = tl.load(var_ptr + c_C, mask=c_C < C, other=1.0).to(tl.float32)
    dbias_C = tl.sum(tl.load(found_ptr + at, mask=ok, other=0.0), axis=0)
    along_C = tl.sum(tl.load(found_ptr + D * C + at, mask=ok, other=0.0), axis=0)
    tl.store(dbias_ptr + c_C, dbias_C, mask=c_C < C)
    tl.store(dweight_ptr + c_C, along_C / tl.sqrt(var_C + eps), mask=c_C < C)


@triton.jit
def _slopes(
    grad_ptr, x_ptr, weight_ptr, mean_ptr, var_ptr, dweight_ptr, dbias_ptr, dx_ptr, M, C, eps, THROUGH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_C = c_C < C
    ok = (m_M < M)[:, None] & ok_C[None, :]
    at = m_M.to(tl.int64)[:, None] * C + c_C[None, :]
    rstd_C = 1 / tl.sqrt(tl.load(var_ptr + c_C, mask=ok_C, other=1.0).to(tl.float32) + eps)
    scale_C = tl.load(weight_ptr + c_C, mask=ok_C, other=0.0).to(tl.float32) * rstd_C
    slope_MC = tl.load(grad_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if THROUGH:
        total = tl.cast(M, tl.float32)
        mean_C = tl.load(mean_ptr + c_C, mask=ok_C, other=0.0).to(tl.float32)
        along_C = tl.load(dweight_ptr + c_C, mask=ok_C, other=0.0) * rstd_C / total
        shift_C = tl.load(dbias_ptr + c_C, mask=ok_C, other=0.0) / total
        x_MC = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
        slope_MC -= shift_C[None, :] + (x_MC - mean_C[None, :]) * along_C[None, :]
    tl.store(dx_ptr + at, (slope_MC * scale_C[None, :]).to(dx_ptr.dtype.element_ty), mask=ok)
