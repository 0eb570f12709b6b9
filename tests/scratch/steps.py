"""Steps of one network by operators and by torch's modules, from the same weights on the same rows."""

import copy
from typing import Any

import numpy as np
import torch

from fanlight import config as configuration
from fanlight.models import keyed, line, line_net
from fanlight.parallel import comm
from fanlight.scratch.step import Mover, ScratchStep
from fanlight.tasks.classify import Classify
from fanlight.train.clock import StepClock
from fanlight.train.optim import Optimizer
from fanlight.train.step import Normalise, Sight, WholeStep
from fanlight.types import Batch, Position, Rows

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


class Sample:
    """A network's modules, and steps on them. `weights`: of classes, in the loss."""

    def __init__(self, text: str, *, px: int, dtype: torch.dtype = torch.float64, weights: tuple | None = None):
        self.line, self.px, self.dtype = line.parse(text), px, dtype
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = line_net.build(self.line, image=(3, px, px), classes=3).to(dtype)
        keyed.install(self.model)
        self.task = Classify(CLASSES, 0.0, weights)

    def step(self, backend: str, *, world: comm.World | None = None) -> Any:
        """A step on a copy of the weights; `torch` is the modules themselves."""
        model = copy.deepcopy(self.model)
        keys = keyed.Keys()
        for module in model.modules():
            if isinstance(module, keyed.KeyedDropout):
                module.keys = keys
        normalise = Normalise((0.5,) * 3, (0.25,) * 3, like=next(model.parameters()), channels_last=False)
        sight = Sight(self.task, normalise, 3, CPU, keys)
        if backend == "torch":
            return WholeStep(model, sight, number_format="fp32")
        placed = line.place(self.line, image=(3, self.px, self.px), classes=3)
        return ScratchStep(
            model, placed, sight, world or comm.alone(), backend=backend, class_weights=self.task.class_weights
        )

    def batch(self, sizes: list[int], *, number: int = 0) -> Batch:
        """Rows of noise in microbatches of `sizes`."""
        draws = np.random.default_rng(number)
        parts = []
        for index, size in enumerate(sizes):
            pixels = torch.from_numpy(draws.integers(0, 256, (size, self.px, self.px, 3), np.uint8))
            targets = torch.from_numpy(draws.integers(0, 3, size))
            parts.append(Rows(np.arange(size) + 100 * index, pixels, targets))
        return Batch(Position(number, 0), tuple(parts), float(sum(sizes)), 0.0)


def ticking() -> StepClock:
    clock = StepClock(CPU)
    clock.begin()
    clock.arrived()
    return clock


def gradients(step: Any, batch: Batch) -> tuple[list[float], dict[str, np.ndarray]]:
    """Sums and gradients of one step."""
    step.parts[0].zero_grad()
    sums = step(batch, loss_scale=1.0, clock=ticking()).tolist()
    return sums, {name: p.grad.numpy().copy() for name, p in step.parts[0].named_parameters()}


def curve(sample: Sample, backend: str, *, optimizer: str, steps: int, sizes: list[int]) -> list[float]:
    """Losses of training from the sample's weights; a few batches again and again."""
    step = sample.step(backend)
    asked = configuration.Optim(name=optimizer, lr=0.02, weight_decay=0.01, clip_norm=1.0)
    moves = Optimizer(step.parts, asked, steps=steps, scaled=False)
    if backend != "torch":
        moves.torch = Mover(moves.torch.param_groups, asked, backend=backend, arrays=step.arrays)
    losses = []
    for index in range(steps):
        losses.append(step(sample.batch(sizes, number=index % 3), loss_scale=1.0, clock=ticking())[0].item())
        moves.update(index)
    return losses
