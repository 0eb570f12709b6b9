"""What is known of copies before a split is made: an audit's groups, put into the manifest."""

from __future__ import annotations

import numpy as np

from fanlight import machine
from fanlight.console import say
from fanlight.data import audit
from fanlight.data.audit import store
from fanlight.data.audit.result import Audit
from fanlight.data.manifest import Manifest

FILM = "film "  # what the group of a run of frames begins with


def find(
    manifest: Manifest,
    level: str | None,
    *,
    workers: int | None = None,
    pixels: audit.Pixels | None = None,
) -> tuple[Manifest, Audit | None]:
    """The manifest with `copies` filled in, and frames of one film as a group where the data gives none; and the audit.

    None as the level: thorough where a thorough audit has seen all these files before, else quick. A quick one takes `pixels`
    where they are at hand; a thorough one is always that of the files, so that `check` and `train` find the same."""
    if level == "exact" or not manifest.rows().size:
        return manifest, None
    thorough = level == "thorough" or (level is None and store.covers(manifest, thorough=True))
    found = audit.find(
        manifest, thorough=thorough, workers=workers or machine.cores_usable(), pixels=None if thorough else pixels
    )
    group = manifest.column("group").copy()
    is_own = group == manifest.column("sha256")
    in_run = is_own & (found.run >= 0)
    names = np.array([*found.run_names, ""], object)
    group[in_run] = FILM + names[found.run[in_run]]
    return manifest.with_columns(copies=found.copies(), group=group), found


def tell(found: Audit | None) -> None:
    """What an audit found, in a few lines."""
    if found is None:
        return
    groups, runs = found.groups(), found.runs()
    kind = "flipped, turned by any angle, cropped" if found.thorough else "flipped, turned by 90°"
    if groups:
        rows = sum(map(len, groups))
        say(f"Copies ({kind}, re-encoded): {rows} images in {len(groups)} groups, each kept in one split")
    if runs:
        frames = sum(map(len, runs))
        say(
            f"Frames of films: {frames} images in {len(runs)} runs of neighbours that look alike, each kept in one split"
        )
