"""Orders of pipelines: every action once, where its stage lies, after what it needs, gradients in serial order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.parallel.schedule import Action, Orders, makespan, orders

sizes = st.tuples(
    st.sampled_from(["sequential", "gpipe", "1f1b", "interleaved"]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 11),
)


def made(size) -> Orders:
    name, ranks, each, microbatches = size
    each = max(2, each) if name == "interleaved" else 1
    return orders(name, ranks=ranks, stages_per_rank=each, microbatches=microbatches)


@given(sizes)
def test_every_stage_does_every_microbatch_once_each_way_on_its_own_rank(size):
    found = made(size)
    for rank, order in enumerate(found.by_rank):
        own = [stage for stage in range(found.stages) if stage % found.ranks == rank]
        assert sorted(order) == sorted(
            Action(way, stage, m) for way in (True, False) for stage in own for m in range(found.microbatches)
        )


@given(sizes)
def test_gradients_of_a_stage_are_summed_in_the_order_of_the_serial_run(size):
    found = made(size)
    for order in found.by_rank:
        for stage in {action.stage for action in order}:
            own = [action.microbatch for action in order if not action.is_forward and action.stage == stage]
            assert own == list(range(found.microbatches))


@given(sizes, st.floats(0.1, 5), st.floats(0.1, 5))
def test_no_rank_waits_for_ever_whatever_stages_cost(size, forward, backward):
    found = made(size)
    costs = [forward * (1 + stage % 3) for stage in range(found.stages)], [backward] * found.stages
    took = makespan(found, forward_s=costs[0], backward_s=costs[1], send_s=0.01)
    busy = [sum((costs[0] if a.is_forward else costs[1])[a.stage] for a in order) for order in found.by_rank]
    assert took >= max(busy) - 1e-9


@given(st.sampled_from(["gpipe", "1f1b"]), st.integers(1, 6), st.integers(1, 12))
def test_the_bubble_of_equal_stages(name, ranks, microbatches):
    found = orders(name, ranks=ranks, stages_per_rank=1, microbatches=microbatches)
    took = makespan(found, forward_s=[1.0] * ranks, backward_s=[2.0] * ranks)
    assert took == pytest.approx(3.0 * (microbatches + ranks - 1))


@given(st.integers(2, 5), st.integers(2, 4), st.integers(1, 4))
def test_interleaving_divides_the_bubble_by_the_stages_of_a_rank(ranks, each, groups):
    microbatches = ranks * groups
    found = orders("interleaved", ranks=ranks, stages_per_rank=each, microbatches=microbatches)
    stages = ranks * each
    took = makespan(found, forward_s=[1.0 / each] * stages, backward_s=[2.0 / each] * stages)
    assert took - 3.0 * microbatches <= 3.0 * (ranks - 1) / each + 1e-9  # Narayanan et al. 2021, section 2.2.2


@given(st.integers(1, 6), st.integers(1, 12))
def test_1f1b_keeps_no_more_in_flight_than_ranks_that_follow(ranks, microbatches):
    found = orders("1f1b", ranks=ranks, stages_per_rank=1, microbatches=microbatches)
    assert [found.in_flight(rank) for rank in range(ranks)] == [min(microbatches, ranks - r) for r in range(ranks)]
    every = orders("gpipe", ranks=ranks, stages_per_rank=1, microbatches=microbatches)
    assert {every.in_flight(rank) for rank in range(ranks)} == {microbatches}


@given(sizes)
def test_channels_carry_every_message_between_neighbours_once(size):
    found = made(size)
    pairs = [(a, b) for a in range(found.ranks) for b in range(found.ranks)]
    sent = [action for a, b in pairs for way in (True, False) for action in found.channel(a, b, is_forward=way)]
    assert len(sent) == len(set(sent)) == 2 * (found.stages - 1) * found.microbatches


def test_a_schedule_that_waits_for_itself_is_an_error():
    wrong = Orders(1, 1, 1, ((Action(False, 0, 0), Action(True, 0, 0)),))
    with pytest.raises(ValueError, match="waits for itself"):
        makespan(wrong, forward_s=[1.0], backward_s=[1.0])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(
        ConfigError, match=r"execution\.pipeline_schedule is 'zb'; use one of sequential, gpipe, 1f1b, interleaved"
    ):
        orders("zb", ranks=2, stages_per_rank=1, microbatches=4)
