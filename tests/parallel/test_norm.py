"""Synchronised norms: any number of ranks computes what torch's own norm computes over the whole batch."""

from typing import Any

import pytest
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.parallel.norm import synchronise

JOBS = "parallel.norm_jobs:"
RANKS = [1, 2, 3, 4]
# Worst relative distances from float64 over all cases below; sums are formed in another order, no more.
FP64_RTOL = 1e-14  # worst measured 1.2e-15
FP32_RTOL = 4e-6  # worst measured 8.1e-7, torch's own 7.5e-7
BF16_RTOL = 8e-3  # outputs and input gradients are rounded to 8 bits; worst measured 4.4e-3, torch's own 1.9e-3
BF16_SUM_RTOL = 5e-3  # 220 values by channel; worst measured 1.7e-3, torch's own 1.6e-3
FAR_FACTOR = 8.0  # 10,000 spreads from 0, against torch's own error there; worst measured 2.7
FAR_FLOOR = 1e-6  # added, where torch happens to be exact to the last digit
FAR_VAR_RTOL = 1e-3  # there ranks' means differ by little more than their fp32 digits; worst measured 1.7e-4

IMAGES = {"kind": "BatchNorm2d", "shape": [11, 6, 5, 4]}  # 11 rows divide over no number of ranks but 1
CASES: dict[str, dict[str, Any]] = {
    "contiguous": IMAGES,
    "channels last": IMAGES | {"channels_last": True},
    "cumulative": IMAGES | {"momentum": None},
    "no weights": IMAGES | {"affine": False},
    "no statistics": IMAGES | {"track_running_stats": False},
    "no statistics, cumulative": IMAGES | {"track_running_stats": False, "momentum": None},
    "vectors": {"kind": "BatchNorm1d", "shape": [11, 6]},
    "sequences": {"kind": "BatchNorm1d", "shape": [11, 6, 7]},
    "volumes": {"kind": "BatchNorm3d", "shape": [11, 6, 2, 3, 2]},
}


def worst(by_rank: list[dict[str, list[float]]]) -> dict[str, tuple[float, float]]:
    """By quantity, the worst rank's distances: ours, torch's."""
    return {name: tuple(max(errors[name][i] for errors in by_rank) for i in (0, 1)) for name in by_rank[0]}


def tolerance(name: str, dtype: str) -> float:
    if name == "num_batches_tracked":
        return 0.0
    by_value = {
        "output",
        "input gradient",
        "input gradient sum",
        "evaluation",
    }  # kept in the input's format; all else is in fp32 for bf16
    return {"fp64": FP64_RTOL, "fp32": FP32_RTOL, "bf16": BF16_RTOL if name in by_value else FP32_RTOL}[dtype]


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_equal_the_whole_batch(pool, tmp_path, ranks, case, dtype):
    by_rank = pool(ranks).run(f"{JOBS}norm_errors", folder=str(tmp_path), dtype=dtype, **CASES[case])
    found = worst(by_rank)
    expected = {"output", "input gradient", "input gradient sum", "evaluation"}
    if case != "no weights":
        expected |= {"weight gradient", "bias gradient"}
    if not case.startswith("no statistics"):
        expected |= {"running_mean", "running_var", "num_batches_tracked"}
    assert found.keys() == expected
    assert {name: ours for name, (ours, _) in found.items() if ours > tolerance(name, dtype)} == {}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_timms_norm_with_activation_equals_the_whole_batch(pool, tmp_path, dtype, channels_last):
    case = {"kind": "BatchNormAct2d", "shape": [11, 6, 5, 4], "channels_last": channels_last}
    found = worst(pool(3).run(f"{JOBS}norm_errors", folder=str(tmp_path), dtype=dtype, **case))
    most = FP32_RTOL if dtype == "fp32" else BF16_RTOL  # of everything: the activation's gradient is rounded before
    assert {name: ours for name, (ours, _) in found.items() if ours > most} == {}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("ranks", RANKS)
def test_values_far_from_zero_lose_little_more_than_in_torch(pool, tmp_path, ranks, channels_last):
    """E[x²] − E[x]² would be wrong by several times the variance. momentum 1: the buffers are the batch's statistics."""
    far = {"mean": 1e4, "std": 1.0, "momentum": 1.0, "channels_last": channels_last, "dtype": "fp32"}
    found = worst(pool(ranks).run(f"{JOBS}norm_errors", folder=str(tmp_path), **IMAGES | far))
    assert found.pop("running_var")[0] < FAR_VAR_RTOL
    assert {name: both for name, both in found.items() if both[0] > FAR_FACTOR * both[1] + FAR_FLOOR} == {}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("ranks", RANKS)
def test_input_gradients_in_bf16_sum_to_nothing(pool, tmp_path, ranks, channels_last):
    """Exactly, they sum to 0 by channel. A constant that is rounded adds up over all pixels, and convolutions see it."""
    off = {"mean": 30.0, "dtype": "bf16", "channels_last": channels_last}
    found = worst(pool(ranks).run(f"{JOBS}norm_errors", folder=str(tmp_path), **IMAGES | off))
    assert found["input gradient sum"][0] < BF16_SUM_RTOL


@pytest.mark.parametrize("ranks", RANKS)
def test_frozen_norms_keep_their_statistics_and_others_move_theirs(pool, tmp_path, ranks):
    def moved(index: int) -> list[str]:
        return [f"{index}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]

    for frozen, expected in (True, moved(3)), (False, [*moved(1), *moved(3)]):
        answers = pool(ranks).run(f"{JOBS}network_after_synchronise", folder=str(tmp_path), frozen=frozen)
        answer = {"count": [2, 0], "moved": expected, "first norm by its buffers": frozen}
        assert answers == [answer] * ranks


def test_unknown_norms_are_refused_by_name(pool, tmp_path):
    message = r"norm '1\.0' of class MyNorm cannot be synchronised over ranks; train it with --ranks 1"
    with pytest.raises(ConfigError, match=message):
        pool(2).run(f"{JOBS}synchronise_unknown", folder=str(tmp_path))


def test_evaluation_needs_no_other_rank():
    """In evaluation ranks see different numbers of batches: an exchange would hang. Here it would fail, without ranks."""
    x = torch.randn(4, 3, 2, 2)
    for tracked in (True, False):
        plain, ours = (nn.BatchNorm2d(3, track_running_stats=tracked).eval() for _ in range(2))
        assert synchronise(ours, group=None) == 1  # type: ignore[arg-type]
        assert torch.equal(ours(x), plain(x))
