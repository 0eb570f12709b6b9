"""`fanlight check --report`: one page about a data set: what there is, what is odd, what to do. It reads the manifest, and of
the images as many as it shows. No torch; the libraries that draw are imported when a page is written."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fanlight import machine
from fanlight.data import canvas, sentences
from fanlight.data import manifest as manifests
from fanlight.data.manifest import SPLITS, Manifest
from fanlight.errors import FanlightError
from fanlight.study import pages

LISTED = 200  # quarantined files named; the manifest has all
MOSAIC = 16  # images of a class that are shown
CLASSES_SHOWN = 40  # of more classes, the first ones have pictures
GROUPS_SHOWN = 30  # groups of copies as pictures, of each kind
GROUP_SHOWN = 8  # images of a group that are shown
ACROSS = 8  # tiles in a row
TILE_PX = 96
GREY = 200  # of a tile without a picture
SAMPLED = 48  # images of a class whose colours are counted
BINS = 32
WHOLE = "all images"  # the one panel of data without classes


def write(manifest: Manifest, path: Path, *, command: str, fixes: Sequence[str] = ()) -> Path:
    """Writes the page to `path`. `fixes` are sentences about what `--fix` would change, or has changed."""
    audit = manifests.audit(manifest)
    counts = _counts(manifest)
    bad = np.flatnonzero(~manifest.ok)
    paths, reasons, splits = (manifest.column(name) for name in ("path", "reason", "split"))
    panels = _panels(manifest)
    drawings = _figures(manifest, counts, audit, panels)
    page = pages.render(
        "data.html",
        manifest=manifest,
        command=command,
        images=int(manifest.ok.sum()),
        size=int(manifest.column("bytes")[manifest.ok].sum()),
        splits={name: int((splits[manifest.ok] == name).sum()) for name in counts},
        audit=audit,
        formats=Counter(manifest.column("format")[manifest.ok].tolist()).most_common(),
        verdict=verdict(manifest, audit),
        fixes=list(fixes),
        figures={name: pages.uri(drawing) for name, drawing in drawings.items()},
        mosaics=_mosaics(manifest, panels),
        groups=_groups(manifest, audit),
        shown=GROUPS_SHOWN,
        quarantined=[{"path": paths[row], "reason": reasons[row]} for row in bad[:LISTED]],
        bad=len(bad),
        listed=LISTED,
        survey=sentences.survey(manifest),
        usual=sentences.USUAL_COUNT,
    )
    return pages.write(path, page)


def verdict(manifest: Manifest, audit: dict[str, Any]) -> list[str]:
    """What is odd about the data, as sentences with the way out; one that says so where nothing is."""
    said = []
    count = len(manifest.rows())
    if audit["leaks"]:
        kinds = Counter(leak["of"] for leak in audit["leaks"])
        words = {"copies": "groups of copies", "film": "films", "group": "given groups"}
        what = ", ".join(f"{kinds[kind]} {word}" for kind, word in words.items() if kinds[kind])
        said.append(
            f"{what} stand in several splits; {int(manifest.leaked.sum())} images of val and test have others of theirs in "
            "train: a score on those says what was learned by heart. --fix takes them out of train."
        )
    if conflicts := len(audit["label_conflicts"]):
        said.append(
            f"{conflicts} groups of copies are filed under more than one class. No model can be right about all of them: look "
            "at the pictures below, or let --fix leave them out."
        )
    copies = audit["exact_copies"] + audit["near_copies"]
    if copies:
        said.append(
            f"{copies} of {count} images are copies of another one ({audit['exact_copies']} byte for byte). Splits that Fanlight "
            "makes keep each group on one side; splits made elsewhere do not."
        )
    if audit["imbalance"] >= 5:
        said.append(
            f"The largest class has {audit['imbalance']:.0f} times the images of the smallest. Look at balanced accuracy, "
            "and try --sampling balanced or --class-weights balanced."
        )
    if few := [name for name, number in _totals(manifest).items() if number < 20]:
        said.append(
            f"Fewer than 20 images: {', '.join(few[:8])}{' …' if len(few) > 8 else ''}. Scores of such classes are chance."
        )
    if bad := int((~manifest.ok).sum()):
        said.append(f"{bad} files cannot be used; each is named below with its reason. Nothing is put in their place.")
    return said or ["Nothing odd was found."]


def _totals(manifest: Manifest) -> dict[str, int]:
    """class -> usable images; nothing where there are captions only."""
    labels = manifest.column("label")[manifest.ok]
    return dict(Counter(labels[labels != ""].tolist()))


def _counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """split -> class -> usable images; splits that the data does not give are one, `not split`."""
    found: dict[str, dict[str, int]] = {}
    pairs = Counter(zip(manifest.column("split")[manifest.ok], manifest.column("label")[manifest.ok]))
    for (split, label), number in sorted(pairs.items()):
        found.setdefault(split or "not split", {})[label] = number
    return {name: found[name] for name in (*SPLITS, "not split") if name in found}


Panels = list[tuple[str, np.ndarray]]  # name of a class, its usable rows


def _panels(manifest: Manifest) -> Panels:
    """What is shown apart: every class, or all images where there are captions only."""
    if not manifest.classes:
        return [(WHOLE, manifest.rows())]
    return [(name, np.flatnonzero(manifest.labels == label)) for label, name in enumerate(manifest.classes)]


def _figures(
    manifest: Manifest, counts: dict[str, dict[str, int]], audit: dict[str, Any], panels: Panels
) -> dict[str, str | bytes]:
    from fanlight.study import data_figures, figures

    rows = manifest.rows()
    made = {
        "sizes": data_figures.sizes(manifest.column("width")[rows], manifest.column("height")[rows]),
        "colours": data_figures.colours(_colours(manifest, panels), [name for name, _ in panels]),
    }
    if manifest.classes:
        made["class_counts"] = figures.class_counts(counts)
    if audit["copy_groups"]:
        made["groups"] = data_figures.groups(np.array([len(group) for group in audit["copy_groups"]]))
    return made


def _chosen(rows: np.ndarray, *, count: int) -> np.ndarray:
    """Rows of a class, evenly through its files."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _colours(manifest: Manifest, panels: Panels) -> np.ndarray:
    """Share of pixels by value [K, 3, B], from SAMPLED images of each class."""
    share_KCB = np.zeros((len(panels), 3, BINS))
    for label, (_, rows) in enumerate(panels):
        for pixels_HWC in _pictures(manifest, _chosen(rows, count=SAMPLED)):
            if pixels_HWC is not None:
                for channel in range(3):
                    share_KCB[label, channel] += np.bincount(
                        pixels_HWC[..., channel].reshape(-1) // (256 // BINS), minlength=BINS
                    ) / (pixels_HWC.shape[0] * pixels_HWC.shape[1])
    return share_KCB / np.maximum(share_KCB.sum(2, keepdims=True), 1e-9)


