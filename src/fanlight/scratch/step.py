"""The trainer's step and optimizer on a table of operators: weights, checkpoints, ranks and records are the project's own.

b rows of a microbatch on this rank, K classes. Weights and their gradients are torch tensors of which operators see the same
memory; all gradients are one flat array, which the ranks sum in one exchange.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import config as configuration
from fanlight.models.line import Placed
from fanlight.parallel import comm
from fanlight.parallel.comm import World
from fanlight.scratch.backends import Arrays, Memory, table
from fanlight.scratch.layers import Pass
from fanlight.scratch.net import Net
from fanlight.train.clock import StepClock
from fanlight.train.step import Sight
from fanlight.types import Batch, Rows


class ScratchStep:
    """train.step.Step by operators from scratch. `model` holds the weights by their names and is never called."""

    needs_images = needs_targets = True
    evaluates_in_threads = False  # a forward's rooms are one set
    compiled = None
    number_format = "fp32"

    def __init__(
        self, model: nn.Module, placed: tuple[Placed, ...], sight: Sight, world: World, *, backend: str,
        class_weights: tuple[float, ...] | None = None,
    ):  # fmt: skip
        self.parts = [model]
        self.table = table(backend)
        self.arrays = Arrays(self.table, device=world.device)
        self.memory = Memory(self.arrays)
        self._net = Net(placed, fuses_pooling=hasattr(self.table, "conv2d_pooled"))
        self._sight, self._world = sight, world
        self._exchange = None if world.norm is None else RankStatistics(self.arrays, world.norm)
        self._parameters = dict(model.named_parameters())
        self._buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._counts = [buffer for name, buffer in model.named_buffers() if not buffer.is_floating_point()]
        like = next(iter(self._parameters.values()))
        self._class_weights: torch.Tensor | None = None
        if class_weights is not None:
            self._class_weights = torch.tensor(class_weights, dtype=like.dtype, device=like.device)
        self._flat = torch.zeros(
            sum(p.numel() for p in self._parameters.values()), dtype=like.dtype, device=like.device
        )
        ends = np.cumsum([p.numel() for p in self._parameters.values()]).tolist()
        self._gradients = {
            name: self._flat[end - p.numel() : end].view(p.shape)
            for (name, p), end in zip(self._parameters.items(), ends)
        }

    def __call__(self, batch: Batch, *, loss_scale: float, clock: StepClock) -> torch.Tensor:
        sums = torch.zeros(3, dtype=torch.float64, device=self._world.device)
        for index, rows in enumerate(batch.parts):
            x = self.arrays.of(self._sight.images(rows).contiguous())
            self._sight.ready(rows, epoch=batch.position.epoch)
            clock.mark("copy")
            run = self._pass(is_training=True, adds=index > 0)
            logits = self._net.forward(x, run)
            assert rows.targets is not None
            targets_B = rows.targets.to(self._world.device, non_blocking=True)
            targets = self.arrays.of(targets_B)
            losses, shares = self.table.cross_entropy(
                logits, targets, out=self.memory.room("probabilities", tuple(logits.shape), logits)
            )
            sums += self._sums(losses, logits, targets_B)
            clock.mark("forward")
            scale = self._row_weights(targets_B) * (loss_scale / batch.denominator)
            grad = self.memory.room("gradient of logits", tuple(logits.shape), logits)
            grad = self.table.cross_entropy_backward(shares, targets, scale=self.arrays.of(scale), out=grad)
            self._net.backward(grad, run)
            for count in self._counts:
                count.add_(1)
            clock.mark("backward")
        if self._world.group is not None:
            comm.summed(self._flat, self._world.group, what="gradients")
            clock.mark("communication")
        for name, parameter in self._parameters.items():
            parameter.grad = self._gradients[name]
        return sums

    def forward(self, rows: Rows) -> torch.Tensor | None:
        x = self.arrays.of(self._sight.images(rows).contiguous())
        return self.arrays.tensor(self._net.forward(x, self._pass(is_training=False))).clone()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def dissolve(self) -> None:
        """Nothing holds the parameters."""

    def _pass(self, *, is_training: bool, adds: bool = False) -> Pass:
        weights = {name: self.arrays.of(tensor) for name, tensor in (*self._parameters.items(), *self._buffers.items())}
        return Pass(
            self.table, self.memory, weights, is_training, keys=self._keys, exchange=self._exchange,
            gradients={name: self.arrays.of(tensor) for name, tensor in self._gradients.items()}, adds=adds,
        )  # fmt: skip

    def _keys(self, draw: int) -> Any:
        assert self._sight.keys is not None
        return self.arrays.keys(self._sight.keys.of_draw(draw))

    def _row_weights(self, targets_B: torch.Tensor) -> torch.Tensor:
        """[b], what each row counts in the loss."""
        if self._class_weights is None:
            return torch.ones(len(targets_B), dtype=self._flat.dtype, device=targets_B.device)
        return self._class_weights[targets_B]

    def _sums(self, losses: Any, logits: Any, targets_B: torch.Tensor) -> torch.Tensor:
        """[loss sum, hits, rows], float64 [3]; nothing here waits for a GPU."""
        each_B = self.arrays.tensor(losses) * self._row_weights(targets_B)
        hits = self._sight.task.hits(self.arrays.tensor(logits), targets_B)
        return torch.stack([each_B.double().sum(), hits.double(), torch.full_like(hits, len(targets_B)).double()])


class RankStatistics:
    """What batch norms exchange, summed over the ranks of `group` in float64: counts stay whole, and far from 0 no digit of
    the means' spread is lost. Squares are taken around the merged mean (Chan, Golub and LeVeque 1979)."""

    def __init__(self, arrays: Arrays, group: Any):
        self._arrays, self._group = arrays, group

    def merged(self, mean: Any, var: Any, *, count: int) -> tuple[Any, Any, int]:
        own_mean, own_var = (self._arrays.tensor(each).double() for each in (mean, var))
        sums = self._sum(torch.cat([own_mean * count, own_mean.new_full((1,), count)]))
        merged, total = sums[:-1] / sums[-1], int(sums[-1].item())
        spread = self._sum(count * (own_var + (own_mean - merged).square())) / total
        return self._back(merged, mean), self._back(spread, var), total

    def summed(self, *sums: Any) -> tuple[Any, ...]:
        tensors = [self._arrays.tensor(each).double() for each in sums]
        total = self._sum(torch.stack(tensors))
        return tuple(self._back(row, like) for row, like in zip(total, sums))

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        return comm.summed(values.contiguous(), self._group, what="statistics of norms")

    def _back(self, values: torch.Tensor, like: Any) -> Any:
        return self._arrays.of(values.to(self._arrays.tensor(like).dtype).contiguous())


