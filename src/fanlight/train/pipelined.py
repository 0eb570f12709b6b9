"""The step of a rank that holds some of the layers. b rows of a microbatch, P image side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from fanlight.models.freeze import train_mode
from fanlight.parallel.comm import World
from fanlight.parallel.compiled import Compiled
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import Reduced
from fanlight.parallel.pipeline import Key, Pipeline, Work
from fanlight.train import precision
from fanlight.train.clock import StepClock
from fanlight.train.step import Sight
from fanlight.types import Batch, Rows


class PipelinedStep:
    """Gradients of the stages of this rank, whose microbatches come from the rank before and go to the next.

    `reduced`, by stage: how its gradients become sums over the ranks that hold the same stage. `is_counted`: of ranks that
    see the same rows, one tells their sums.
    """

    compiled: Compiled | None = None
    evaluates_in_threads = False  # batches travel in one order

    def __init__(
        self, stages: Mapping[int, nn.Module], sight: Sight, layout: Layout, world: World, *, number_format: str,
        reduced: Mapping[int, Reduced], is_counted: bool = True,
    ):  # fmt: skip
        self.parts = [stages[number] for number in sorted(stages)]
        self.number_format = number_format
        self._sight, self._reduced, self._is_counted = sight, reduced, is_counted
        called = {
            number: reduced[number].wrapped or module if number in reduced else module
            for number, module in stages.items()
        }
        self.pipeline = Pipeline(called, layout, world, autocast=self._autocast, example=self._example)
        self.needs_images, self.needs_targets = self.pipeline.holds_first, self.pipeline.holds_last
        self._train_mode()

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        sums = torch.zeros(3, dtype=torch.float64, device=self._sight.device)
        parts = batch.parts

        def image(microbatch: int) -> torch.Tensor:
            x = self._sight.images(parts[microbatch])
            clock.mark("copy")
            return x

        def loss(outputs: torch.Tensor, microbatch: int) -> torch.Tensor:
            loss_sum, told = self._sight.loss(outputs, parts[microbatch])
            sums.add_(told)
            return loss_sum * (loss_scale / batch.denominator)

        with contextlib.ExitStack() as sending:

            def last_backward(stage: int) -> None:
                if stage in self._reduced:
                    sending.enter_context(self._reduced[stage].accumulating(False))

            self.pipeline.step(
                Work(
                    tuple(rows.size for rows in parts), image, loss,
                    before=lambda m: self._sight.ready(parts[m], epoch=batch.position.epoch), ended=clock.mark,
                    last_backward=last_backward,
                )
            )  # fmt: skip
        clock.mark("communication")
        return sums if self._is_counted else torch.zeros_like(sums)

    def dissolve(self) -> None:
        for reduced in self._reduced.values():
            reduced.dissolve()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        for part in self.parts:
            part.eval()
        try:
            yield
            self.pipeline.drain()
        finally:
            self._train_mode()

    @torch.no_grad()
    def forward(self, rows: Rows) -> torch.Tensor | None:
        self._sight.tell(rows)
        x = self._sight.images(rows) if self.needs_images else None
        outputs = self.pipeline.evaluate(x, rows.size)
        return outputs if self._is_counted else None

    def _train_mode(self) -> None:
        for part in self.parts:
            train_mode(part)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return precision.autocast(self.number_format, self._sight.device)

    def _example(self, key: Key) -> torch.Tensor:
        rows, px = key
        return self._sight.normalise(torch.zeros((rows, px, px, 3), dtype=torch.uint8))
