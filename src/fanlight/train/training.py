"""What one rank trains with, put together for the phase that an epoch belongs to: step, optimizer, averages; and what of it
a checkpoint holds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fanlight.config import Config
from fanlight.data.loader import Cutting, Samples
from fanlight.data.manifest import Manifest
from fanlight.models import freeze, keyed, tail
from fanlight.parallel import tensor
from fanlight.parallel.comm import World
from fanlight.parallel.compiled import Compiled
from fanlight.parallel.held import Held, local
from fanlight.parallel.layout import Layout
from fanlight.parallel.local_sgd import Meetings
from fanlight.parallel.parallelize import Placed, Reduced, reduced_over_ranks
from fanlight.parallel.total import TotalNorm
from fanlight.tasks import Task
from fanlight.train import features, layouting, parts, phases
from fanlight.train.ema import Average
from fanlight.train.optim import Optimizer
from fanlight.train.pipelined import PipelinedStep
from fanlight.train.step import Cached, Normalise, Sight, Step, WholeStep, listeners, tell_example

THREADS_PAY_FLOP = 5e7  # of a last layer's forward: about 1 ms of one core; below that threads wait for each other


@dataclass
class Training:
    """What one rank trains with: its part of the model, or the last layer on features."""

    config: Config
    manifest: Manifest
    world: World
    layout: Layout
    task: Task
    images: dict[str, Samples]  # by split, those that have images
    cutting: Cutting
    placed: Placed  # what of the model is on this rank's device
    keys: keyed.Keys
    parameters: str  # of the whole model, in words
    steps_per_epoch: int
    notes: list[str]
    samples: dict[str, Samples] = field(init=False)  # what steps and evaluations see: `images`, or features of them
    step: Step = field(init=False)
    held: dict[str, Held] = field(init=False)  # parameters and buffers of which this rank has a part
    optimizer: Optimizer = field(init=False)
    average: Average | None = field(init=False)  # of the weights, where the config asks for one
    meetings: Meetings | None = field(init=False)  # of ranks that train apart
    _names: frozenset[str] = field(init=False)  # of the parameters and buffers that this rank has a part of

    phase: phases.Phase | None = None

    def __post_init__(self) -> None:
        self.enter(0)

    def enter(self, epoch: int) -> None:
        """Connects this rank to the others for what trains in `epoch`; the optimizer keeps what it knows of weights that
        go on training. Before `restore`, where that is of a later phase. Collective; does nothing within a phase."""
        config, phase = self.config, phases.at(self.config, epoch)
        if phase == self.phase:
            return
        kept = (self.optimizer.tensors(), self.optimizer.scalars()) if self.phase else None
        if self.phase is not None:
            self.step.dissolve()
            freeze.unfreeze(self.model)
            torch.set_num_threads(config.execution.threads or 1)
        self.phase, self.samples = phase, self.images
        if self.is_cached:
            last = tail.Tail(self.model)
            keys = self.keys if keyed.holds(last) else None
            sight = self._sight(Cached(like=next(last.parameters())), keys=keys)
            self.step = self._step_of(last, sight, whole=self.model)
        elif self.layout.pp > 1:
            self.step = self._pipelined_step(self._sight(self._normalise(), keys=self.keys))
        else:
            self.step = self._step_of(self.model, self._sight(self._normalise(), keys=self.keys))
        self.optimizer = Optimizer(
            self.step.parts, config.optim, steps=(phase.end - phase.first) * self.steps_per_epoch,
            scaled=config.train.precision == "fp16", first_step=phase.first * self.steps_per_epoch,
            lr_scale=phase.lr_scale, total_norm=self._total_norm(),
        )  # fmt: skip
        self._names = frozenset(name for part in self.step.parts for name in part.state_dict())
        self.meetings = self._meetings()
        means = self.average.tensors() if kept and self.average is not None else {}
        self.average = Average(self.step.parts, decay=config.train.ema) if config.train.ema is not None else None
        if kept:
            self.optimizer.restore(kept[0])
            self.optimizer.restore_scalars(kept[1])
            self._restore_average(means)

    def update(self, step: int) -> torch.Tensor:
        """`ready` and `move`; the gradients' norm."""
        norm = self.ready()
        self.move(step)
        return norm

    def ready(self) -> torch.Tensor:
        """After a step's gradients: their norm, and everything that ranks agree on before weights move. Collective."""
        if self.layout.tp > 1 and (self.world.device.type == "cuda" or self.world.local_ranks < self.world.ranks):
            tensor.keep_equal(self.step.parts, self.placed.held, self.world.tensor)
        return self.optimizer.ready()

    def move(self, step: int) -> None:
        """Moves the weights by the gradients of optimizer step `step`, then their average. No rank waits for another here,
        unless ranks that train apart meet."""
        self.optimizer.move(step)
        if self.average is not None:
            self.average.update(step)
        if self.meetings is not None:
            self.meetings.after(step)

    def meets_after(self, step: int) -> bool:
        """Whether ranks that train apart meet after optimizer step `step`: what is saved then costs no further mean."""
        return self.meetings is not None and self.meetings.is_due(step)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model is what is evaluated and exported: the averaged weights where there are any. Collective."""
        if self.meetings is not None:
            return self.meetings.together()
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    @property
    def model(self) -> nn.Module:
        """The module of this rank: all layers, or a pipeline's first stage here."""
        return self.placed.stages[min(self.placed.stages)]

    @property
    def is_cached(self) -> bool:
        """Whether steps see features, which the frozen network computes once, in place of images."""
        assert self.phase is not None
        return self.phase.is_frozen and bool(self.config.execution.cache_features)

    def feed(self) -> None:
        """Puts features in the place of images where the last layer alone is computed: after `restore`, since weights
        decide them. Collective; a second call does nothing."""
        if not self.is_cached or self.samples is not self.images:
            return
        at_once = 2 * self.cutting.batch // self.cutting.ranks * sum(p.numel() for p in self.optimizer.named.values())
        sight = Sight(self.task, self._normalise(), self.config.train.seed, self.world.device)
        images = WholeStep(self.model, sight, number_format=self.config.train.precision or "fp32")
        self.samples = features.samples(
            images, self.images, self.cutting, self.world, config=self.config, manifest=self.manifest
        )
        if at_once < THREADS_PAY_FLOP:
            torch.set_num_threads(1)

    def weights(self) -> dict[str, torch.Tensor]:
        """This rank's parts of the model's parameters and buffers, by name, sharing their memory."""
        return {name: local(value) for part in self.step.parts for name, value in part.state_dict().items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint holds of this rank, by canonical name. Collective."""
        found = {f"model.{name}": value for name, value in self.weights().items()} | self.optimizer.tensors()
        if self.meetings is not None:
            return self.meetings.checkpoint(found)
        return found | (self.average.tensors() if self.average is not None else {})

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """The whole model's parameters and buffers on rank 0; None elsewhere. Collective."""
        if self.layout.is_whole:
            return self.weights() if self.world.is_first else None
        return parts.whole_on_first(self.weights(), self.held.get, self.world)

    def held_of(self, key: str) -> Held | None:
        """Which part of the whole the tensor `key` of `tensors` is; None: all of it. A parameter's states are divided as it
        is, save their counts of steps."""
        kind, _, name = key.partition(".")
        if kind == "optim":
            name, _, state = name.rpartition(".")
            if state == "step":
                return None
        return self.held.get(name)

    def part_of(self, key: str) -> Held | None:
        """As held_of, of a key that any layout wrote: parts.NOTHING where this rank has no part of it."""
        if key.startswith("local"):
            return None if self.meetings is not None and self.meetings.wants(key) else parts.NOTHING
        kind, _, name = key.partition(".")
        name = name.rpartition(".")[0] if kind == "optim" else name
        if name not in self._names:
            return parts.NOTHING
        return self.held_of(key)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave, this rank's parts of it, in any layout. KeyError where one is missing."""
        if self.meetings is not None:
            tensors = self.meetings.own(tensors)
        for name, value in self.weights().items():
            value.copy_(tensors[f"model.{name}"])
        self.optimizer.restore(tensors)
        if self.average is not None and self.config.train.ema is not None:
            self.average = Average(self.step.parts, decay=self.config.train.ema)  # of the weights as they are now
            self._restore_average(tensors)

    def _restore_average(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Averages that `tensors` has; those of weights that only now begin to train are the weights themselves."""
        if self.average is not None:
            own = self.average.tensors()
            self.average.restore({key: tensors.get(key, value) for key, value in own.items()})

    def _normalise(self) -> Normalise:
        a, like = self.config.augment, next(self.model.parameters())
        return Normalise(a.mean, a.std, like=like, channels_last=bool(self.config.execution.channels_last))

    def _sight(self, prepare: Normalise | Cached, *, keys: keyed.Keys | None) -> Sight:
        return Sight(
            self.task, prepare, self.config.train.seed, self.world.device, keys, listeners(self.placed.stages.values())
        )  # fmt: skip

    @property
    def _is_counted(self) -> bool:
        """Of ranks that see the same rows through the same layers, the first tells what came of them."""
        return self.layout.place(self.world.rank).tp == 0

    def _reduced(self, trained: nn.Module | None = None) -> dict[int, Reduced]:
        number_format = self.config.train.precision or "fp32"
        found = reduced_over_ranks(
            self.placed, self.layout, self.world, number_format=number_format, trained=trained,
            bucket_mb=self.config.execution.bucket_mb,
            sent_as=torch.bfloat16 if self.config.train.compress_gradients == "bf16" else None,
        )  # fmt: skip
        self.held = {**self.placed.held}
        for each in found.values():
            self.held |= getattr(each, "held", {})
        return found

    def _step_of(self, computed: nn.Module, sight: Sight, *, whole: nn.Module | None = None) -> WholeStep:
        """A step of the `computed` part of the model, its gradients summed over ranks."""
        t, px = self.config.train, self.cutting.image_px
        reduced = self._reduced(computed).get(0)
        step = WholeStep(
            computed, sight, number_format=t.precision or "fp32", reduced=reduced, whole=whole,
            is_counted=self._is_counted, factor=self.layout.data_ranks if self.layout.is_periodic else 1.0,
            is_alone=self.layout.is_whole,
        )  # fmt: skip
        if self.config.execution.compile:
            step.compiled = Compiled(computed, device=self.world.device)  # replicated before: blocks keep their places
        if reduced is not None:
            self.keys.set(seed=t.seed, epoch=0, samples=torch.zeros(2, dtype=torch.int64, device=self.world.device))
            tell_example(self.task, sight.listeners, rows=2, device=self.world.device)
            example = self._normalise()(torch.zeros((2, px, px, 3), dtype=torch.uint8))
            if whole is not None:
                example = tail.features(whole, example)
            reduced.settle(example)
        return step

    def _pipelined_step(self, sight: Sight) -> PipelinedStep:
        """A step of this rank's stages."""
        return PipelinedStep(
            self.placed.stages, sight, self.layout, self.world, number_format=self.config.train.precision or "fp32",
            reduced=self._reduced(), is_counted=self._is_counted,
        )  # fmt: skip

    def _meetings(self) -> Meetings | None:
        if not self.layout.is_periodic:
            return None
        t, o = self.config.train, self.config.optim
        outer = {} if self.layout.name == "local-sgd" else {"outer_lr": o.outer_lr, "outer_momentum": o.outer_momentum}
        return Meetings(
            self.step.parts, self.world, every=t.sync_every or layouting.SYNC_EVERY,
            steps=self.steps_per_epoch * (t.epochs or 0), **{key: value for key, value in outer.items() if value is not None},
        )  # fmt: skip

    def _total_norm(self) -> TotalNorm | None:
        """How the gradient's norm is found where no rank holds all of it."""
        if self.layout.is_whole or self.world.everyone is None:
            return None
        names = [name for part in self.step.parts for name, _ in part.named_parameters()]
        copies = {
            name: self.layout.dp_replicate * (1 if name in self.placed.held else self.layout.tp) for name in names
        }
        return TotalNorm(copies, self.world.everyone, self.world.device)
