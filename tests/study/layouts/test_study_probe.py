"""What a probe's blocks are made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.config import Augment
from fanlight.data.loader import Cutting
from fanlight.study.layouts import probe
from fanlight.study.layouts.spent import Spent, typical


def cutting(batch: int, *, microbatches: int = 1, ranks: int = 1, mixup: float = 0.0) -> Cutting:
    return Cutting(
        batch=batch, microbatches=microbatches, rank=0, ranks=ranks, image_px=16, seed=0, flip=False, crop_share=(1.0, 1.0),
        crop_ratio=(1.0, 1.0), eval_share=1.0, augment=Augment(mixup=mixup),
    )  # fmt: skip


@given(batch=st.integers(2, 300), microbatches=st.integers(1, 8), ranks=st.integers(1, 8), mixed=st.booleans())
def test_another_batch_is_far_enough_away_and_leaves_every_rank_rows(batch, microbatches, ranks, mixed):
    unit = 2 if mixed else 1
    batch *= unit
    found = probe._fewer(cutting(batch, microbatches=microbatches, ranks=ranks, mixup=0.2 * mixed))
    assert found >= 2 * batch or found <= batch / 2
    assert found % unit == 0
    if found < batch:
        assert found >= microbatches * ranks * unit


@pytest.mark.parametrize(
    ("times", "period", "expected"),
    [
        ([1.0] * 8, 1, 1.0),
        ([1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1, 1.0),  # one slow step moves no median
        ([1.0, 1.0, 3.0] * 4, 3, 5 / 3),  # a slow step in each period is no exception
        ([2.0, 4.0], 1, 3.0),  # fewer than a group
        ([1.0, 1.0, 1.0, 1.0, 1.0, 7.0], 1, 2.0),  # more than one and fewer than two: all of them
        ([1.0] * 5 + [9.0, 9.0, 9.0], 1, (1.0 + 7.0) / 2),
        ([1.0, 3.0] * 5 + [1.0], 2, 2.0),  # half a period is left out
    ],
)
def test_a_typical_step(times, period, expected):
    assert typical(times, period=period) == pytest.approx(expected)


def test_what_a_process_uses_is_counted():
    before = Spent.now()
    assert sum(number * number for number in range(300_000)) > 0
    used = Spent.now() - before
    assert used.cpu_s > 0.001 and used.queued_s >= 0
