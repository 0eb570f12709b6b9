"""Replication by itself: what is sent, when, and in which memory format."""

import pytest
import torch

from fanlight.models import small
from fanlight.parallel.comm import alone
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import place, reduced_over_ranks

JOBS = "parallel.state_jobs:"
SUM_RTOL = 1e-6  # worst measured 2.0e-7: fp32 sums of at most 8 rows


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gradients_are_summed_once_and_in_the_last_microbatch(pool, ranks, channels_last):
    for answer in pool(ranks).run(f"{JOBS}replicated_gradients", channels_last=channels_last):
        assert answer["sent"] == [False, True]
        assert answer["differs between ranks"] == [True, False]
        assert answer["error"] < SUM_RTOL  # a mean over ranks would be wrong by half and more
        assert answer["formats"] == [True] * 4 and answer["channels last"] is channels_last


def test_one_rank_stays_a_plain_model():
    model = small.NAMES["small-resnet"](3, 8)
    kinds = [type(module) for module in model.modules()]
    placed = place(model, Layout(), alone(), channels_last=True)
    assert placed.stages == {0: model} and not placed.held
    assert reduced_over_ranks(placed, Layout(), alone(), number_format="fp32") == {}
    assert [type(module) for module in model.modules()] == kinds
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)
