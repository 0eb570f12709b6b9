"""What a frozen network says of each image, computed once and kept: the input of its last layer, by centre crops.

N images of a run, F numbers of one (or a shape). The table lies in the cache as `features/<key>/features.npy`, float32
[N, F], beside `about.json`, which the key is a hash of: another network, image or cut has another key. All ranks of a
machine compute it together in batches that do not depend on their number, so neither do the numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import console
from fanlight.config import Config
from fanlight.data import cache, canvas
from fanlight.data.loader import Cutting, Features, Samples, evaluation_batches
from fanlight.data.manifest import Manifest
from fanlight.errors import DiskError
from fanlight.models import tail, told
from fanlight.models.zoo import head
from fanlight.parallel.comm import World
from fanlight.train.evaluate import in_threads
from fanlight.train.step import WholeStep
from fanlight.types import Rows

VERSION = 1  # of the table's meaning


def samples(
    step: WholeStep,
    images: Mapping[str, Samples],
    cutting: Cutting,
    world: World,
    *,
    config: Config,
    manifest: Manifest,
) -> dict[str, Samples]:
    """The splits `images` with features in place of pixels: of the cache, or computed by `step`'s whole network.

    Collective; DiskError where the cache's disk does not take them."""
    rows = np.sort(np.concatenate([part.rows for part in images.values()]))
    about = _about(step.parts[0], rows, config=config, manifest=manifest, device=world.device.type)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    final = cache.folder() / "features" / key
    if world.any(not (final / "about.json").exists()):
        every = Samples(next(iter(images.values())).source, rows, np.zeros(len(rows), np.int64), np.zeros(len(rows)))
        mine = replace(cutting, rank=world.local_rank, ranks=world.local_ranks)
        try:
            _make(final, step, every, mine, world, config=config, about=about)
        except OSError as error:
            raise DiskError(
                f"cannot keep features in {final.parent}: {error.strerror}; make room, name another place in "
                "$FANLIGHT_CACHE, or use --no-cache-features"
            ) from None
    table = np.asarray(np.load(final / "features.npy", mmap_mode="r"))
    places = {split: np.searchsorted(rows, part.rows) for split, part in images.items()}
    return {split: replace(part, features=Features(table, places[split])) for split, part in images.items()}


def _about(model: nn.Module, rows: np.ndarray, *, config: Config, manifest: Manifest, device: str) -> dict[str, Any]:
    """Everything that decides the table, and what a person wants to know of it."""
    last = head(model)
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith(f"{last}."):
            raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            weights.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            weights.update(raw.data)
    a = config.augment
    return {
        "version": VERSION, "model": config.model.name, "weights": weights.hexdigest(), "images": len(rows),
        "content": hashlib.sha256("\n".join(manifest.column("sha256")[rows]).encode()).hexdigest(),
        "decoder": canvas.decoder_version(), "canvas_px": config.data.canvas_px, "image_px": config.data.image_px,
        "eval_share": a.eval_share, "mean": a.mean, "std": a.std, "precision": config.train.precision,
        "device": device,
    }  # fmt: skip


def _make(
    final: Path, step: WholeStep, every: Samples, cutting: Cutting, world: World, *, config: Config,
    about: dict[str, Any],
) -> None:  # fmt: skip
    """Writes the folder `final` whole or not at all. Each machine writes its own."""
    begin = time.perf_counter()
    told = world.tell({"process": os.getpid()})
    part = final.with_name(f"{final.name}.{socket.gethostname()}-{told['process']}.part")
    with contextlib.ExitStack() as inside:
        inside.callback(shutil.rmtree, part, ignore_errors=True)
        _fill(part, step, every, cutting, world, config=config)
        world.barrier()
        if world.local_rank == 0:
            (part / "about.json").write_text(json.dumps(about, indent=1))
            with contextlib.suppress(OSError):  # another run was faster: its table is as good
                part.rename(final)
        world.barrier()
    if world.is_first:
        seconds = console.seconds_text(time.perf_counter() - begin)
        console.say(f"Features of {len(every)} images computed in {seconds}; epochs now train the last layer on them")


def _fill(part: Path, step: WholeStep, every: Samples, cutting: Cutting, world: World, *, config: Config) -> None:
    """`part`/features.npy, this machine's ranks each their batches of it."""
    path, batch = part / "features.npy", config.execution.eval_batch
    with step.evaluating(), told.standing_in(step.parts[0]), tail.watching(step.parts[0]) as newest:

        def score(parts: tuple[Rows, ...]) -> tuple[np.ndarray, np.ndarray]:
            (rows,) = parts
            step.forward(rows)
            return rows.samples, newest()[: len(rows.samples)].float().cpu().numpy()

        image = torch.zeros((1, cutting.image_px, cutting.image_px, 3), dtype=torch.uint8)
        shape = score((Rows(np.zeros(1, np.int64), image, torch.zeros(1, dtype=torch.int64)),))[1].shape[1:]
        if world.local_rank == 0:
            part.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(path, "w+", np.float32, (len(every), *shape))
            if hasattr(
                os, "posix_fallocate"
            ):  # a disk that is full later would kill the process that writes to the map
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        world.barrier()
        table = np.load(path, mmap_mode="r+")
        bar = console.Progress("features", total=-(-len(every) // batch // cutting.ranks), unit="batches")
        batches = evaluation_batches(every, cutting, batch=batch, workers=config.execution.workers or 1)
        threads = torch.get_num_threads() if world.device.type == "cpu" else 1
        with contextlib.closing(batches), bar if world.is_first else contextlib.nullcontext():
            for found in in_threads(score, (one.parts for one in batches), threads=threads):
                assert found is not None
                table[found[0]] = found[1]
                world.heartbeat.enter("features")
                bar.advance() if world.is_first else None
        table.flush()
