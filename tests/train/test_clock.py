"""Where a step's time went: the parts are disjoint, and lie within the step."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fanlight.train import clock as clocks
from fanlight.train.clock import PARTS, StepClock

CPU = torch.device("cpu")
ROUNDING_S = 1e-9


@pytest.fixture
def now(monkeypatch):
    """now[0] is the time."""
    time_s = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: time_s[0])
    return time_s


def advance(now: list[float], seconds: float) -> None:
    now[0] += seconds


def test_each_second_goes_to_the_part_that_it_ends(now):
    clock = StepClock(CPU)
    clock.begin()
    advance(now, 1)
    clock.arrived()
    for _ in range(2):  # microbatches add up
        for name, seconds in ("copy", 2), ("forward", 3), ("backward", 4):
            advance(now, seconds)
            clock.mark(name)
    advance(now, 5)
    clock.mark("optimizer")
    advance(now, 6)
    clock.end(step=7, epoch=2, images=13)
    assert clock.finish() == [
        {"step": 7, "epoch": 2, "images": 13, "input_s": 1, "total_s": 30, "copy_s": 4, "forward_s": 6,
         "backward_s": 8, "communication_s": 0, "optimizer_s": 5}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "was_split", "backward_s"), [(101.5, True, 1.5), (99.0, False, 0), (100.0, False, 0), (100.1, True, 0.1)]
)
def test_a_segment_is_split_in_the_past_only_within_itself(now, at, was_split, backward_s):
    clock = StepClock(CPU)
    clock.begin()
    clock.arrived()
    advance(now, 4)
    assert clock.split("backward", at=at) is was_split
    clock.mark("communication")
    clock.end(step=1)
    row = clock.finish()[0]
    assert row["backward_s"] == pytest.approx(backward_s, abs=ROUNDING_S)
    assert row["communication_s"] == pytest.approx(4 - backward_s, abs=ROUNDING_S)


@given(
    st.lists(
        st.tuples(st.sampled_from(PARTS[1:]), st.floats(0, 10), st.floats(-20, 1)), max_size=12
    ),
    st.floats(0, 10),
)  # fmt: skip
def test_parts_never_add_up_to_more_than_the_step(marks, input_s):
    time_s = [50.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: time_s[0])
        clock = StepClock(CPU)
        clock.begin()
        time_s[0] += input_s
        clock.arrived()
        for name, seconds, bucket in marks:
            time_s[0] += seconds
            clock.split("backward", at=min(time_s[0], time_s[0] - seconds * bucket))
            clock.mark(name)
        clock.end(step=1)
        row = clock.finish()[0]
    assert all(row[f"{part}_s"] >= 0 for part in PARTS)
    assert sum(row[f"{part}_s"] for part in PARTS) == pytest.approx(row["total_s"], abs=ROUNDING_S * 100)


def test_a_resumed_run_keeps_the_rows_before_it(now, tmp_path):
    path = tmp_path / "steps.parquet"

    def save(steps: list[int], *, before: int, images: int) -> None:
        clock = StepClock(CPU)
        for step in steps:
            clock.begin()
            clock.arrived()
            clock.end(step=step, epoch=0, images=images)
        clock.save(path, before=before)

    save([1, 2, 3, 4], before=1, images=8)
    save([3, 4, 5], before=3, images=9)
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    assert [(row["step"], row["images"]) for row in rows] == [(1, 8), (2, 8), (3, 9), (4, 9), (5, 9)]
    assert [item.name for item in tmp_path.iterdir()] == ["steps.parquet"]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([0] * 3 + [1] * 3 + [2], [3, 4, 5, 6]),  # later epochs
        ([0] * 8, [5, 6, 7]),  # after five steps
        ([3] * 2, [0, 1]),  # all there is
        ([], []),
    ],
)
def test_steady_leaves_the_warmup_out(epochs, expected):
    rows = [{"epoch": float(epoch), "step": float(step)} for step, epoch in enumerate(epochs)]
    assert [row["step"] for row in clocks.steady(rows)] == expected
