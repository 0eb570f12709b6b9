"""Sums of the steps, over ranks: what an epoch's loss is, whether it and the gradients are finite, and whether all ranks
should stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from fanlight.errors import TrainingError
from fanlight.parallel.comm import World

GPU_STEPS = 10  # between exchanges on a GPU, where reading a sum waits for the device; every step on CPUs
APART_STEPS = 32  # at most, where ranks train apart and would wait for each other at each exchange


@dataclass
class Ledger:
    """Keeps steps' sums on the device and exchanges them every few steps, with the wishes to stop and to save."""

    world: World
    every: int = 1  # steps between exchanges, or more on GPUs
    epoch_sums: np.ndarray = field(default_factory=lambda: np.zeros(4))  # loss, hits, rows, weight over all ranks
    recent: list[float] = field(default_factory=list)  # mean losses of the last exchanged steps
    _open: list[torch.Tensor] = field(default_factory=list)  # [loss, hits, rows, gradient norm] of this rank
    _weights: list[float] = field(default_factory=list)  # of the open steps, known to every rank

    def add(self, sums: torch.Tensor, *, denominator: float, norm: torch.Tensor) -> None:
        """A step: this rank's [loss sum, hits, rows], the global batch's summed weight, the global gradient's norm."""
        self._open.append(torch.cat([sums, norm.double().view(1)]))
        self._weights.append(denominator)

    @property
    def is_due(self) -> bool:
        return self.may_exchange and len(self._open) >= self.every

    @property
    def may_exchange(self) -> bool:
        """Whether enough steps are open to wait for the device."""
        return len(self._open) >= (GPU_STEPS if self.world.device.type == "cuda" else 1)

    def exchange(self, *, step: int, stop: bool, save: bool, over: bool = False) -> tuple[bool, bool, bool]:
        """Adds up over ranks; True where any rank wants to stop, rank 0 wants to save, or any rank's time is over. All
        ranks call it.

        `step` is the number of steps done. Raises TrainingError, on all ranks, at a loss or a gradient that is not finite.
        Nothing may be evaluated or saved between a step and its exchange.
        """
        rows = torch.stack(self._open).cpu().numpy() if self._open else np.zeros((0, 4))
        weights_S = np.array(self._weights)
        self._open.clear()
        self._weights.clear()
        wishes = np.array([float(stop), float(save and self.world.is_first), float(over)])
        total = self.world.sum_host(np.concatenate([rows.reshape(-1), wishes]))
        table_S4 = total[:-3].reshape(-1, 4)
        for index, (mean, norm) in enumerate(zip(table_S4[:, 0] / weights_S, table_S4[:, 3])):
            number = step - len(table_S4) + index + 1
            if not math.isfinite(mean):
                raise TrainingError(self._why(number, mean))
            if not math.isfinite(norm):  # its sum over ranks, each of which knows it
                raise TrainingError(_why_gradient(number, norm, mean))
            self.recent = [*self.recent[-4:], float(mean)]
        self.epoch_sums += [*table_S4[:, :3].sum(0), weights_S.sum()]
        stopping, saving, ending = (total[-3:] > 0).tolist()
        return stopping, saving, ending

    def close_epoch(self) -> dict[str, float]:
        """Mean loss, each row as its weight says, and accuracy of the epoch that ends."""
        loss, hits, count, weight = self.epoch_sums
        self.epoch_sums = np.zeros(4)
        return {"loss": float(loss / weight), "accuracy": float(hits / count)}

    def _why(self, step: int, mean: float) -> str:
        losses = ", ".join(f"{loss:.3g}" for loss in self.recent)
        if len(self.recent) > 1 and self.recent[-1] > 2 * min(self.recent):
            cause = f"it rose before ({losses}): the steps are too large; use a lower --lr or more warm-up"
        elif self.recent:
            cause = f"it was {losses} before: a number overflowed at once; use --precision fp32 or a lower --lr"
        else:
            cause = "it is so from the first step: the starting weights or --lr are at fault, or --precision fp16"
        return f"the loss is {mean} at step {step}; {cause}. What was saved before that step is kept"


def _why_gradient(step: int, norm: float, loss: float) -> str:
    return (
        f"the gradient's norm is {norm} at step {step}, where the loss is {loss:.3g}: a number overflowed in the backward "
        "pass, or a layer has no finite slope there (a root or logarithm of 0); use --precision fp32 or a lower --lr. "
        "What was saved before that step is kept"
    )
