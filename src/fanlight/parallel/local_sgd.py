"""Ranks that train apart and meet every H steps: other algorithms than the serial run, which send 1/H of its bytes.

local SGD (Stich 2019; Lin et al. 2020): at a meeting every rank takes the mean of the ranks' weights. DiLoCo (Douillard et
al. 2023): the mean change since the last meeting is a gradient, with which an outer Nesterov momentum moves the weights
that all had then; with an outer rate of 1 and no momentum it is local SGD. Optimizer states stay each rank's own.

R ranks. Norms use each rank's own rows; their running statistics are averaged at meetings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fanlight.parallel import comm
from fanlight.parallel.comm import World

BUCKET_NUMBERS = 16 << 20  # of one all-reduce: above, there is nothing left to gain from fewer


class Meetings:
    """Keeps the weights of `parts` together, every `every` optimizer steps and after the last of `steps`."""

    def __init__(
        self, parts: Sequence[nn.Module], world: World, *, every: int, steps: int, outer_lr: float = 1.0,
        outer_momentum: float = 0.0,
    ):  # fmt: skip
        assert world.everyone is not None
        self._world, self._every, self._steps = world, every, steps
        self._outer_lr, self._outer_momentum = outer_lr, outer_momentum
        trained = {name: p.detach() for part in parts for name, p in part.named_parameters() if p.requires_grad}
        buffers = {name: b for part in parts for name, b in part.named_buffers() if b.is_floating_point()}
        self._trained, self._buffers = trained, buffers
        # Only an outer optimizer needs to know where the ranks set out from.
        self._has_outer = outer_lr != 1.0 or outer_momentum > 0
        self._start = {name: value.clone() for name, value in trained.items()} if self._has_outer else {}
        self._velocity = {name: torch.zeros_like(value) for name, value in self._start.items()}
        self._are_equal = False  # the ranks' weights, since a meeting

    @property
    def kept(self) -> list[Tensor]:
        """What this rank keeps between two meetings for an outer optimizer."""
        return [*self._start.values(), *self._velocity.values()]

    def is_due(self, step: int) -> bool:
        """Whether ranks meet after optimizer step `step`, from 0."""
        return (step + 1) % self._every == 0 or step + 1 == self._steps

    def after(self, step: int) -> None:
        """After optimizer step `step`, from 0: the ranks meet, where it is time."""
        self._are_equal = False
        if self.is_due(step):
            self.meet()

    @torch.no_grad()
    def meet(self) -> None:
        """All ranks have the same weights again. Collective."""
        own = {**self._trained, **self._buffers}
        mean = self._mean(own, sent_as="weights at meetings")
        if self._has_outer:
            for name, start in self._start.items():
                change = start - mean[name]
                velocity = self._velocity[name].mul_(self._outer_momentum).add_(change)
                start.sub_(change.add_(velocity, alpha=self._outer_momentum), alpha=self._outer_lr)
                mean[name] = start
        for name, value in own.items():
            value.copy_(mean[name])
        self._are_equal = True

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Inside, every rank holds the mean of all ranks' weights: what is evaluated and exported. Collective at its begin."""
        if self._are_equal:
            yield
            return
        own = {**self._trained, **self._buffers}
        with torch.no_grad():
            mean = self._mean(own, sent_as="weights for evaluations")
            kept = {name: value.clone() for name, value in own.items()}
            for name, value in own.items():
                value.copy_(mean[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(kept[name])

    @torch.no_grad()
    def checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is saved of this rank's `tensors`: the model's means under their own keys, for those who want weights, and
        all of each rank's own under `local-<rank>.<key>`, with which these ranks go on as if nothing had been. Collective."""
        found = {key: value for key, value in tensors.items() if key.startswith("model.")}
        if not self._are_equal:
            floating = {key: value for key, value in found.items() if value.is_floating_point()}
            found |= self._mean(floating, sent_as="means for checkpoints")
        found |= {f"local-{self._world.rank}.{key}": value for key, value in tensors.items()}
        found["local.ranks"] = torch.tensor(self._world.ranks)
        found["local.equal"] = torch.tensor(self._are_equal)
        found |= {f"local.start.{name}": value for name, value in self._start.items()}
        return found | {f"local.velocity.{name}": value for name, value in self._velocity.items()}

    @torch.no_grad()
    def own(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's tensors out of what `checkpoint` gave. KeyError where other ranks or another layout saved it; such runs
        are not continued, only tensors that all layouts share are read then."""
        self._are_equal = bool(saved.get("local.equal", False))  # a mean of equals may round to another number
        prefix = f"local-{self._world.rank}."
        if "local.ranks" not in saved:
            for name, start in self._start.items():
                start.copy_(saved[f"model.{name}"])
            return {**saved}
        for kind, values in (("start", self._start), ("velocity", self._velocity)):
            for name, value in values.items():
                value.copy_(saved[f"local.{kind}.{name}"])
        return {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}

    def wants(self, key: str) -> bool:
        """Whether a checkpoint's key is of this rank or of all."""
        return not key.startswith("local-") or key.startswith(f"local-{self._world.rank}.")

    def _mean(self, tensors: Mapping[str, Tensor], *, sent_as: str) -> dict[str, Tensor]:
        """The mean over ranks of each, the same bits on all."""
        found: dict[str, Tensor] = {}
        for names in _in_buckets(tensors):
            flat = torch.cat([tensors[name].reshape(-1) for name in names])
            dist.all_reduce(flat, group=self._world.everyone)
            comm.sent[sent_as] += flat.nbytes
            flat /= self._world.ranks
            pieces = flat.split([tensors[name].numel() for name in names])
            found |= {name: piece.view(tensors[name].shape) for name, piece in zip(names, pieces)}
        return found


def _in_buckets(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names whose tensors are sent together: of one number format, up to a size."""
    names: list[str] = []
    count = 0
    for name, value in tensors.items():
        if names and (value.dtype != tensors[names[0]].dtype or count + value.numel() > BUCKET_NUMBERS):
            yield names
            names, count = [], 0
        names.append(name)
        count += value.numel()
    if names:
        yield names
