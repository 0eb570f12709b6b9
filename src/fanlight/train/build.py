"""From a resolved config and a manifest to everything the loop needs on one rank: data, model, step, optimizer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fanlight import tasks
from fanlight.config import Config
from fanlight.data import order, pack, sampling, source
from fanlight.data.loader import Cutting, Samples
from fanlight.data.manifest import SPLITS, Manifest
from fanlight.errors import ConfigError, DataError
from fanlight.models import freeze, keyed, recompute, tail, zoo
from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.parallel.compiled import Compiled
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import place, replicate
from fanlight.tasks import Task
from fanlight.train import features, phases
from fanlight.train.ema import Average
from fanlight.train.optim import Optimizer
from fanlight.train.step import Cached, Normalise, WholeStep

THREADS_PAY_FLOP = 5e7  # of a last layer's forward: about 1 ms of one core; below that threads wait for each other


def open_source(config: Config, manifest: Manifest, world: World) -> source.Source:
    """Canvases of the manifest: its pack, made once per machine where it is missing, or the files."""
    canvas_px = config.data.canvas_px or 0
    if not config.execution.pack:
        return source.Files(manifest, canvas_px=canvas_px)
    place: dict[str, Any] = {"canvas_px": canvas_px, "parent": pack.parent(config.execution.pack_dir)}
    if world.local_rank == 0 and pack.find(manifest, **place) is None:  # another machine than the one that prepared
        pack.make(manifest, **place, workers=config.execution.threads or 1)
    world.barrier()
    made = pack.find(manifest, **place)
    if made is None:
        raise DataError(f"the pack in {place['parent']} vanished while ranks were starting; train again")
    return source.of_pack(made, manifest)


def split_samples(config: Config, manifest: Manifest, task: Task, where: source.Source, split: str) -> Samples:
    """One split's samples in manifest order."""
    rows = manifest.rows(split)
    targets = task.targets(manifest, rows)
    blocks = where.places[rows] // order.BLOCK_BYTES if config.data.order == "blocks" else None
    draws = sampling.draws(manifest, rows, sampling=config.data.sampling) if split == "train" else None
    return Samples(where, rows, targets, task.weights(targets), blocks, draws)


