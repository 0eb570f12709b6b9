"""`fanlight check`: every file read and decoded, what is there said in words and kept as a manifest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fanlight.console import say, warn
from fanlight.data import cache, copies, formats, grouping, scan, sentences
from fanlight.data import manifest as manifests
from fanlight.data.audit import Audit
from fanlight.data.manifest import Manifest
from fanlight.errors import FanlightError, Stopped, shown, unwritable

WIDE = 400  # letters of a line: a group may have a thousand files
LABEL_LETTERS, PATH_LETTERS = 80, 200  # shown of one
SHOWN = 20  # lines of a kind on the console; the manifest and --json have all


def up_to_date(path: str, *, decode: bool, workers: int | None = None, group_by: str | None = None) -> Manifest:
    """The manifest of the data at `path`, kept in the cache: files that have not changed are not read again."""
    listing = formats.recognise(path, cache=cache.folder())
    if group_by is not None:
        listing = grouping.regroup(listing, group_by)
    kept = cache.manifest_path(path)
    known = None
    if kept.exists():
        try:
            known = manifests.load(kept)
        except FanlightError:
            known = None  # of another version: a cache, so it is made again
    manifest = scan.scan(listing, known=known, workers=workers, decode=decode)
    if known is None or not _same(known, manifest):
        _keep(manifest, kept)
    return manifest


def _same(known: Manifest, manifest: Manifest) -> bool:
    """Whether a kept manifest says the same; of copies it may know more."""
    one, two = (each.table.drop_columns(["copies", "film"]) for each in (known, manifest))
    return (known.root, known.source, one) == (manifest.root, manifest.source, two)


def _keep(manifest: Manifest, kept: Path) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        manifest.save(kept)
    except OSError as error:
        why = error.strerror or str(error)
        warn(f"the manifest cannot be kept in {kept.parent}", why=why, do="Set FANLIGHT_CACHE to a writable folder")


def examine(
    path: str, *, workers: int | None = None, level: str = "quick", group_by: str | None = None
) -> tuple[Manifest, Audit | None]:
    """Every file read and decoded, and copies looked for as `level` of config.AUDITS says."""
    manifest = up_to_date(path, decode=True, workers=workers, group_by=group_by)
    try:
        manifest, found = copies.find(manifest, level, workers=workers)
    except KeyboardInterrupt:
        if not cache.manifest_path(path).is_file():
            raise
        raise Stopped(
            f"stopped; what was read of {len(manifest)} files is kept, and the same command goes on with the search for copies"
        ) from None
    _keep(manifest, cache.manifest_path(path))
    return manifest, found


def tell(path: str, manifest: Manifest, found: Audit | None, *, out: Path | None, level: str) -> dict[str, Any]:
    """Prints what was found in the data at `path`, and says it as the JSON object of `check --json`."""
    kept = cache.manifest_path(path)
    if out is not None:
        kept = out
        write(manifest, kept, option="--out")
    facts = manifests.audit(manifest)
    labels, splits = manifest.column("label")[manifest.ok], manifest.column("split")[manifest.ok]
    paths, reasons = manifest.column("path"), manifest.column("reason")
    quarantined = [
        {"path": str(paths[row]), "reason": str(reasons[row])} for row in np.flatnonzero(~manifest.ok).tolist()
    ]
    counts = Counter(labels.tolist())
    document = {
        "images": int(manifest.ok.sum()),
        "classes": {name: counts[name] for name in manifest.classes},
        "splits": dict(Counter(name or "none given" for name in splits.tolist())),
        "quarantined": quarantined,
        "audit": level,
        **{key: facts[key] for key in ("exact_copies", "near_copies", "copy_groups", "label_conflicts", "leaks")},
        "frame_runs": [paths[rows].tolist() for rows in found.runs()] if found else [],
        "unjudged": found.unjudged if found else 0,
        "manifest": str(kept) if kept.is_file() else None,
    }
    if not manifest.classes:
        document["captions"] = sum(len(json.loads(text)) for text in manifest.column("captions")[manifest.ok] if text)
    _print(document, manifest, imbalance=facts["imbalance"])
    if (survey := sentences.survey(manifest)) is not None:
        document |= sentences.tell(survey)
    say(f"Manifest: {document['manifest'] or 'not kept'}")
    return document


def write(manifest: Manifest, path: Path, *, option: str) -> None:
    """Saves a manifest where a user wants it; An error that names the `option` where it cannot be."""
    try:
        manifest.save(path)
    except OSError as error:
        raise unwritable(error, f"{option} {path}", otherwise="use another path") from None


def _print(document: dict[str, Any], manifest: Manifest, *, imbalance: float) -> None:
    what = f" in {len(manifest.classes)} classes" if manifest.classes else f", {document['captions']} captions"
    say(f"{document['images']} images{what}, from {manifest.source} in {manifest.root}")
    for name, count in document["classes"].items():
        say(f"  {count:>7}  {shown(name, letters=LABEL_LETTERS)}")
    say(f"Splits: {', '.join(f'{name} {count}' for name, count in document['splits'].items())}")
    if manifest.classes:
        say(f"Largest class / smallest class: {imbalance:.1f}")
    _print_some(
        "quarantined",
        [f"{shown(item['path'], letters=PATH_LETTERS)}: {item['reason']}" for item in document["quarantined"]],
    )
    say(f"Exact copies of another image: {document['exact_copies']}")
    if document["audit"] != "exact":
        turned = "turned by any angle, cropped" if document["audit"] == "thorough" else "turned by 90°"
        words = f"Near copies (re-encoded, brighter or darker, flipped, {turned}): {document['near_copies']}"
        say(words + ("" if document["audit"] == "thorough" else "; --thorough finds other angles and crops"))
        runs = document["frame_runs"]
        say(f"Runs of frames, as of a film: {len(runs)}" + (f", of {sum(map(len, runs))} images" if runs else ""))
        if document["unjudged"]:
            say(f"Images with too little in them to be compared: {document['unjudged']}")
    _print_some("groups of copies", [" = ".join(paths) for paths in document["copy_groups"]], most=3)
    _print_some("copies under several labels", [" = ".join(item["paths"]) for item in document["label_conflicts"]])
    for kind, what in (("copies", "copies"), ("film", "films"), ("group", "groups")):
        leaks = [" = ".join(item["paths"]) for item in document["leaks"] if item["of"] == kind]
        _print_some(f"{what} in several splits", leaks)


def _print_some(what: str, lines: list[str], *, most: int = SHOWN) -> None:
    if not lines:
        return
    say(f"{len(lines)} {what}:")
    for line in lines[:most]:
        say(f"  {line if len(line) <= WIDE else line[: WIDE - 1] + '…'}")
    if len(lines) > most:
        say(f"  … and {len(lines) - most} more; --json lists all")
