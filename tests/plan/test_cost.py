"""Seconds of sending and waiting: closed formulas, by hand."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.parallel.link import SIZES
from fanlight.plan import cost
from fanlight.plan.cluster import Cluster, Device, Hop
from plan.made import machine

A, B = 1e-5, 1e9  # latency and bandwidth of a hop
ONE_NODE = Cluster("one", 1, 8, Device(), Hop(A, B), Hop(1e-4, 1e8))


def path(ranks: int) -> cost.Route:
    return cost.route(ONE_NODE, list(range(ranks)))


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ring_and_tree_are_their_formulas(ranks):
    size = 1e6
    assert cost.ring_s(size, path(ranks)) == pytest.approx(2 * (ranks - 1) * (A + size / ranks / B))
    assert cost.tree_s(size, path(ranks)) == pytest.approx(2 * (ranks - 1) * A + 2 * size / B), "a chain inside a node"
    assert cost.gather_s(size, path(ranks)) == pytest.approx((ranks - 1) * (A + size / ranks / B))
    assert cost.broadcast_s(size, path(ranks)) == pytest.approx(math.ceil(math.log2(ranks)) * A + size / B)


def test_an_all_reduce_is_a_scatter_and_a_gather():
    assert cost.ring_s(3e7, path(8)) == pytest.approx(2 * cost.gather_s(3e7, path(8)))


def test_few_bytes_take_the_tree_and_many_the_ring_where_there_are_both():
    """Of eight nodes of two GPUs: a chain of one hop inside each, three hops down the tree of nodes."""
    across = cost.route(Cluster("gpus", 8, 2, Device("cuda"), Hop(A, B), Hop(1e-4, 1e8)), list(range(16)))
    assert cost.tree_s(64, across) == pytest.approx(2 * (A + 3e-4) + 2 * 64 / 1e8)
    assert cost.all_reduce_s(64, across) == cost.tree_s(64, across) < cost.ring_s(64, across)
    assert cost.all_reduce_s(1e8, across) == cost.ring_s(1e8, across) < cost.tree_s(1e8, across)
    on_cpus = cost.route(Cluster("cpus", 8, 2, Device("cpu"), Hop(A, B), Hop(1e-4, 1e8)), list(range(16)))
    assert cost.all_reduce_s(64, on_cpus) == cost.ring_s(64, on_cpus), "gloo knows the ring alone"


def test_alone_nothing_is_sent():
    for what in (cost.ring_s, cost.tree_s, cost.all_reduce_s, cost.gather_s, cost.broadcast_s):
        assert what(1e9, path(1)) == 0


def test_between_nodes_the_slowest_hop_decides():
    two = Cluster("two", 2, 4, Device(), Hop(A, B), Hop(1e-4, 1e8))
    across = cost.route(two, list(range(8)))
    assert across.nodes == 2 and across.bytes_per_s == 1e8
    assert across.round_s == pytest.approx(5 * A + 2e-4), "the piece that leaves out a hop inside a node arrives last"
    one_each = cost.route(two, [0, 4], sharing=4)  # as three other groups do at the same time
    assert one_each.bytes_per_s == pytest.approx(1e8 / 4)
    assert cost.send_s(1e6, one_each) == pytest.approx(1e-4 + 4e-2)


@given(st.integers(2, 512), st.floats(1e-6, 1e-2), st.floats(1e6, 1e11), st.floats(0, 1e9))
def test_a_measured_all_reduce_is_foretold_as_it_was_measured(ranks, latency_s, bytes_per_s, size):
    hop = cost.hop_of(latency_s, bytes_per_s, ranks=ranks)
    route = cost.Route(ranks, 1, hop, hop)
    assert cost.all_reduce_s(size, route) == pytest.approx(latency_s + size / bytes_per_s)


@given(
    kind=st.sampled_from(["cpu", "cuda"]), ranks=st.integers(2, 64), overhead_s=st.floats(0, 1e-3), latency_s=st.floats(0, 1e-2),
    bytes_per_s=st.floats(1e6, 1e12), size=st.floats(64, 1e9),
)  # fmt: skip
def test_what_all_reduces_take_is_foretold_of_any_size_by_those_that_were_measured(
    kind, ranks, overhead_s, latency_s, bytes_per_s, size
):
    truth = machine(devices=ranks, latency_s=latency_s, bytes_per_s=bytes_per_s, kind=kind, overhead_s=overhead_s)
    path = cost.route(truth, list(range(ranks)))
    told = cost.collective({each: cost.all_reduce_s(each, path) for each in SIZES}, cost.gather_s(4 * ranks, path))
    hop = cost.hop_of(*told[1:], ranks=ranks)
    again = cost.route(replace(truth, within=hop, between=hop, overhead_s=told[0]), list(range(ranks)))
    assert cost.all_reduce_s(size, again) == pytest.approx(cost.all_reduce_s(size, path), rel=1e-6, abs=2e-9)


@given(
    ranks=st.integers(2, 64), kind=st.sampled_from(["cpu", "cuda"]), small_s=st.floats(1e-6, 1e-2),
    times=st.floats(1.0, SIZES[-1] / SIZES[0]), gather_s=st.floats(0, 1e-2),
)  # fmt: skip
def test_the_smallest_and_the_largest_that_were_measured_are_foretold_exactly(ranks, kind, small_s, times, gather_s):
    """Whatever the gather's noise, and whatever lies between them."""
    measured = {SIZES[0]: small_s, 256 << 10: 0.5 * small_s, SIZES[-1]: times * small_s}
    overhead_s, *line = cost.collective(measured, gather_s)
    hop = cost.hop_of(*line, ranks=ranks)
    found = machine(devices=ranks, kind=kind, overhead_s=overhead_s)
    path = cost.route(replace(found, within=hop, between=hop), list(range(ranks)))
    for size in (SIZES[0], SIZES[-1]):
        assert cost.all_reduce_s(size, path) == pytest.approx(measured[size], rel=1e-6, abs=2e-9)


