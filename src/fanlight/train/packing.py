"""`fanlight pack`: what `train` does before its first step, by itself and with its rate."""

from __future__ import annotations

import time
from typing import Any

from fanlight import console, machine
from fanlight.config import Config
from fanlight.data import checkup
from fanlight.data import pack as packs
from fanlight.train import checks, resolve


def pack(path: str, *, image_px: int | None, workers: int | None, pack_dir: str | None) -> dict[str, Any]:
    """Makes the pack that `train` would use with the same image size; the JSON object of `pack --json`."""
    config = Config().with_values({"data.path": path, "data.image_px": image_px, "execution.pack_dir": pack_dir})
    checks.check(config)
    manifest = checkup.up_to_date(path, decode=False)
    choices = resolve.Choices(config)
    resolve.sizes(choices, manifest)
    for key, reason in choices.reasons.items():
        section, name = key.split(".")
        console.chose(key, getattr(getattr(choices.config, section), name), reason)
    workers = workers or machine.cores_usable()
    begin = time.perf_counter()
    made = packs.make(
        manifest,
        canvas_px=choices.config.data.canvas_px or 0,
        parent=packs.parent(config.execution.pack_dir),
        workers=workers,
    )
    wall_s = time.perf_counter() - begin
    for digest, reason in made.failed.items():
        row = (manifest.column("sha256") == digest).argmax()
        console.say(f"  not decodable: {manifest.column('path')[row]}: {reason}")
    rate = len(made.sha256) / wall_s
    console.say(f"{len(made.sha256)} images in {console.seconds_text(wall_s)}, {rate:.0f} img/s, {workers} threads")
    return {
        "images": len(made.sha256), "bytes": made.bytes, "wall_s": wall_s, "images_per_s": rate, "workers": workers,
        "engine": "threads", "pack": str(made.folder),
    }  # fmt: skip
