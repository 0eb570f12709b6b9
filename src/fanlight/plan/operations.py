"""What a program is made of, and what a step is asked to do whatever its layout. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fanlight.data import order
from fanlight.plan.blocks import NOTHING
from fanlight.plan.cost import Line

Waits = Mapping[int, tuple[int, ...]]  # by rank, the operations that it waits for


class Op(NamedTuple):
    """Something that takes `seconds` of one lane of each of its ranks, after other operations (their places in the list)."""

    ranks: tuple[int, ...]
    lane: str  # input, compute, communication
    seconds: float
    after: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Asked:
    """What of a step does not depend on the layout."""

    batch: int  # images, global
    microbatches: int = 1
    row_unit: int = 1  # neighbouring images that stay together
    bucket_bytes: int | None = None  # of gradients; None: torch's own, the first smaller
    weight_bytes: float = 4.0  # of a number of sharded weights on its way
    activation_bytes: float = 4.0  # of a number of activations that layers compute in
    gradient_bytes: float = 4.0  # of a number of whole replicas' gradients on its way
    update_s: float = 0.0  # optimizer, for each number that a rank holds
    host_s: float = 0.0  # of the loop, once in a step
    input_s: float = 0.0  # of preparing one image, on the input threads of its rank, beside the step
    turn_s: float = 0.0  # of one image, on something that a node's ranks take turns at and that nothing hides
    exchanges: bool = True  # whether ranks tell each other sums and wishes, as a run does and a measured step does not
    sync_every: int = 8  # steps between meetings of ranks that train apart
    gathering: Line = NOTHING  # seconds by bytes of a block's sharded weights becoming whole, beside the message
    scattering: Line = NOTHING  # likewise of its gradients

    def activations(self, short: float) -> float:
        """Share of fp32's bytes that some activations take, where a number format of two bytes leaves `short` of them."""
        return short if self.activation_bytes < 4 else 1.0

    def rows(self, data_ranks: int) -> tuple[int, ...]:
        """Of each microbatch, what the rank with most of it sees, as data/order.py cuts batches: the last rank has most of every
        one, and the others wait for it."""
        cut = order.rank_slices(
            self.batch, microbatches=self.microbatches, rank=data_ranks - 1, ranks=data_ranks, unit=self.row_unit
        )
        return tuple(each.stop - each.start for each in cut)
