"""The norm of a gradient whose parts lie on several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class TotalNorm:
    """‖g‖ of the whole gradient, the same bits on every rank: squares of all parts, those that several ranks hold counted
    once, in one all-reduce of one number.

    `copies`: how many ranks hold the same part of a parameter, by its name. `group`: all ranks, or all with this rank's
    weights where they train apart.
    """

    copies: Mapping[str, int]
    group: dist.ProcessGroup
    device: torch.device
    _shares: dict[tuple[str, ...], Tensor] = field(default_factory=dict, compare=False)  # 1 / copies, by names

    def __call__(self, gradients: Mapping[str, Tensor]) -> Tensor:
        norms = list(torch._foreach_norm(list(gradients.values()))) if gradients else []
        names = tuple(gradients)
        if names not in self._shares:
            shares = [1.0 / self.copies[name] for name in names]
            self._shares[names] = torch.tensor(shares, dtype=torch.float64, device=self.device)
        squares = (
            torch.stack(norms).double().square() if norms else torch.zeros(0, dtype=torch.float64, device=self.device)
        )
        total = (squares * self._shares[names]).sum().reshape(1)
        dist.all_reduce(total, group=self.group)
        dtype = norms[0].dtype if norms else torch.float32
        return total[0].sqrt().to(dtype)
