"""From a resolved config and a manifest to everything the loop needs on one rank: data, model, step, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from fanlight.parallel import comm
from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.parallel.parallelize import place
from fanlight.tasks import Task
from fanlight.train import optim, precision
from fanlight.train.step import listeners, tell_example
from fanlight.train.training import Training


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
    return Samples(where, rows, targets, task.weights(targets), blocks, draws, chooser=task.chooser)


def create_model(config: Config, manifest: Manifest, *, resumed: bool = False, task: Task | None = None) -> zoo.Created:
    """The whole network on the CPU, weights from the seed or as the config says, frozen where it says so.

    `task`: of the manifest, where that is known. `resumed`: a checkpoint brings the weights, so neither a file nor a hub is
    asked for them. ConfigError where a frozen network would be left with random weights.
    """
    assert config.model.name is not None and config.data.image_px is not None
    task = task or tasks.of(config, manifest)
    created = task.model(
        config.model.name, image_px=config.data.image_px, seed=config.train.seed,
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
                f"{config.data.image_px} px, takes no images of {px} px ({why}); use "
                "--set data.image_px_start=none, a larger --image-size-start, or another --model"
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
    dtype: torch.dtype = torch.float32, resumed: bool = False, kind: Callable[..., Training] = Training,
) -> Training:  # fmt: skip
    """Every rank calls it with the same arguments. `dtype` float64 is for proofs of equality; `resumed` as create_model;
    `kind` makes the Training of its parts, for who computes steps otherwise."""
    e, t = config.execution, config.train
    assert e.layout is not None and t.epochs is not None and t.batch_size is not None and t.precision is not None
    each = set(world.share(world.local_ranks))  # of ranks on a machine
    layout = layouts.of(e, ranks=world.ranks, machines=world.ranks // each.pop() if len(each) == 1 else 1)
    where = where or open_source(config, manifest, world)
    world = comm.connect(world, layout)
    task = tasks.of(config, manifest)
    images = {split: split_samples(config, manifest, task, where, split) for split in SPLITS}
    images = {split: part for split, part in images.items() if len(part)}
    created = create_model(config, manifest, resumed=resumed, task=task)
    model = created.model.to(dtype)
    keys = keyed.install(model)
    words = zoo.parameters_text(model)
    if e.recompute:
        recompute.install(model, keys)
    cutting = cut_batches(config, rank=layout.data_rank(world.rank), ranks=layout.data_ranks)

    def ready(rows: int, device: torch.device) -> None:  # what a forward of made-up images asks for beside them
        keys.set(seed=t.seed, epoch=0, samples=torch.zeros(rows, dtype=torch.int64, device=device))
        tell_example(task, listeners([model]), rows=rows, device=device)

    placed = place(
        model, layout, world, channels_last=bool(e.channels_last), example=_example(config, dtype), split_at=e.split_at or (),
        rows=t.batch_size // t.microbatches // layout.data_ranks, microbatches=t.microbatches, ready=ready,
        autocast=lambda: precision.autocast(t.precision or "fp32", world.device),
        update_s=lambda: optim.seconds_per_parameter(config.optim, world.device),
    )  # fmt: skip
    if layout.name == "dataparallel" and keyed.holds(model):
        raise ConfigError(
            f"layout dataparallel scatters batches, and the dropout of {config.model.name} is keyed by sample; use --layout ddp"
        )
    if layout.name in layouts.OTHER:
        placed.notes.append(
            f"layout {layout.name} is another algorithm than the serial run, not another way to compute it"
        )
    notes = [*created.notes, *task.notes, *_unkeyed_note(model, config), *placed.notes]
    cutting = replace(cutting, has_images=0 in placed.stages, is_level=layout.dp_shard > 1)
    return kind(
        config, manifest, world, layout, task, images, cutting, placed, keys, words,
        order.steps_per_epoch(len(images["train"]), t.batch_size), notes,
    )  # fmt: skip


def _example(config: Config, dtype: torch.dtype) -> torch.Tensor:
    """Two images [2, 3, P, P] that a cut or divided model is checked with: noise, since zeros hide what is multiplied."""
    px = config.data.image_px or 0
    return torch.randn((2, 3, px, px), generator=torch.Generator().manual_seed(0), dtype=dtype)
