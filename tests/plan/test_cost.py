"""Seconds of sending and waiting: closed formulas, by hand."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.plan import cost
from fanlight.plan.cluster import Cluster, Device, Hop

A, B = 1e-5, 1e9  # latency and bandwidth of a hop
ONE_NODE = Cluster("one", 1, 8, Device(), Hop(A, B), Hop(1e-4, 1e8))


def path(ranks: int) -> cost.Route:
    return cost.route(ONE_NODE, list(range(ranks)))


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ring_and_tree_are_their_formulas(ranks):
    size = 1e6
    assert cost.ring_s(size, path(ranks)) == pytest.approx(2 * (ranks - 1) * (A + size / ranks / B))
    assert cost.tree_s(size, path(ranks)) == pytest.approx(2 * math.ceil(math.log2(ranks)) * A + 2 * size / B)
    assert cost.gather_s(size, path(ranks)) == pytest.approx((ranks - 1) * (A + size / ranks / B))
    assert cost.broadcast_s(size, path(ranks)) == pytest.approx(math.ceil(math.log2(ranks)) * A + size / B)


def test_an_all_reduce_is_a_scatter_and_a_gather():
    assert cost.ring_s(3e7, path(8)) == pytest.approx(2 * cost.gather_s(3e7, path(8)))


def test_few_bytes_take_the_tree_and_many_the_ring_where_the_library_has_both():
    gpus = cost.route(replace(ONE_NODE, device=Device("cuda")), list(range(8)))
    assert cost.all_reduce_s(64, gpus) == cost.tree_s(64, gpus) < cost.ring_s(64, gpus)
    assert cost.all_reduce_s(1e8, gpus) == cost.ring_s(1e8, gpus) < cost.tree_s(1e8, gpus)
    assert cost.all_reduce_s(64, path(8)) == cost.ring_s(64, path(8)), "gloo's is a ring, however few the bytes"


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
    route = cost.Route(ranks, 1, hop, hop, has_trees=False)
    assert cost.all_reduce_s(size, route) == pytest.approx(latency_s + size / bytes_per_s)


@given(st.integers(2, 512), st.floats(1e-6, 1e-2), st.floats(1e6, 1e11), st.floats(0, 1e9))
def test_a_measured_all_reduce_with_trees_is_foretold_at_its_ends(ranks, latency_s, bytes_per_s, size):
    """No bytes take what was measured of few; many take as much for each further one. Between, it is less than the sum."""
    hop = cost.hop_of(latency_s, bytes_per_s, ranks=ranks, has_trees=True)
    route = cost.Route(ranks, 1, hop, hop)
    assert cost.all_reduce_s(0, route) == pytest.approx(latency_s)
    assert cost.ring_s(2e9, route) - cost.ring_s(1e9, route) == pytest.approx(1e9 / bytes_per_s)
    assert cost.all_reduce_s(size, route) <= cost.ring_s(size, route)


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
