"""Values that travel between packages. B rows of a microbatch on this rank, P image side in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Position(NamedTuple):
    """Where training stands: the next optimizer step is `step` (from 0) of `epoch` (from 0)."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Rows:
    """One microbatch's rows on this rank."""

    samples: np.ndarray  # int64 [B], positions in the training (or evaluated) set
    images: torch.Tensor | None  # uint8 [B, P, P, 3]; None where a rank needs no pixels
    targets: torch.Tensor | None  # as the task made them, first dimension B


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one optimizer step, by microbatch, with what every rank knows about the whole of it."""

    position: Position
    parts: tuple[Rows, ...]
    denominator: float  # summed weight of the global batch: the loss is the sum over all ranks divided by it
    seconds: float  # spent making it, in an input thread

    @property
    def rows(self) -> int:
        return sum(len(part.samples) for part in self.parts)
