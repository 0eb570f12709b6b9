"""Seconds of what a step does: computing, sending, waiting for the slowest. Arithmetic only; imports no torch.

n ranks of a group on k nodes, S bytes, α latency and β bandwidth of a hop (cluster.py).

ring all-reduce   2(n−1)α + 2(n−1)/n · S/β                 Patarasuk and Yuan 2009; Thakur et al. 2005
tree all-reduce   2(n/k−1)α + 2⌈log₂k⌉α' + 2S/β             a pipelined binary tree of nodes, a chain inside each
all-gather, reduce-scatter (ring)   (n−1)α + (n−1)/n · S/β
reduce-scatter (gloo)   as an all-reduce: measured it takes as long, or longer
broadcast         ⌈log₂n⌉α + S/β
message           α + S/β

A ring over several nodes runs at the pace of its slowest hop: the latencies of all its hops add up, the bandwidth is the
least of them. gloo, on CPUs, sends all-reduces around a ring whatever their size; nccl, on GPUs, takes the tree where that is
faster, which is never so inside one node. What is measured on one node is therefore a ring's, and is taken apart as one
(`collective`, `hop_of`): predicted again, it is what was measured. A group that shares a node's adapters with others that send
at the same time has its share of them. Each takes the library's own time besides (overhead_s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fanlight.plan.cluster import Cluster, Hop


@dataclass(frozen=True)
class Line:
    """Seconds of a forward or backward by its rows: fixed_s + rows · row_s."""

    fixed_s: float
    row_s: float

    def at(self, rows: float) -> float:
        return self.fixed_s + rows * self.row_s

    def __mul__(self, factor: float) -> Line:
        return Line(self.fixed_s * factor, self.row_s * factor)

    def __sub__(self, other: Line) -> Line:
        return Line(self.fixed_s - other.fixed_s, self.row_s - other.row_s)


def through(rows: tuple[float, float], seconds: tuple[float, float]) -> Line:
    """The line through two measured points; where noise would make it fall, or begin below 0, the nearest that does not."""
    (b0, b1), (t0, t1) = rows, seconds
    slope = max(0.0, (t1 - t0) / (b1 - b0)) if b1 != b0 else t1 / b1
    fixed = t1 - slope * b1
    return Line(0.0, t1 / b1) if fixed < 0 else Line(fixed, slope)


@dataclass(frozen=True)
class Route:
    """What the ranks of a group send over."""

    ranks: int
    nodes: int
    within: Hop
    between: Hop
    sharing: int = 1  # groups that send between the same nodes at the same time
    overhead_s: float = 0.0  # of a collective, before anything moves
    has_trees: bool = False  # whether the library knows another all-reduce than the ring

    @property
    def bytes_per_s(self) -> float:
        """Of its slowest hop."""
        if self.nodes == 1:
            return self.within.bytes_per_s
        between = self.between.bytes_per_s / self.sharing
        return between if self.ranks == self.nodes else min(between, self.within.bytes_per_s)

    @property
    def round_s(self) -> float:
        """Latency of n − 1 hops of a ring, those that the last piece to arrive takes: of a ring's n hops one is left out, a hop
        inside a node where there is one."""
        if self.nodes == 1:
            return (self.ranks - 1) * self.within.latency_s
        across = min(self.nodes, self.ranks - 1)
        return (self.ranks - 1 - across) * self.within.latency_s + across * self.between.latency_s

    @property
    def depth_s(self) -> float:
        """Latency from the root of a tree to its last leaf: a tree of nodes, and one inside each."""
        return self._down_s(math.ceil(math.log2(max(1, self.ranks / self.nodes))))

    @property
    def chains_s(self) -> float:
        """As `depth_s`, where a node's ranks hand on to each other in turn."""
        return self._down_s(math.ceil(self.ranks / self.nodes) - 1)

    def _down_s(self, inside: int) -> float:
        return inside * self.within.latency_s + math.ceil(math.log2(self.nodes)) * self.between.latency_s


