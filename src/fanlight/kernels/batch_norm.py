"""Batch norm of rows × channels. M = N·H·W rows, C channels, D parts of the rows, which run side by side.

Statistics are merged, block by block and then part by part, from (count, mean, squares around it) as Chan et al. 1979: one
pass over the input, and none of the digits that Σx² − M·mean² loses. They are float32, whatever the input is.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.column_sum import part_of, parts, rows
from fanlight.kernels.launch import given
from fanlight.kernels.tiles import BLOCK_C, BLOCK_M, of_channels, own_tile, read, tile, write

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
    """Of a part: mean, and squares around it."""
    begin, end = part_of(M, rows_of_part)
    mean_C, squares_C = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    for start in range(begin, end, BLOCK_M):
        _, _, ok, at = tile(start, end, tl.program_id(0) * BLOCK_C, C, BLOCK_M, BLOCK_C)
        x_MC = read(x_ptr, at, ok)
        before = tl.cast(start - begin, tl.float32)
        more = tl.cast(tl.minimum(end - start, BLOCK_M), tl.float32)
        own_C = tl.sum(x_MC, axis=0) / more
        off_MC = tl.where(ok, x_MC - own_C[None, :], 0.0)
        step_C = own_C - mean_C
        squares_C += tl.sum(off_MC * off_MC, axis=0) + step_C * step_C * (before * more / (before + more))
        mean_C += step_C * (more / (before + more))
    _keep(found_ptr, mean_C, squares_C, C, D, BLOCK_C)


@triton.jit
def _products(
    grad_ptr, x_ptr, mean_ptr, found_ptr, M, C, D, rows_of_part, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Of a part: Σ grad and Σ grad · (x − mean)."""
    begin, end = part_of(M, rows_of_part)
    mean_C = of_channels(mean_ptr, tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C), C, 0.0)
    sum_C, along_C = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    for start in range(begin, end, BLOCK_M):
        _, _, ok, at = tile(start, end, tl.program_id(0) * BLOCK_C, C, BLOCK_M, BLOCK_C)
        grad_MC = read(grad_ptr, at, ok)
        sum_C += tl.sum(grad_MC, axis=0)
        along_C += tl.sum(grad_MC * (read(x_ptr, at, ok) - mean_C[None, :]), axis=0)
    _keep(found_ptr, sum_C, along_C, C, D, BLOCK_C)


@triton.jit
def _keep(found_ptr, first_C, second_C, C, D, BLOCK_C: tl.constexpr):
    """What a part has found, [2, D, C]."""
    c_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    to = tl.program_id(1) * C + c_C
    tl.store(found_ptr + to, first_C, mask=c_C < C)
    tl.store(found_ptr + D * C + to, second_C, mask=c_C < C)


@triton.jit
def _merge(found_ptr, mean_ptr, var_ptr, M, C, D, rows_of_part, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr):
    d_D, c_C, ok, at = tile(0, D, tl.program_id(0) * BLOCK_C, C, BLOCK_D, BLOCK_C)
    mean_DC, squares_DC = read(found_ptr, at, ok), read(found_ptr, D * C + at, ok)
    count_D = tl.maximum(tl.minimum(M - d_D * rows_of_part, rows_of_part), 0).to(tl.float32)
    count_D = tl.where(d_D < D, count_D, 0.0)[:, None]
    total = tl.cast(M, tl.float32)
    mean_C = tl.sum(mean_DC * count_D, axis=0) / total
    off_DC = mean_DC - mean_C[None, :]
    write(mean_ptr, c_C, mean_C, c_C < C)
    write(var_ptr, c_C, tl.sum(squares_DC + count_D * off_DC * off_DC, axis=0) / total, c_C < C)


@triton.jit
def _totals(found_ptr, var_ptr, dweight_ptr, dbias_ptr, C, D, eps, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr):
    _, c_C, ok, at = tile(0, D, tl.program_id(0) * BLOCK_C, C, BLOCK_D, BLOCK_C)
    along_C = tl.sum(read(found_ptr, D * C + at, ok), axis=0)
    write(dbias_ptr, c_C, tl.sum(read(found_ptr, at, ok), axis=0), c_C < C)
    write(dweight_ptr, c_C, along_C / tl.sqrt(of_channels(var_ptr, c_C, C, 1.0) + eps), c_C < C)


@triton.jit
def _normalise(
    x_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, y_ptr, M, C, eps, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    _, c_C, ok, at = own_tile(M, C, BLOCK_M, BLOCK_C)
    scale_C = of_channels(weight_ptr, c_C, C, 0.0) / tl.sqrt(of_channels(var_ptr, c_C, C, 1.0) + eps)
    mean_C, bias_C = of_channels(mean_ptr, c_C, C, 0.0), of_channels(bias_ptr, c_C, C, 0.0)
    write(y_ptr, at, (read(x_ptr, at, ok) - mean_C[None, :]) * scale_C[None, :] + bias_C[None, :], ok)


@triton.jit
def _slopes(
    grad_ptr, x_ptr, weight_ptr, mean_ptr, var_ptr, dweight_ptr, dbias_ptr, dx_ptr, M, C, eps, THROUGH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    _, c_C, ok, at = own_tile(M, C, BLOCK_M, BLOCK_C)
    rstd_C = 1 / tl.sqrt(of_channels(var_ptr, c_C, C, 1.0) + eps)
    scale_C = of_channels(weight_ptr, c_C, C, 0.0) * rstd_C
    slope_MC = read(grad_ptr, at, ok)
    if THROUGH:
        total = tl.cast(M, tl.float32)
        along_C = of_channels(dweight_ptr, c_C, C, 0.0) * rstd_C / total
        shift_C = of_channels(dbias_ptr, c_C, C, 0.0) / total
        off_MC = read(x_ptr, at, ok) - of_channels(mean_ptr, c_C, C, 0.0)[None, :]
        slope_MC -= shift_C[None, :] + off_MC * along_C[None, :]
    write(dx_ptr, at, slope_MC * scale_C[None, :], ok)
