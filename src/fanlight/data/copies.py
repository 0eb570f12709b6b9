"""What is known of copies before a split is made: an audit's groups, put into the manifest."""

from __future__ import annotations

import numpy as np

from fanlight import machine
from fanlight.console import say
from fanlight.data import audit, builtin
from fanlight.data.audit import store
from fanlight.data.audit.result import Audit
from fanlight.data.families import linked
from fanlight.data.manifest import Manifest


def find(
    manifest: Manifest,
    level: str | None,
    *,
    workers: int | None = None,
    pixels: audit.Pixels | None = None,
) -> tuple[Manifest, Audit | None]:
    """The manifest with `copies` and `film` filled in, beside what it has of them; and the audit.

    None as the level: thorough where a thorough audit has seen all these files before, else quick. A quick one takes `pixels`
    where they are at hand; a thorough one is always that of the files, so that `check` and `train` find the same. Drawn scenes
    are not searched: they differ in colours, which an audit does not look at, and none is a copy."""
    if level == "exact" or not manifest.rows().size or manifest.source == builtin.DRAWN:
        return manifest, None
    thorough = level == "thorough" or (level is None and store.covers(manifest, thorough=True))
    found = audit.find(
        manifest, thorough=thorough, workers=workers or machine.cores_usable(), pixels=None if thorough else pixels
    )
    copies, film = _joined(manifest.column("copies"), found.copies()), _joined(manifest.column("film"), found.films())
    return manifest.with_columns(copies=copies, film=film), found


def _joined(before_R: np.ndarray, found_R: np.ndarray) -> np.ndarray:
    """str [R]: names of what either says is together: a kept manifest may know more than this audit, or less."""
    if not (before_R != "").any():
        return found_R
    alone_R = np.array([f"row {row}" for row in range(len(found_R))], object)
    label_R = linked(*(np.where(names == "", alone_R, names) for names in (before_R, found_R)))
    names_R = np.where(before_R == "", found_R, before_R)
    name = dict(zip(label_R[::-1].tolist(), names_R[::-1]))  # that of the first
    return np.array([name[label] if names_R[row] else "" for row, label in enumerate(label_R.tolist())], object)


def tell(manifest: Manifest, found: Audit | None) -> None:
    """What an audit found in a manifest that is not split yet, in a few lines."""
    if found is None:
        return
    groups, runs = found.groups(), found.runs()
    kind = "flipped, turned by any angle, cropped" if found.thorough else "flipped, turned by 90°"
    if groups:
        rows = sum(map(len, groups))
        say(f"Copies ({kind}, re-encoded): {rows} images in {len(groups)} groups, {_kept(manifest, groups)}")
    if runs:
        frames = sum(map(len, runs))
        what = f"{frames} images in {len(runs)} runs of neighbours that look alike"
        say(f"Frames of films: {what}, {_kept(manifest, runs)}")


def _kept(manifest: Manifest, groups: list[np.ndarray]) -> str:
    """What becomes of groups: a given split stays as it is."""
    split = manifest.column("split")
    split = np.where(split == "", "train", split)
    cut = sum(len(set(split[rows])) > 1 for rows in groups)
    return f"{cut} of them in several given splits" if cut else "each kept in one split"
