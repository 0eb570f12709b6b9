"""Bytes that a rank of a layout holds at its peak. Arithmetic only; imports no torch.

weights, gradients, optimizer state, averages   of what the rank holds of the model: its stage, its shard, its channels;
              frozen weights alone, without the rest
activations   of every microbatch in flight (schedule.py), of its rows; recomputing keeps a block's input, and one block's
buckets       of gradients on their way, where they are copies (buckets.py); a gathered block's weights (fsdp)
copies        of the weights in a short format
batches       ahead of the step, uint8
base          what a rank's process takes before any of this, on a CPU: measured
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from fanlight.parallel import cutting, schedule
from fanlight.parallel.layout import Layout
from fanlight.plan import stages
from fanlight.plan.blocks import Block
from fanlight.plan.operations import Asked

MOMENTS = {"sgd": 1, "adamw": 2}  # numbers that the optimizer keeps for each weight
GATHERED_GPU = 2  # blocks whose weights are whole at once, one ahead; the memory of one serves the next
# On CPUs it does not: blocks are of different sizes, and what the heap has of one is too small or in pieces for another. Of each
# block, its weights as they come and as they are used, its gradients as they are made and as they are sent.
GATHERED_CPU = 4
AHEAD = 3  # batches beside the one that is computed: one per input thread and two more (data/loader.py)


@dataclass(frozen=True)
class Bytes:
    """Of the rank that holds most."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    buckets: float
    copies: float
    batches: float
    base: float

    @property
    def total(self) -> float:
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Kept:
    """What of a run decides its memory beside layout and network."""

    image_px: int
    optimizer: str = "adamw"
    has_average: bool = False
    is_short: bool = False  # whether convolutions compute in two bytes
    base: float = 0.0
    on_device: bool = False  # a GPU: batches ahead wait in the host's memory


def of(layout: Layout, blocks: Sequence[Block], asked: Asked, kept: Kept) -> Bytes:
    """Of the rank that holds most."""
    rows = asked.rows(layout.data_ranks)
    at = stages.of(layout, blocks, asked)
    orders = schedule.orders(
        layout.schedule or "gpipe",
        ranks=layout.pp,
        stages_per_rank=layout.stages_per_rank,
        microbatches=asked.microbatches,
    )
    found = []
    for pp in range(layout.pp):
        own = [block for block, stage in zip(blocks, at) if stage % layout.pp == pp]
        in_flight = orders.in_flight(pp) / layout.stages_per_rank if layout.pp > 1 else 1
        found.append(_rank(layout, own, asked, kept, rows=rows, in_flight=in_flight))
    return max(found, key=lambda each: each.total)


def _rank(
    layout: Layout, blocks: Sequence[Block], asked: Asked, kept: Kept, *, rows: Sequence[int], in_flight: float
) -> Bytes:
    whole = sum(4.0 * (b.numbers - b.divided_numbers * (1 - 1 / layout.tp)) for b in blocks)
    held = whole / layout.dp_shard
    largest = max((4.0 * (b.numbers - b.divided_numbers * (1 - 1 / layout.tp)) for b in blocks), default=0.0)
    frozen = sum(4.0 * b.frozen for b in blocks)
    is_short = kept.is_short
    bucketed = layout.dp_replicate > 1 and layout.dp_shard == 1 and not layout.is_periodic and not layout.is_whole
    return Bytes(
        weights=held + frozen + 4.0 * sum(b.buffers for b in blocks),
        gradients=whole if asked.microbatches > 1 else held,  # shard.py sends their sum after the last microbatch
        optimizer=MOMENTS.get(kept.optimizer, 2) * held,
        average=held if kept.has_average else 0.0,
        activations=_activations(layout, blocks, rows=max(rows), in_flight=in_flight, is_short=is_short),
        buckets=(min(whole, 2.0 * cutting.BUCKET_BYTES) if bucketed else 0.0)
        + ((GATHERED_GPU * largest if kept.on_device else GATHERED_CPU * whole) if layout.dp_shard > 1 else 0.0),
        copies=(whole / layout.dp_shard + frozen) / 2 if is_short else 0.0,
        batches=0.0 if kept.on_device else (1 + AHEAD) * sum(rows) * 3.0 * kept.image_px**2,
        base=kept.base,
    )


def _activations(layout: Layout, blocks: Sequence[Block], *, rows: float, in_flight: float, is_short: bool) -> float:
    """Kept for the backward, and the largest block's gradients of them beside it."""
    each = [
        b.kept_bytes * (b.kept_short if is_short else 1.0) * (1 - b.divided * (1 - 1 / layout.tp) / 2) for b in blocks
    ]
    sent = [b.sent_bytes * (b.sent_short if is_short else 1.0) for b in blocks]
    if layout.recompute:
        return rows * (in_flight * sum(sent) + max(each, default=0.0))
    return rows * (in_flight * sum(each) + 2 * max(sent, default=0.0))