def route(cluster: Cluster, ranks: list[int], *, sharing: int = 1) -> Route:
    """Of the group of these ranks, where rank r sits on node r // devices."""
    return route_of(cluster, len(ranks), len({rank // cluster.devices for rank in ranks}), sharing=sharing)


def route_of(cluster: Cluster, ranks: int, nodes: int, *, sharing: int = 1) -> Route:
    """Of a group of so many ranks on so many nodes."""
    has_trees = cluster.device.kind == "cuda"
    return Route(ranks, nodes, cluster.within, cluster.between, sharing, cluster.overhead_s, has_trees)


def ring_s(size: float, path: Route) -> float:
    n = path.ranks
    return 0.0 if n == 1 else path.overhead_s + 2 * path.round_s + 2 * (n - 1) / n * size / path.bytes_per_s


def tree_s(size: float, path: Route) -> float:
    return 0.0 if path.ranks == 1 else path.overhead_s + 2 * path.chains_s + 2 * size / path.bytes_per_s


def all_reduce_s(size: float, path: Route) -> float:
    """What the library takes: the ring, or the better of ring and tree where it has both."""
    return min(ring_s(size, path), tree_s(size, path)) if path.has_trees else ring_s(size, path)


def gather_s(size: float, path: Route) -> float:
    """All-gather to `size` bytes in all."""
    n = path.ranks
    return 0.0 if n == 1 else path.overhead_s + path.round_s + (n - 1) / n * size / path.bytes_per_s


def scatter_s(size: float, path: Route) -> float:
    """Reduce-scatter from `size` bytes."""
    return gather_s(size, path) if path.has_trees else ring_s(size, path)


def broadcast_s(size: float, path: Route) -> float:
    return 0.0 if path.ranks == 1 else path.overhead_s + path.depth_s + size / path.bytes_per_s


def send_s(size: float, path: Route) -> float:
    """One message between two ranks: a gather of two in which one has nothing to say. Who receives it has the same to wait for,
    the library's call, its threads and its own waking, so the overhead is a collective's."""
    hop = path.within if path.nodes == 1 else path.between
    return path.overhead_s + hop.latency_s + size / path.bytes_per_s


def hop_of(latency_s: float, bytes_per_s: float, *, ranks: int) -> Hop:
    """The hop whose ring all-reduce over `ranks` ranks of one node takes latency_s + bytes / bytes_per_s, less the library's own
    time: what was measured of the whole, inverted."""
    return Hop(latency_s / (2 * (ranks - 1)), bytes_per_s * 2 * (ranks - 1) / ranks)


def collective(all_reduce_s: Mapping[int, float], gather_s: float) -> tuple[float, float, float]:
    """Overhead of a collective, latency and bandwidth of an all-reduce beyond it, from measured seconds: of all-reduces by
    bytes, and of a gather of next to nothing.

    The line through the smallest and the largest all-reduce; of nothing it is o + 2(n−1)α, and a gather of nothing is
    o + (n−1)α: two measurements, two unknowns. Whatever noise does to them, their sum stays the line's.
    """
    sizes = sorted(all_reduce_s)
    small_s, large_s = all_reduce_s[sizes[0]], all_reduce_s[sizes[-1]]
    rate = (sizes[-1] - sizes[0]) / max(large_s - small_s, 1e-9)
    rate = max(rate, sizes[-1] / large_s)  # noise: a line that would begin below 0 begins at 0
    nothing_s = max(0.0, small_s - sizes[0] / rate)
    round_s = min(nothing_s / 2, max(0.0, nothing_s - gather_s))
    return nothing_s - 2 * round_s, 2 * round_s, rate


def contended(cluster: Cluster, busy: float) -> float:
    """Times as long as alone, where `busy` ranks of a node compute at the same time: as many as there are cores slow each
    other, and more take turns."""
    cores = cluster.cores or cluster.devices
    return (1.0 + cluster.contention * max(0.0, min(busy, cores) - 1)) * max(1.0, busy / cores)


@lru_cache(maxsize=256)
def largest(ranks: int) -> float:
    """The expected largest of `ranks` standard normal draws, in standard deviations (order statistics; Harter 1961)."""
    if ranks == 1:
        return 0.0
    x = np.linspace(-9.0, 9.0, 9_001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(x * ranks * density * below ** (ranks - 1), x))


def slowest(spread: float, ranks: int) -> float:
    """Times as long as the mean rank's, that the slowest of `ranks` takes: a synchronous step is the expected largest of as
    many draws."""
    return 1.0 + spread * largest(ranks)


def bubble(ranks: int, microbatches: int, *, stages_per_rank: int = 1) -> float:
    """Share of a pipeline's time in which an even stage waits: (p − 1) / (v·m + p − 1) (Huang et al. 2019; Narayanan et al.
    2021)."""
    return (ranks - 1) / (stages_per_rank * microbatches + ranks - 1)
