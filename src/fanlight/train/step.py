"""Gradients of one optimizer step, and evaluation's forward, for a model that is whole on this rank.

b rows of a microbatch on this rank, P image side, K outputs. A step returns sums and logs nothing; nothing here waits
for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn

from fanlight.data import mix, policy
from fanlight.models.freeze import train_mode
from fanlight.models.keyed import Keys
from fanlight.parallel.compiled import Compiled
from fanlight.parallel.replicate import Replicated
from fanlight.tasks import Task
from fanlight.train import precision
from fanlight.train.clock import StepClock
from fanlight.types import Batch, Rows


class Step(Protocol):
    """What the loop needs of any layout."""

    parts: list[nn.Module]  # what this rank holds, under original names
    needs_images: bool  # this rank's forward begins with pixels
    needs_targets: bool  # this rank computes the loss

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        """Leaves the global batch's gradient in `parts`; returns this rank's [loss sum, hits, rows], float64 [3]."""
        ...

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Inside, `forward` may be called, also by several threads at once."""
        ...

    def forward(self, rows: Rows) -> torch.Tensor | None:
        """Evaluation outputs of one batch, or None on a rank that does not hold the last layer."""
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


class WholeStep:
    """Serial and replicated: the model is whole here. With `replicated`, gradients are summed over the ranks.

    `whole` is what the parts hold where `model`, which is computed, is only the end of it.
    """

    needs_images = needs_targets = True

    def __init__(
        self, model: nn.Module, task: Task, *, normalise: Callable[[torch.Tensor], torch.Tensor], number_format: str,
        seed: int, replicated: Replicated | None = None, keys: Keys | None = None, whole: nn.Module | None = None,
    ):  # fmt: skip
        self.parts = [model if whole is None else whole]
        self._model, self._task, self._replicated, self._keys = model, task, replicated, keys
        self.compiled: Compiled | None = None  # where the forward of training is
        self._normalise, self._seed = normalise, seed
        self.number_format = number_format  # of the forward; weights and sums are fp32 in any
        self._device = next(model.parameters()).device
        train_mode(model)

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        for index, rows in enumerate(batch.parts):
            more = index + 1 < len(batch.parts)
            if self._replicated is None:
                sums += self._gradients(self._model, batch, rows, loss_scale, clock)
                continue
            with self._replicated.accumulating(more):
                sums += self._gradients(self._replicated.wrapped, batch, rows, loss_scale, clock)
        return sums

    def _gradients(
        self, model: nn.Module, batch: Batch, rows: Rows, loss_scale: float, clock: StepClock
    ) -> torch.Tensor:
        x, targets = self._inputs(rows)
        mixed = None if rows.mix is None else mix.on(rows.mix, self._device)
        if mixed is not None:
            x = mix.pixels(x, mixed)
        if self._keys is not None:
            hashed_by = rows.samples if rows.keys is None else rows.keys
            samples = torch.from_numpy(hashed_by).to(self._device, non_blocking=True)
            self._keys.set(seed=self._seed, epoch=batch.position.epoch, samples=samples)
        clock.mark("copy")
        with precision.autocast(self.number_format, self._device):
            outputs = model(x)
        if mixed is None:
            loss_sum = self._task.loss_sum(outputs, targets)
        else:
            partner = mix.partners(targets)
            loss_sum = self._task.loss_sum(outputs, targets, share=mixed.share)
            loss_sum = loss_sum + self._task.loss_sum(outputs, targets[partner], share=1 - mixed.share)
        clock.mark("forward")
        # The sum over ranks of these is the gradient of the global mean: one division, by what every rank knows.
        (loss_sum * (loss_scale / batch.denominator)).backward()
        # What follows the last bucket's sending is waiting for it; a microbatch that sends nothing has no such part.
        waited = self._replicated is not None and clock.split("backward", at=self._replicated.last_bucket_at)
        clock.mark("communication" if waited else "backward")
        with torch.no_grad():
            hits = self._task.hits(outputs, targets if mixed is None else mix.larger(targets, mixed))
            return torch.stack(
                [loss_sum.detach().double(), hits.double(), torch.full_like(hits, len(targets)).double()]
            )

    def dissolve(self) -> None:
        """Takes the connection to other ranks away, before another step is made of the same model."""
        if self._replicated is not None:
            self._replicated.dissolve()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        self._model.eval()
        try:
            with contextlib.nullcontext() if self.compiled is None else self.compiled.resting():
                yield
        finally:
            train_mode(self._model)

    @torch.no_grad()
    def forward(self, rows: Rows) -> torch.Tensor:
        x, _ = self._inputs(rows)
        with precision.autocast(self.number_format, self._device):
            return self._model(x)

    def _inputs(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        assert rows.images is not None and rows.targets is not None
        images = rows.images
        if rows.changes is not None:
            images = policy.change_batch(images.to(self._device, non_blocking=True), rows.changes)
        return self._normalise(images), rows.targets.to(self._device, non_blocking=True)
