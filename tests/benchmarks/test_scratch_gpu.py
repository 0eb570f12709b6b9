"""The benchmark of kernels, as far as no GPU is needed: PyTorch computes what it is compared with, and tables say what is."""

import numpy as np
import pytest
import torch

import scratch_gpu
from fanlight.kernels import rows
from fanlight.scratch.operators import NUMPY

IN_TORCH = [row for row in {row.operator: row for row in rows.KERNELS}.values() if row.operator not in (
    "max_pool2d_backward", "avg_pool2d_backward", "batch_norm_backward", "batch_norm_fixed_backward", "dropout",
    "dropout_keyed", "cross_entropy_backward", "sgd", "adamw")]  # fmt: skip


@pytest.mark.parametrize("row", IN_TORCH, ids=lambda row: row.operator)
@pytest.mark.parametrize("layout", scratch_gpu.LAYOUTS.values())
def test_pytorch_computes_the_same(row, layout):
    case = next(case for case in row.odd if "primes" in case.name)
    args, options = rows.inputs(row.operator, case, scratch_gpu.Draw(torch.float64, "cpu"))
    work = scratch_gpu.in_torch(row.operator, scratch_gpu.placed(args, layout), options)
    arrays = [each.numpy() if isinstance(each, torch.Tensor) else each for each in args]
    if row.operator == "conv2d_pooled":
        wanted = NUMPY.max_pool2d(NUMPY.conv2d(*arrays, relu=True, **options), 2)
    else:
        wanted = getattr(NUMPY, row.operator)(*arrays, **options)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    np.testing.assert_allclose(work().numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_the_others_are_timed_alone():
    left = {row.operator for row in rows.KERNELS} - {row.operator for row in IN_TORCH}
    for row in (row for row in rows.KERNELS if row.operator in left):
        args, options = rows.inputs(row.operator, row.odd[0], scratch_gpu.Draw(torch.float32, "cpu"))
        assert scratch_gpu.in_torch(row.operator, args, options) is None


def test_tables_tell_how_far_from_the_limit_and_from_pytorch():
    took = {"PyTorch": [2e-3] * 3, "PyTorch, channels last": [1e-3] * 3, "fused": [2e-3, 2e-3, 2e-3]}
    off = {"PyTorch": 0.0, "PyTorch, channels last": 1e-7, "fused": 2e-6}
    found = []
    for case, factor in zip(rows.RESNET[:2], (1, 4)):
        slower = took | {"fused": [factor * 2e-3] * 3}
        found += [scratch_gpu._row("conv2d", case, "bf16", version, slower, off, 5e-4) for version in took]
    text = scratch_gpu.markdown({
        "rows": found, "left_out": ["relu, 51 million, bf16"], "limits": {"bf16": {"bytes_per_s": 3e12, "flop_per_s": 6e14}}
    })  # fmt: skip
    assert "| conv2d | first | bf16 | fused | 2.000 | 2.000 … 2.000 | 3 | 25% | 0.50 | 2e-06 |" in text
    assert "| conv2d | bf16 | fused | 0.25 | 2 |" in text  # √(1/2 · 1/8)
    assert (
        "a copy 3000 GB/s, a product 600 Tflop/s" in text
        and "Left out, as time was up: relu, 51 million, bf16." in text
    )
