"""Whether a layout can train a network on machines at all. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.parallel.layout import Layout
from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster


def why_not(
    layout: Layout, blocks: Sequence[Block], machines: Cluster, *, batch: int, microbatches: int, row_unit: int = 1,
    undivided: str = "",
) -> str:  # fmt: skip
    """Why it cannot; empty where it can. `row_unit`: rows that stay together. `undivided`: why its ranks cannot divide layers."""
    if layout.stages > len(blocks):
        return f"the network can be cut into at most {len(blocks)} stages, and the layout has {layout.stages}"
    if layout.tp > 1 and not any(block.pairs for block in blocks):
        return "the network has no block that tensor parallelism can divide"
    if undivided:
        return undivided
    if layout.tp > machines.devices:
        return f"its {layout.tp} ranks talk in every layer, and a node has {machines.devices}"
    if batch // row_unit < layout.data_ranks * microbatches:
        return f"a batch of {batch} leaves some of {layout.data_ranks} ranks without a row; use a larger --batch-size"
    return ""
