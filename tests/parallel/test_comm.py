"""A World's methods on real ranks, and on the one rank of a serial run, where they must mean the same."""

import pytest

from fanlight.errors import ConfigError
from fanlight.parallel.comm import join

RANKS = [1, 2, 3, 4]


@pytest.mark.parametrize("ranks", RANKS)
def test_sums_reach_every_rank(pool, ranks):
    assert pool(ranks).run("parallel.jobs:rank_sum") == [[ranks, sum(range(ranks))]] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_gradient_and_norm_groups_hold_all_ranks(pool, ranks):
    total = sum(range(ranks)) * ranks if ranks > 1 else 0
    assert pool(ranks).run("parallel.jobs:device_sum") == [total] * ranks


@pytest.mark.parametrize("counts", [[3], [2, 0], [0, 5, 1], [0, 0, 0], [1, 2, 3, 4]])
def test_rows_are_gathered_in_rank_order_however_many_each_rank_holds(pool, counts):
    rows = [[rank, row] for rank, count in enumerate(counts) for row in range(count)]
    others = [None] * (len(counts) - 1)
    assert pool(len(counts)).run("parallel.jobs:gather_rows", counts=counts) == [["int32", rows], *others]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("flagged", [[], [0], [3]])
def test_any_is_true_everywhere_when_true_somewhere(pool, ranks, flagged):
    expected = any(rank < ranks for rank in flagged)
    assert pool(ranks).run("parallel.jobs:any_rank", flagged=flagged) == [expected] * ranks


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(ConfigError, match="GPUs are visible; use --ranks"):
        join(rank=0, ranks=999, local_rank=0, local_ranks=999, device="cuda", init_method="file:///nowhere")