def _pictures(manifest: Manifest, rows: Sequence[int] | np.ndarray) -> list[np.ndarray | None]:
    """Small pictures of rows, uint8 [h, w, 3]; None where one cannot be read any more."""

    def read(row: int) -> np.ndarray | None:
        try:
            return canvas.to_canvas(manifest.read(int(row)), TILE_PX)
        except FanlightError:
            return None

    with ThreadPoolExecutor(machine.cores_usable()) as pool:
        return list(pool.map(read, rows))


def _sheet(manifest: Manifest, rows: Sequence[int] | np.ndarray) -> str:
    """One picture of tiles side by side, as a data URI; a tile is grey where its file cannot be read."""
    import cv2

    tiles = []
    for pixels_HWC in _pictures(manifest, rows):
        tile = np.full((TILE_PX, TILE_PX, 3), GREY, np.uint8)
        if pixels_HWC is not None:
            height, width = pixels_HWC.shape[:2]
            scale = TILE_PX / max(height, width)
            small = cv2.resize(pixels_HWC, (max(1, round(width * scale)), max(1, round(height * scale))))
            top, left = (TILE_PX - small.shape[0]) // 2, (TILE_PX - small.shape[1]) // 2
            tile[top : top + small.shape[0], left : left + small.shape[1]] = small
        tiles.append(np.pad(tile, ((0, 4), (0, 4), (0, 0)), constant_values=255))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % min(ACROSS, len(tiles)))
    lines = [np.concatenate(tiles[at : at + ACROSS], axis=1) for at in range(0, len(tiles), ACROSS)]
    return pages.jpeg(np.concatenate(lines))


def _mosaics(manifest: Manifest, panels: Panels) -> list[dict[str, Any]]:
    return [
        {"name": name, "picture": _sheet(manifest, _chosen(rows, count=MOSAIC))}
        for name, rows in panels[:CLASSES_SHOWN]
    ]


def _groups(manifest: Manifest, audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of copies that are shown: those with several labels, those in several splits, then the largest."""
    row_of = {path: row for row, path in enumerate(manifest.column("path").tolist())}
    labels, splits = manifest.column("label"), manifest.column("split")
    conflicts, leaks = ([found["paths"] for found in audit[key]] for key in ("label_conflicts", "leaks"))
    largest = sorted(audit["copy_groups"], key=len, reverse=True)
    shown: list[dict[str, Any]] = []
    seen: set[str] = set()
    for kind, groups in (("several classes", conflicts), ("several splits", leaks), ("copies", largest)):
        for paths in [paths for paths in groups if paths[0] not in seen][:GROUPS_SHOWN]:
            seen.add(paths[0])
            rows = [row_of[path] for path in paths[:GROUP_SHOWN]]
            said = [{"path": path, "label": labels[row], "split": splits[row]} for path, row in zip(paths, rows)]
            shown.append({"kind": kind, "count": len(paths), "rows": said, "picture": _sheet(manifest, rows)})
    return shown
