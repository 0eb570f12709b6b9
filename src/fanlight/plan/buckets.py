"""How large the gradient buckets of a run would be on described machines. Imports no torch."""

from __future__ import annotations

from fanlight.parallel import cutting
from fanlight.parallel.layout import Layout
from fanlight.plan import cost
from fanlight.plan.cluster import Cluster


def size_of(layout: Layout, machines: Cluster, *, asked_mb: float | None) -> int | None:
    """Bytes of a bucket: those that were asked for; of ddp those that a run fits to its link when it starts (train/fitted.py),
    which is the one that `machines` have between all ranks; None: torch's own."""
    if asked_mb is not None:
        return int(asked_mb * 2**20)
    if layout.name != "ddp" or layout.ranks == 1:
        return None
    path = cost.route(machines, list(range(layout.ranks)))
    small_s, large_s = (cost.all_reduce_s(size, path) for size in (cutting.SMALL_BYTES, cutting.LARGE_BYTES))
    rate = (cutting.LARGE_BYTES - cutting.SMALL_BYTES) / max(large_s - small_s, 1e-9)
    return int(cutting.fitted_mb(small_s, rate) * 2**20)
