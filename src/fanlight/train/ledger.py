"""Sums of the steps, over ranks: what an epoch's loss is, whether it is finite, and whether all ranks should stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from fanlight.errors import TrainingError
from fanlight.parallel.comm import World

GPU_STEPS = 10  # between exchanges on a GPU, where reading a sum waits for the device; every step on CPUs


@dataclass
class Ledger:
    """Keeps steps' sums on the device and exchanges them every few steps, with the wishes to stop and to save."""

    world: World
    epoch_sums: np.ndarray = field(default_factory=lambda: np.zeros(3))  # loss, hits, rows over all ranks, this epoch
    recent: list[float] = field(default_factory=list)  # mean losses of the last exchanged steps
    _open: list[torch.Tensor] = field(default_factory=list)

    def add(self, sums: torch.Tensor) -> None:
        """This rank's [loss sum, hits, rows] of a step."""
        self._open.append(sums)

    @property
    def is_due(self) -> bool:
        return len(self._open) >= (GPU_STEPS if self.world.device.type == "cuda" else 1)

    def exchange(self, *, step: int, stop: bool, save: bool) -> tuple[bool, bool]:
        """Adds up over ranks; True where any rank wants to stop, or rank 0 wants to save. All ranks call it.

        `step` is the number of steps done. Raises TrainingError, on all ranks, at a loss that is not finite.
        """
        rows = torch.stack(self._open).cpu().numpy() if self._open else np.zeros((0, 3))
        self._open.clear()
        wishes = np.array([float(stop), float(save and self.world.is_first)])
        total = self.world.sum_host(np.concatenate([rows.reshape(-1), wishes]))
        table_S3 = total[:-2].reshape(-1, 3)
        for index, (loss, _, count) in enumerate(table_S3):
            mean = loss / count
            if not math.isfinite(mean):
                raise TrainingError(self._why(step - len(table_S3) + index + 1, mean))
            self.recent = [*self.recent[-4:], float(mean)]
        self.epoch_sums += table_S3.sum(0)
        return bool(total[-2] > 0), bool(total[-1] > 0)

    def close_epoch(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch that ends."""
        loss, hits, count = self.epoch_sums
        self.epoch_sums = np.zeros(3)
        return {"loss": float(loss / count), "accuracy": float(hits / count)}

    def _why(self, step: int, mean: float) -> str:
        losses = ", ".join(f"{loss:.3g}" for loss in self.recent)
        if len(self.recent) > 1 and self.recent[-1] > 2 * min(self.recent):
            cause = f"it rose before ({losses}): the steps are too large; use a lower --lr or more warm-up"
        elif self.recent:
            cause = f"it was {losses} before: a number overflowed at once; use --precision fp32 or a lower --lr"
        else:
            cause = "it is so from the first step: the starting weights or --lr are at fault, or --precision fp16"
        return f"the loss is {mean} at step {step}; {cause}. Checkpoints from before that step are kept"
