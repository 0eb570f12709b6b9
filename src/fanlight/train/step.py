"""Gradients of one optimizer step, and evaluation's forward, where all layers are computed on this rank.

b rows of a microbatch on this rank, P image side, K outputs. A step returns sums and logs nothing; nothing here waits
for the device.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from fanlight.data import mix, policy
from fanlight.models.freeze import train_mode
from fanlight.models.keyed import Keys
from fanlight.parallel.compiled import Compiled
from fanlight.parallel.parallelize import Reduced
from fanlight.tasks import Task
from fanlight.train import precision
from fanlight.train.clock import StepClock
from fanlight.types import Batch, Rows


class Step(Protocol):
    """What the loop needs of any layout."""

    parts: list[nn.Module]  # what this rank holds, under original names
    needs_images: bool  # this rank's forward begins with pixels
    needs_targets: bool  # this rank computes the loss
    number_format: str  # of the forward
    compiled: Compiled | None
    evaluates_in_threads: bool  # several threads may call `forward` at once, as nothing in it meets another rank

    def dissolve(self) -> None: ...

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        """Leaves the global batch's gradient in `parts`; returns this rank's [loss sum, hits, answers], float64 [3]."""
        ...

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Inside, `forward` may be called."""
        ...

    def forward(self, rows: Rows) -> torch.Tensor | None:
        """Evaluation outputs of one batch, or None on a rank that does not tell them: another one does."""
        ...


class Normalise:
    """uint8 [b, P, P, 3] in [0, 255] to the model's floats [b, 3, P, P], zero mean and unit spread per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, like: torch.Tensor, channels_last: bool):
        mean_C, std_C = (torch.tensor(values, dtype=like.dtype, device=like.device) for values in (mean, std))
        self.scale_C = (1.0 / (255.0 * std_C)).view(1, 3, 1, 1)
        self.shift_C = (-mean_C / std_C).view(1, 3, 1, 1)
        self.channels_last = channels_last

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(self.scale_C.device, non_blocking=True).permute(0, 3, 1, 2).to(self.scale_C.dtype)
        x = x.mul_(self.scale_C).add_(self.shift_C)
        return x if self.channels_last else x.contiguous()


class Cached:
    """Features as the cache holds them, float32 [b, …], in the last layer's number format and on its device."""

    def __init__(self, *, like: torch.Tensor):
        self._device, self._dtype = like.device, like.dtype

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        assert features.is_floating_point(), "pixels, where the last layer alone is computed"
        return features.to(self._device, self._dtype, non_blocking=True)


class Listener(Protocol):
    """A module whose forward needs more than its input."""

    def told(self, targets: torch.Tensor) -> None: ...


def listeners(modules: Iterable[nn.Module]) -> tuple[Listener, ...]:
    """Those of `modules` and their parts that are told the targets before a forward."""
    return tuple(
        typing.cast(Listener, part) for module in modules for part in module.modules() if hasattr(part, "told")
    )


def tell_example(task: Task, told: Iterable[Listener], *, rows: int, device: torch.device | None = None) -> None:
    """Readies modules that are told the targets for a forward of `rows` made-up images."""
    made = task.example(rows)
    for listener in told if made is not None else ():
        listener.told(torch.from_numpy(made).to(device))


