"""`fanlight check`: every file read and decoded, what is there said in words and kept as a manifest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fanlight.console import say, warn
from fanlight.data import cache, formats, scan
from fanlight.data import manifest as manifests
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, FanlightError

SHOWN = 20  # lines of a kind on the console; the manifest and --json have all


def up_to_date(path: str, *, decode: bool, workers: int | None = None) -> Manifest:
    """The manifest of the data at `path`, kept in the cache: files that have not changed are not read again."""
    listing = formats.recognise(path, cache=cache.folder())
    kept = cache.manifest_path(path)
    known = None
    if kept.exists():
        try:
            known = manifests.load(kept)
        except FanlightError:
            known = None  # of another version: a cache, so it is made again
    manifest = scan.scan(listing, known=known, workers=workers, decode=decode)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        manifest.save(kept)
    except OSError as error:
        why = error.strerror or str(error)
        warn(f"the manifest cannot be kept in {kept.parent}", why=why, do="Set FANLIGHT_CACHE to a writable folder")
    return manifest


def check(path: str, *, workers: int | None, out: Path | None) -> dict[str, Any]:
    """Reads and decodes every file; prints what was found; the JSON object of `check --json`."""
    manifest = up_to_date(path, decode=True, workers=workers)
    kept = cache.manifest_path(path)
    if out is not None:
        kept = out / "manifest.parquet" if out.is_dir() else out
        if kept.exists() and not kept.is_file():  # it would be replaced, and a device is not for that
            raise ConfigError(f"--out {kept} is no regular file; use another path")
        try:
            manifest.save(kept)
        except OSError as error:
            raise ConfigError(f"--out {kept} cannot be written: {error.strerror or error}; use another path") from None
    audit = manifests.audit(manifest)
    labels, splits = manifest.column("label")[manifest.ok], manifest.column("split")[manifest.ok]
    bad = np.flatnonzero(~manifest.ok)
    quarantined = [
        {"path": str(manifest.column("path")[row]), "reason": str(manifest.column("reason")[row])} for row in bad
    ]
    document = {
        "images": int(manifest.ok.sum()),
        "classes": {name: int((labels == name).sum()) for name in manifest.classes},
        "splits": dict(Counter(name or "none given" for name in splits.tolist())),
        "quarantined": quarantined,
        **{key: audit[key] for key in ("exact_copies", "copy_groups", "label_conflicts", "leaks")},
        "manifest": str(kept) if kept.is_file() else None,
    }
    if not manifest.classes:
        document["captions"] = sum(len(json.loads(text)) for text in manifest.column("captions")[manifest.ok] if text)
    _print(document, manifest, imbalance=audit["imbalance"])
    return document


def _print(document: dict[str, Any], manifest: Manifest, *, imbalance: float) -> None:
    what = f" in {len(manifest.classes)} classes" if manifest.classes else f", {document['captions']} captions"
    say(f"{document['images']} images{what}, from {manifest.source} in {manifest.root}")
    for name, count in document["classes"].items():
        say(f"  {count:>7}  {name}")
    say(f"Splits: {', '.join(f'{name} {count}' for name, count in document['splits'].items())}")
    if manifest.classes:
        say(f"Largest class / smallest class: {imbalance:.1f}")
    _print_some("quarantined", [f"{item['path']}: {item['reason']}" for item in document["quarantined"]])
    say(f"Exact copies of another image: {document['exact_copies']}")
    _print_some("copies under several labels", [" = ".join(item["paths"]) for item in document["label_conflicts"]])
    _print_some("copies in several splits", [" = ".join(item["paths"]) for item in document["leaks"]])
    say(f"Manifest: {document['manifest'] or 'not kept'}")


def _print_some(what: str, lines: list[str]) -> None:
    if not lines:
        return
    say(f"{len(lines)} {what}:")
    for line in lines[:SHOWN]:
        say(f"  {line}")
    if len(lines) > SHOWN:
        say(f"  … and {len(lines) - SHOWN} more; --json lists all")
