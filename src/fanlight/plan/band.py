"""The band of a prediction: what it would be, were what is least known half or twice as much. Imports no torch.

Links half or twice as fast; spread, contention, what sending steals, the library's own time of a collective and what preparing
a gradient takes half or twice as large; each by itself, and computing off by as much as its measurement scattered: the lowest
and the highest rate of all of these. A band of what is not known well, not a confidence interval; benchmarks/plan_backtest.py
says how often published curves lie inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fanlight.plan.cluster import Cluster, Hop

UNSURE = 2.0  # times less or more
NOISE = 0.03  # of computing, at least: two measurements of one machine a day apart


def around(rate: Callable[[Cluster], float], cluster: Cluster, *, noise: float = NOISE) -> tuple[float, float]:
    """Lowest and highest of `rate` over the machines that it might be, images per second."""
    found = [rate(other) for other in (cluster, *_others(cluster))]
    return min(found) / (1 + max(noise, NOISE)), max(found) * (1 + max(noise, NOISE))


def _others(cluster: Cluster) -> Iterator[Cluster]:
    for factor in (1 / UNSURE, UNSURE):
        yield replace(cluster, within=_times(cluster.within, factor), between=_times(cluster.between, factor))
        yield replace(cluster, spread=cluster.spread * factor)
        yield replace(cluster, contention=cluster.contention * factor)
        yield replace(cluster, steals=min(1.5, cluster.steals * factor))
        yield replace(cluster, overhead_s=cluster.overhead_s * factor)
        yield replace(cluster, tensor_s=cluster.tensor_s * factor)


def _times(hop: Hop, factor: float) -> Hop:
    return Hop(hop.latency_s / factor, hop.bytes_per_s * factor)