@dataclass(frozen=True)
class Sight:
    """What a rank does with a batch's rows before the first layer and after the last: the same in every layout."""

    task: Task
    normalise: Callable[[torch.Tensor], torch.Tensor]
    seed: int
    device: torch.device
    keys: Keys | None = None  # of keyed dropout; None: the model has none
    listeners: tuple[Listener, ...] = ()  # modules of this rank that are told the targets before each forward

    def images(self, rows: Rows) -> torch.Tensor:
        """What the first layer sees, [b, 3, P, P]: changed, normalised, mixed."""
        assert rows.images is not None
        images = rows.images
        if rows.changes is not None:
            images = policy.change_batch(images.to(self.device, non_blocking=True), rows.changes)
        x = self.normalise(images)
        return x if rows.mix is None else mix.pixels(x, mix.on(rows.mix, self.device))

    def ready(self, rows: Rows, *, epoch: int) -> None:
        """Before each forward of training: keyed dropout learns whose rows these are."""
        self.tell(rows)
        if self.keys is not None:
            hashed_by = rows.samples if rows.keys is None else rows.keys
            samples = torch.from_numpy(hashed_by).to(self.device, non_blocking=True)
            self.keys.set(seed=self.seed, epoch=epoch, samples=samples)

    def tell(self, rows: Rows) -> None:
        """Before any forward: a decoder that guesses each word after the true ones before it learns these."""
        if self.listeners:
            assert rows.targets is not None
            targets = rows.targets.to(self.device, non_blocking=True).long()
            for listener in self.listeners:
                listener.told(targets)

    def loss(self, outputs: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the rows' losses, and [loss sum, hits, answers], float64 [3], without its graph."""
        assert rows.targets is not None
        targets = rows.targets.to(self.device, non_blocking=True).long()
        if rows.mix is None:
            loss_sum = self.task.loss_sum(outputs, targets)
        else:
            mixed = mix.on(rows.mix, self.device)
            partner = mix.partners(targets)
            loss_sum = self.task.loss_sum(outputs, targets, share=mixed.share)
            loss_sum = loss_sum + self.task.loss_sum(outputs, targets[partner], share=1 - mixed.share)
            targets = mix.larger(targets, mixed)
        with torch.no_grad():
            told = (loss_sum.detach(), self.task.hits(outputs, targets), self.task.counted(targets))
            return loss_sum, torch.stack([each.double() for each in told])


class WholeStep:
    """All layers are computed here: serial, replicated, sharded, divided, and ranks that train apart.

    With `reduced`, gradients are summed over the ranks that hold the same weights. `whole` is what the parts hold where
    `model`, which is computed, is only the end of it. `is_counted`: of ranks that see the same rows, one tells their sums.
    `factor` is what the gradient of this rank's own rows is multiplied by. `is_alone`: a forward of evaluation asks no other
    rank for anything.
    """

    needs_images = needs_targets = True

    def __init__(
        self, model: nn.Module, sight: Sight, *, number_format: str, reduced: Reduced | None = None,
        whole: nn.Module | None = None, is_counted: bool = True, factor: float = 1.0, is_alone: bool = True,
    ):  # fmt: skip
        self.parts = [model if whole is None else whole]
        self.evaluates_in_threads = is_alone
        self.compiled: Compiled | None = None  # where the forward of training is
        self.number_format = number_format  # of the forward; weights and sums are fp32 in any
        self._model, self._sight, self._reduced = model, sight, reduced
        self._trained = model if reduced is None else reduced.wrapped or model
        self._is_counted, self._factor = is_counted, factor
        self._device = sight.device
        train_mode(model)

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        for index, rows in enumerate(batch.parts):
            more = index + 1 < len(batch.parts)
            with contextlib.nullcontext() if self._reduced is None else self._reduced.accumulating(more):
                sums += self._gradients(batch, rows, loss_scale, clock)
        if self._reduced is not None and self._reduced.wrapped is None:  # it waits for its sums at the end
            clock.mark("communication")
        return sums if self._is_counted else torch.zeros_like(sums)

    def _gradients(self, batch: Batch, rows: Rows, loss_scale: float, clock: StepClock) -> torch.Tensor:
        x = self._sight.images(rows)
        self._sight.ready(rows, epoch=batch.position.epoch)
        clock.mark("copy")
        with precision.autocast(self.number_format, self._device):
            outputs = self._trained(x)
        loss_sum, sums = self._sight.loss(outputs, rows)
        clock.mark("forward")
        # The sum over ranks of these is the gradient of the global mean: one division, by what every rank knows.
        (loss_sum * (loss_scale * self._factor / batch.denominator)).backward()
        # What follows the last bucket's sending is waiting for it; a microbatch that sends nothing has no such part.
        waited = self._reduced is not None and clock.split("backward", at=self._reduced.sent_at)
        clock.mark("communication" if waited else "backward")
        return sums

    def dissolve(self) -> None:
        """Takes the connection to other ranks away, before another step is made of the same model."""
        if self._reduced is not None:
            self._reduced.dissolve()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        self._model.eval()
        try:
            with contextlib.nullcontext() if self.compiled is None else self.compiled.resting():
                yield
        finally:
            train_mode(self._model)

    @torch.no_grad()
    def forward(self, rows: Rows) -> torch.Tensor | None:
        self._sight.tell(rows)
        with precision.autocast(self.number_format, self._device):
            outputs = self._model(self._sight.images(rows))
        return outputs if self._is_counted else None
