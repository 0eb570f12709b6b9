"""`fanlight pack`: what `train` does before its first step, by itself and with its rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fanlight import console
from fanlight.config import Config
from fanlight.data import checkup, engines
from fanlight.data import pack as packs
from fanlight.errors import Stopped
from fanlight.train import checks, resolve

OTHERWISE = "make it smaller with --image-size N, or name another disk with --pack-dir"


def pack(
    path: str, *, image_px: int | None, workers: int | None, pack_dir: str | None, engine: str = "threads",
    scheduler: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Makes the pack that `train` would use with the same image size; the JSON object of `pack --json`."""
    config = Config().with_values({"data.path": path, "data.image_px": image_px, "execution.pack_dir": pack_dir})
    checks.check(config)
    chosen = engines.of(engine, workers=workers, scheduler=scheduler)
    manifest = checkup.up_to_date(path, decode=False)
    choices = resolve.Choices(config)
    resolve.sizes(choices, manifest)
    for key, reason in choices.reasons.items():
        section, name = key.split(".")
        console.chose(key, getattr(getattr(choices.config, section), name), reason)
    canvas_px, parent = choices.config.data.canvas_px or 0, packs.parent(pack_dir)
    with chosen as running:
        begin = time.perf_counter()
        with _saying_what_is_kept(packs.plan(manifest, canvas_px=canvas_px), parent):
            made = packs.make(manifest, canvas_px=canvas_px, parent=parent, engine=running, otherwise=OTHERWISE)
        wall_s, start_s = time.perf_counter() - begin, running.start_s or 0.0
    for digest, reason in made.failed.items():
        row = (manifest.column("sha256") == digest).argmax()
        console.say(f"  not decodable: {manifest.column('path')[row]}: {reason}")
    rate = len(made.sha256) / wall_s
    by = f"{running.name}, {running.workers} worker{'s' * (running.workers != 1)}"
    started = f", of which {console.seconds_text(start_s)} to start them" if start_s > 0.05 else ""
    console.say(f"{len(made.sha256)} images in {console.seconds_text(wall_s)}, {rate:.0f} img/s, {by}{started}")
    return {
        "images": len(made.sha256), "bytes": made.bytes, "wall_s": wall_s, "images_per_s": rate,
        "workers": running.workers, "engine": running.name, "start_s": start_s, "pack": str(made.folder),
    }  # fmt: skip


@contextmanager
def _saying_what_is_kept(layout: packs.Plan, parent: Path) -> Iterator[None]:
    """Inside, Ctrl-C says how many shards are whole, so that the same command continues with the next; where none is, nothing
    stays, and it goes its usual way."""
    try:
        yield
    except KeyboardInterrupt:
        folder = parent / layout.key
        kept, count = len(list(folder.glob("pixels-*.npy"))), int(layout.shards.max()) + 1
        if not kept:
            raise
        raise Stopped(
            f"stopped; {kept} of {count} parts of the pack are kept in {folder}, and the same command continues with the next"
        ) from None