@pytest.mark.parametrize(
    ("ranks", "value"), [(1, 0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi)), (10, 1.538753)]
)
def test_the_expected_largest_draw_is_the_known_one(ranks, value):
    """Order statistics of the normal distribution: Harter 1961."""
    assert cost.largest(ranks) == pytest.approx(value, abs=1e-5)


def test_the_expected_largest_is_what_draws_give():
    draws = np.random.default_rng(0).standard_normal((4000, 64)).max(1)
    assert cost.largest(64) == pytest.approx(float(draws.mean()), abs=4 * float(draws.std()) / math.sqrt(4000))
    assert cost.slowest(0.05, 64) == pytest.approx(1 + 0.05 * float(draws.mean()), rel=1e-3)


@given(st.floats(0, 1), st.floats(1e-5, 1), st.integers(1, 64), st.integers(1, 64))
def test_two_points_give_their_line_back(fixed_s, row_s, few, more):
    line = cost.through((few, few + more), (fixed_s + few * row_s, fixed_s + (few + more) * row_s))
    assert line.at(100) == pytest.approx(fixed_s + 100 * row_s, rel=1e-6, abs=1e-9)


def test_noise_makes_no_line_that_falls_or_begins_below_nothing():
    assert cost.through((4, 8), (1.0, 0.8)).row_s == 0
    steep = cost.through((4, 8), (1.0, 3.0))
    assert steep.fixed_s == 0 and steep.at(8) == pytest.approx(3.0)


def test_busy_neighbours_slow_each_other():
    shared = Cluster("c", 1, 8, Device(), Hop(A, B), Hop(A, B), contention=0.04)
    assert [cost.contended(shared, busy) for busy in (0.5, 1, 2, 8)] == pytest.approx([1, 1, 1.04, 1.28])


def test_more_ranks_than_cores_take_turns():
    crowded = Cluster("c", 1, 8, Device(), Hop(A, B), Hop(A, B), contention=0.04, cores=2)
    assert [cost.contended(crowded, busy) for busy in (1, 2, 3, 8)] == pytest.approx([1, 1.04, 1.04 * 1.5, 1.04 * 4])


def test_the_bubble_is_the_published_one():
    assert cost.bubble(4, 8) == pytest.approx(3 / 11)
    assert cost.bubble(4, 8, stages_per_rank=2) == pytest.approx(3 / 19)
    assert cost.bubble(1, 5) == 0
    assert statistics.fmean([cost.bubble(8, 32)]) < 0.2
