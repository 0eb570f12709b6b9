"""From a resolved config and a manifest to everything the loop needs on one rank: data, model, step, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fanlight import tasks
from fanlight.config import Config
from fanlight.data import cache, order, pack, source
from fanlight.data.loader import Cutting, Samples
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError
from fanlight.models import freeze, keyed, zoo
from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import parallelize
from fanlight.tasks import Task
from fanlight.train.optim import Optimizer
from fanlight.train.step import Normalise, WholeStep

SPLITS = ("train", "val", "test")


def pack_parent(config: Config) -> Path:
    """The folder that holds packs."""
    return Path(config.execution.pack_dir).expanduser() if config.execution.pack_dir else cache.folder() / "packs"


def open_source(config: Config, manifest: Manifest, world: World) -> source.Source:
    """Canvases of the manifest: its pack, made once per machine where it is missing, or the files."""
    canvas_px = config.data.canvas_px or 0
    if not config.execution.pack:
        return source.Files(manifest, canvas_px=canvas_px)
    place: dict[str, Any] = {"canvas_px": canvas_px, "parent": pack_parent(config)}
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
    return Samples(where, rows, targets, task.weights(targets), blocks)


@dataclass
class Training:
    """What one rank trains with."""

    config: Config
    manifest: Manifest
    world: World
    layout: Layout
    task: Task
    samples: dict[str, Samples]  # by split, those that have images
    cutting: Cutting
    step: WholeStep
    optimizer: Optimizer
    steps_per_epoch: int
    notes: list[str]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint holds, by canonical name."""
        found = {f"model.{name}": value for part in self.step.parts for name, value in part.state_dict().items()}
        return found | self.optimizer.tensors()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave, in any layout."""
        for part in self.step.parts:
            names = part.state_dict().keys()
            part.load_state_dict({name: tensors[f"model.{name}"] for name in names})
        self.optimizer.restore(tensors)


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
    if config.model.freeze and config.model.pretrained and not created.pretrained and not resumed:
        raise ConfigError(
            f"model.freeze would keep random weights: {created.notes[-1]}; give --weights FILE, or --no-freeze"
        )
    if config.model.freeze:
        freeze.freeze(created.model)
    return created


def cut_batches(config: Config, *, rank: int, ranks: int) -> Cutting:
    """How a resolved config cuts batches for one of the `ranks` that see different rows."""
    a, t = config.augment, config.train
    assert a.crop_share is not None and a.eval_share is not None
    return Cutting(
        batch=t.batch_size or 1, microbatches=t.microbatches, rank=rank, ranks=ranks, seed=t.seed, flip=bool(a.flip),
        image_px=config.data.image_px or 0, crop_share=a.crop_share, crop_ratio=a.crop_ratio, eval_share=a.eval_share,
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
    samples = {split: split_samples(config, manifest, task, where, split) for split in SPLITS}
    samples = {split: part for split, part in samples.items() if len(part)}
    created = create_model(config, manifest, resumed=resumed)
    model = created.model.to(dtype)
    keys = keyed.install(model)
    notes = [*created.notes, *_unkeyed_note(model, config)]
    replicated = parallelize(model, layout, world, channels_last=bool(e.channels_last))
    steps_per_epoch = order.steps_per_epoch(len(samples["train"]), t.batch_size)
    scaled = t.precision == "fp16"
    normalise = Normalise(
        config.augment.mean, config.augment.std, like=next(model.parameters()), channels_last=bool(e.channels_last)
    )
    step = WholeStep(
        model, task, normalise=normalise, number_format=t.precision, seed=t.seed, replicated=replicated, keys=keys
    )
    optimizer = Optimizer(step.parts, config.optim, steps=t.epochs * steps_per_epoch, scaled=scaled)
    cutting = cut_batches(config, rank=layout.data_rank(world.rank), ranks=layout.data_ranks)
    if replicated is not None:
        keys.set(seed=t.seed, epoch=0, samples=torch.zeros(2, dtype=torch.int64, device=world.device))
        replicated.settle(normalise(torch.zeros((2, cutting.image_px, cutting.image_px, 3), dtype=torch.uint8)))
    return Training(config, manifest, world, layout, task, samples, cutting, step, optimizer, steps_per_epoch, notes)