@dataclass
class Training:
    """What one rank trains with: the whole model, or its last layer on features."""

    config: Config
    manifest: Manifest
    world: World
    layout: Layout
    task: Task
    images: dict[str, Samples]  # by split, those that have images
    cutting: Cutting
    model: nn.Module  # whole, on this rank's device
    keys: keyed.Keys
    steps_per_epoch: int
    notes: list[str]
    samples: dict[str, Samples] = field(init=False)  # what steps and evaluations see: `images`, or features of them
    step: WholeStep = field(init=False)
    optimizer: Optimizer = field(init=False)
    average: Average | None = field(init=False)  # of the weights, where the config asks for one

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
            self.step = self._step_of(last, Cached(like=next(last.parameters())), keys=keys, whole=self.model)
        else:
            self.step = self._step_of(self.model, self._normalise(), keys=self.keys)
        self.optimizer = Optimizer(
            self.step.parts, config.optim, steps=(phase.end - phase.first) * self.steps_per_epoch,
            scaled=config.train.precision == "fp16", first_step=phase.first * self.steps_per_epoch,
            lr_scale=phase.lr_scale,
        )  # fmt: skip
        means = self.average.tensors() if kept and self.average is not None else {}
        self.average = Average(self.step.parts, decay=config.train.ema) if config.train.ema is not None else None
        if kept:
            self.optimizer.restore(kept[0])
            self.optimizer.restore_scalars(kept[1])
            self._restore_average(means)

    def update(self, step: int) -> torch.Tensor:
        """Moves the weights by the gradients of optimizer step `step`, then their average; the gradients' norm."""
        norm = self.optimizer.update(step)
        if self.average is not None:
            self.average.update(step)
        return norm

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model is what is evaluated and exported: the averaged weights where there are any."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

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
        images = WholeStep(
            self.model, self.task, normalise=self._normalise(), number_format=self.config.train.precision or "fp32",
            seed=self.config.train.seed,
        )  # fmt: skip
        self.samples = features.samples(
            images, self.images, self.cutting, self.world, config=self.config, manifest=self.manifest
        )
        if at_once < THREADS_PAY_FLOP:
            torch.set_num_threads(1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint holds, by canonical name."""
        found = {f"model.{name}": value for part in self.step.parts for name, value in part.state_dict().items()}
        return found | self.optimizer.tensors() | (self.average.tensors() if self.average is not None else {})

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave, in any layout."""
        for part in self.step.parts:
            names = part.state_dict().keys()
            part.load_state_dict({name: tensors[f"model.{name}"] for name in names})
        self.optimizer.restore(tensors)
        if self.average is not None and self.config.train.ema is not None:
            self.average = Average(self.step.parts, decay=self.config.train.ema)  # of the weights as they are now
            self._restore_average(tensors)

    def _restore_average(self, tensors: dict[str, torch.Tensor]) -> None:
        """Averages that `tensors` has; those of weights that only now begin to train are the weights themselves."""
        if self.average is not None:
            self.average.restore(self.average.tensors() | tensors)

    def _normalise(self) -> Normalise:
        a, like = self.config.augment, next(self.model.parameters())
        return Normalise(a.mean, a.std, like=like, channels_last=bool(self.config.execution.channels_last))

    def _step_of(
        self,
        computed: nn.Module,
        prepare: Normalise | Cached,
        *,
        keys: keyed.Keys | None,
        whole: nn.Module | None = None,
    ) -> WholeStep:
        """A step of the `computed` part of the model, its gradients summed over ranks."""
        t, px = self.config.train, self.cutting.image_px
        replicated = replicate(computed, self.layout, self.world)
        step = WholeStep(
            computed, self.task, normalise=prepare, number_format=t.precision or "fp32", seed=t.seed,
            replicated=replicated, keys=keys, whole=whole,
        )  # fmt: skip
        if self.config.execution.compile:
            step.compiled = Compiled(computed, device=self.world.device)  # replicated before: blocks keep their places
        if replicated is not None:
            self.keys.set(seed=t.seed, epoch=0, samples=torch.zeros(2, dtype=torch.int64, device=self.world.device))
            normalise = self._normalise()
            example = normalise(torch.zeros((2, px, px, 3), dtype=torch.uint8))
            if whole is not None:
                example = tail.features(whole, example)
            replicated.settle(example)
        return step


def create_model(config: Config, manifest: Manifest, *, resumed: bool = False) -> zoo.Created:
    """The whole network on the CPU, weights from the seed or as the config says, frozen where it says so.

    `resumed`: a checkpoint brings the weights, so neither a file nor a hub is asked for them. ConfigError where a frozen
    network would be left with random weights.
    """
    assert config.model.name is not None and config.data.image_px is not None
    created = zoo.create(
        config.model.name, classes=len(manifest.classes), image_px=config.data.image_px, seed=config.train.seed,
        pretrained=config.model.pretrained and not resumed, weights=None if resumed else config.model.weights,
    )  # fmt: skip
    if config.model.freezes and config.model.pretrained and not created.pretrained and not resumed:
        field, way = ("freeze", "--no-freeze") if config.model.freeze else ("freeze_epochs", "--freeze-epochs 0")
        raise ConfigError(
            f"model.{field} would keep random weights: {created.notes[-1]}; give --weights FILE, or {way}"
        )
    if config.data.image_px_start is not None:
        _check_sizes(created.model, config, classes=len(manifest.classes))
    if config.model.freezes:
        freeze.freeze(created.model)
    if config.execution.cache_features:
        try:
            tail.check(created.model, torch.zeros((1, 3, config.data.image_px, config.data.image_px)))
        except ConfigError as error:
            raise ConfigError(f"features cannot be cached: {error}; use --no-cache-features") from None
    return created


def _check_sizes(model: nn.Module, config: Config, *, classes: int) -> None:
    """ConfigError unless the network takes every side that training images will have."""
    cutting = cut_batches(config, rank=0, ranks=1)
    for px in sorted({cutting.side_px(epoch) for epoch in range(cutting.epochs)}):
        why = zoo.refusal(model, px, classes=classes)
        if why:
            raise ConfigError(
                f"data.image_px_start is {config.data.image_px_start}, and {config.model.name}, made for "
                f"{config.data.image_px} px, takes no images of {px} px ({why}); leave --image-size-start out, start larger, "
                "or use another --model"
            )


def cut_batches(config: Config, *, rank: int, ranks: int) -> Cutting:
    """How a resolved config cuts batches for one of the `ranks` that see different rows."""
    a, t = config.augment, config.train
    assert a.crop_share is not None and a.eval_share is not None
    return Cutting(
        batch=t.batch_size or 1, microbatches=t.microbatches, rank=rank, ranks=ranks, seed=t.seed, flip=bool(a.flip),
        image_px=config.data.image_px or 0, crop_share=a.crop_share, crop_ratio=a.crop_ratio, eval_share=a.eval_share,
        augment=a, start_px=config.data.image_px_start, epochs=t.epochs or 1,
    )  # fmt: skip


def _unkeyed_note(model: torch.nn.Module, config: Config) -> list[str]:
    """Says which modules draw random numbers by process and not by sample: with them, ranks and a resume differ."""
    left = keyed.unkeyed(model)
    if not left:
        return []
    return [
        f"{config.model.name} draws random numbers that are not keyed by sample in {len(left)} modules, first {left[0]}: "
        "another number of ranks, or a resumed run, is not the same run bit for bit"
    ]


def build(
    config: Config, manifest: Manifest, world: World, *, where: source.Source | None = None,
    dtype: torch.dtype = torch.float32, resumed: bool = False,
) -> Training:  # fmt: skip
    """Every rank calls it with the same arguments. `dtype` float64 is for proofs of equality; `resumed` as create_model."""
    e, t = config.execution, config.train
    assert e.layout is not None and t.epochs is not None and t.batch_size is not None and t.precision is not None
    layout = layouts.parse(e.layout, ranks=world.ranks)
    where = where or open_source(config, manifest, world)
    task = tasks.of(config, manifest)
    images = {split: split_samples(config, manifest, task, where, split) for split in SPLITS}
    images = {split: part for split, part in images.items() if len(part)}
    created = create_model(config, manifest, resumed=resumed)
    model = created.model.to(dtype)
    keys = keyed.install(model)
    if e.recompute:
        recompute.install(model, keys)
    notes = [*created.notes, *task.notes, *_unkeyed_note(model, config)]
    place(model, layout, world, channels_last=bool(e.channels_last))
    cutting = cut_batches(config, rank=layout.data_rank(world.rank), ranks=layout.data_ranks)
    return Training(
        config, manifest, world, layout, task, images, cutting, model, keys,
        order.steps_per_epoch(len(images["train"]), t.batch_size), notes,
    )  # fmt: skip
