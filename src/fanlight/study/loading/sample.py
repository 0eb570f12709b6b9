"""Which images a study measures on: the user's own, spread over the set, as many as one core decodes in about a second,
so that a pass is short and every variant sees the same ones."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanlight.data import canvas, engines
from fanlight.data import pack as packs
from fanlight.data.engines import Job
from fanlight.data.manifest import Manifest
from fanlight.errors import DataError

PASS_S = 1.0  # one core's decoding
CANVAS_BYTES = 96 << 20  # of all of them together: the naive variants hold every one of them twice
OTHERWISE = "measure on fewer with --limit N, or name a folder on another disk with --out"
PROBE = 24  # images whose decoding is timed to choose the number


@dataclass(frozen=True)
class Sample:
    """The images of a study: as files, and as decoded canvases in a pack of their own."""

    manifest: Manifest
    pack: packs.Pack
    image_px: int
    canvas_px: int
    files: list[Job]  # by distinct content
    pixels: list[Job]  # the same images in the pack
    labels: list[str]  # the class of each; empty where there are captions only

    def __len__(self) -> int:
        return len(self.files)


def take(manifest: Manifest, *, image_px: int, canvas_px: int, limit: int | None, folder: Path) -> Sample:
    """`limit` images, None: as many as fit the pass; their pack is made in `folder`. DataError where none decodes."""
    shutil.rmtree(folder, ignore_errors=True)
    rows = packs.plan(manifest, canvas_px=canvas_px).rows
    rows = rows[manifest.ok[rows]]
    count = min(len(rows), limit) if limit else _fitting(manifest, rows, canvas_px=canvas_px)
    chosen = np.sort(rows)[np.linspace(0, len(rows) - 1, count).round().astype(int)]  # over all classes
    with engines.of("threads") as threads:
        made = packs.make(
            manifest.take(chosen), canvas_px=canvas_px, parent=folder, engine=threads, otherwise=OTHERWISE
        )
    part = made.mark_failed(manifest.take(chosen))
    rows = part.rows()
    if not len(rows):
        raise DataError(f"none of {len(chosen)} images of {manifest.root} can be decoded; run `fanlight check`")
    starts = [np.load(path, mmap_mode="r").offset for path in made.shard_paths]
    pixels = []
    for slot in made.slots(part)[rows].tolist():
        shard, offset, height, width = made.place(slot)
        pixels.append(Job(str(made.shard_paths[shard]), height, width, offset=starts[shard] + offset))
    labels = part.column("label")[rows].tolist()
    return Sample(part, made, image_px, canvas_px, engines.jobs(part, rows), pixels, labels)


def _fitting(manifest: Manifest, rows: np.ndarray, *, canvas_px: int) -> int:
    probed = rows[np.linspace(0, len(rows) - 1, min(PROBE, len(rows))).round().astype(int)]
    begin, size = time.perf_counter(), 0
    for row in probed.tolist():
        try:
            size += canvas.to_canvas(manifest.read(row), canvas_px).nbytes
        except canvas.Unreadable:
            continue
    per_image_s = (time.perf_counter() - begin) / len(probed)
    by_size = CANVAS_BYTES // max(size // len(probed), 1)
    return int(np.clip(min(PASS_S / per_image_s, by_size), min(len(rows), PROBE), len(rows)))
