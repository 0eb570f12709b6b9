"""Values that travel between packages. B rows of a microbatch on this rank, P image side in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


PAD, START, END, UNK = range(4)  # of words as numbers: what every vocabulary begins with


class Position(NamedTuple):
    """Where training stands: the next optimizer step is `step` (from 0) of `epoch` (from 0)."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Changes:
    """What happens to the pixels of B images after their crops: S operations one after the other, then erasing."""

    op: np.ndarray  # int64 [B, S], rows of the table data/policy.OPS
    amount: np.ndarray  # float64 [B, S], in the operation's own unit
    erase: np.ndarray  # int64 [B, 4], left, top, right, bottom in pixels; all 0 where nothing is erased


@dataclass(frozen=True)
class Mix:
    """How each row is mixed with its partner, row j with row j xor 1: equal for the two rows of a pair."""

    share: torch.Tensor  # float64 [B], of the row's own pixels and of its own label
    box: torch.Tensor  # int64 [B, 4], left, top, right, bottom of what comes from the partner; all 0: both are blended


@dataclass(frozen=True)
class Rows:
    """One microbatch's rows on this rank."""

    samples: np.ndarray  # int64 [B], positions in the training (or evaluated) set
    images: torch.Tensor | None  # uint8 [B, P, P, 3], or float32 features [B, …]; None where a rank needs no pixels
    targets: torch.Tensor | None  # as the task made them, first dimension B
    changes: Changes | None = None  # still to be done to the images, by the device; None: nothing, or done already
    mix: Mix | None = None  # still to be done to images and loss; None: no mixing
    keys: np.ndarray | None = None  # int64 [B], what random numbers are hashed by; None: the samples themselves
    unseen: tuple[int, int] | None = None  # rows and side of the images that another rank makes, where images is None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and side in pixels of the images, wherever they are."""
        if self.images is None:
            assert self.unseen is not None
            return self.unseen
        return self.images.shape[0], self.images.shape[1]


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
