"""Which block is in which stage of a pipeline, and how many ranks compute at once. Imports no torch before it cuts."""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.parallel.layout import Layout
from fanlight.plan import cost
from fanlight.plan.blocks import Block
from fanlight.plan.operations import Asked


def of(layout: Layout, blocks: Sequence[Block], asked: Asked) -> list[int]:
    """The stage of each block; empty where there are fewer blocks than stages. Cut for the rows that most microbatches have on
    most ranks, as training cuts."""
    if layout.stages == 1:
        return [0] * len(blocks)
    rows = max(1, asked.batch // asked.microbatches // layout.data_ranks)
    return balanced(blocks, asked, stages=layout.stages, rows=rows)


def balanced(blocks: Sequence[Block], asked: Asked, *, stages: int, rows: float) -> list[int]:
    """The stage of each block, as parallelize cuts a model: the costliest stage as cheap as can be, then what is sent."""
    from fanlight.parallel import balance

    if len(blocks) < stages:
        return []
    passes_s = [asked.microbatches * (b.forward.at(rows) + b.backward.at(rows)) for b in blocks]
    costs_s = [pass_s + asked.update_s * b.numbers for pass_s, b in zip(passes_s, blocks)]
    sent = [round(b.sent_bytes * asked.activations(b.sent_short) * rows) for b in blocks[:-1]]
    at = balance.best(costs_s, sent, stages=stages)
    found, stage = [], 0
    for index in range(len(blocks)):
        found.append(stage)
        stage += index in at
    return found


def busy(layout: Layout, devices: int, *, microbatches: int) -> float:
    """Ranks of a node of `devices` that compute at the same time, on average: those of a pipeline take turns."""
    here = min(devices, layout.ranks)
    if layout.pp == 1:
        return here
    if layout.schedule == "sequential":
        return max(1.0, here / layout.pp)
    waits = cost.bubble(layout.pp, microbatches, stages_per_rank=layout.stages_per_rank)
    return max(1.0, here * (1 - waits))