class Mover(torch.optim.Optimizer):
    """SGD and AdamW of a table, with the states, under the names, that torch's have: a checkpoint knows no difference."""

    grad_scale: torch.Tensor | None = None  # what gradients are divided by first, as torch's fused optimizers take it
    found_inf: torch.Tensor | None = None  # 1 where nothing may move; where either is on a GPU, nobody waits for it

    def __init__(self, groups: list[dict[str, Any]], config: configuration.Optim, *, backend: str, arrays: Arrays):
        self._config, self._table, self._arrays = config, table(backend), arrays
        kept = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
        super().__init__(kept, {"lr": config.lr or 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        divisor = self._divisor()
        if isinstance(divisor, float) and not math.isfinite(divisor):
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, lr=group["lr"], weight_decay=group["weight_decay"], divisor=divisor)

    def _divisor(self) -> float | torch.Tensor:
        """What gradients are divided by; no number where nothing may move."""
        divisor = self.grad_scale
        if self.found_inf is not None:
            divisor = torch.ones_like(self.found_inf) if divisor is None else divisor
            divisor = torch.where(self.found_inf > 0, math.nan, divisor)
        if divisor is None:
            return 1.0
        return divisor if self._arrays.is_torch else divisor.item()

    def _move(self, parameter: torch.Tensor, *, lr: float, weight_decay: float, divisor: float | torch.Tensor) -> None:
        state, c = self.state[parameter], self._config
        assert parameter.grad is not None
        weights = [self._arrays.of(parameter), self._arrays.of(parameter.grad)]
        how = {"lr": lr, "weight_decay": weight_decay, "divisor": divisor}
        if c.name == "sgd":
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            velocity = self._arrays.of(state["momentum_buffer"])
            self._table.sgd(*weights, velocity, momentum=c.momentum, nesterov=c.momentum > 0, **how)
            return
        if not state:
            state.update(
                step=torch.tensor(0.0), exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter)
            )
        state["step"] = state["step"].cpu() + 1  # of a run that goes on it is on the GPU, where to read it is to wait
        moments = [self._arrays.of(state[name]) for name in ("exp_avg", "exp_avg_sq")]
        self._table.adamw(*weights, *moments, step=int(state["step"].item()), betas=c.betas, **how)
