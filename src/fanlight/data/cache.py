"""The folder of things that can be made again: packs, features, manifests, audits, built-in data, what archives decompress to,
compiled kernels, words of captions. Listed and cleared by `fanlight cache`."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from fanlight.data import builtin

FOLDERS = ("packs", "features", "manifests", "audits", "builtin", "archives", "compiled", "plans", "captions")


def folder() -> Path:
    """$FANLIGHT_CACHE, else $XDG_CACHE_HOME/fanlight, else ~/.cache/fanlight."""
    if own := os.environ.get("FANLIGHT_CACHE"):
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "fanlight"


def manifest_path(data: str) -> Path:
    """Where the manifest of the data at `data` (a path, or a built-in name) is kept."""
    path = Path(os.path.expanduser(data))  # Path's own raises where there is no such user
    is_place = os.path.exists(path) or data not in builtin.NAMES  # also `photos.zip/train`, and patterns of shards
    place = os.path.realpath(path) if is_place and "\0" not in data else data
    return folder() / "manifests" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:24]}.parquet"


@dataclass(frozen=True)
class Entry:
    """One thing in the cache."""

    path: Path
    kind: str  # pack, features, manifest, audit, built-in, archive, compiled, plan, captions
    bytes: int
    text: str  # what it holds, in words


def entries() -> list[Entry]:
    """Everything in the cache, largest first."""
    found = [_pack(path) for path in _children("packs")]
    found += [_features(path) for path in _children("features")]
    found += [Entry(path, "manifest", path.stat().st_size, "") for path in _children("manifests")]
    found += [Entry(path, "audit", _bytes(path), "") for path in _children("audits")]
    found += [Entry(path, "built-in", _bytes(path), path.name) for path in _children("builtin")]
    unpacked = [
        path for path in _children("archives") if not path.name.startswith(".")
    ]  # the others are locks and parts
    found += [Entry(path, "archive", path.stat().st_size, path.name.partition("-")[2]) for path in unpacked]
    found += [Entry(path, "compiled", _bytes(path), "kernels of scratch/cpu") for path in _children("compiled")]
    found += [
        Entry(path, "plan", path.stat().st_size, "what this machine was measured to do")
        for path in _children("plans")
        if not path.name.startswith(".")  # a lock
    ]
    found += [Entry(path, "captions", path.stat().st_size, "words of a data set") for path in _children("captions")]
    return sorted(found, key=lambda entry: -entry.bytes)


def clear() -> int:
    """Deletes the cache's own folders, nothing beside them; returns the bytes freed."""
    before = sum(entry.bytes for entry in entries())
    for name in FOLDERS:
        shutil.rmtree(folder() / name, ignore_errors=True)
    return before - sum(entry.bytes for entry in entries())  # what could not be deleted is not freed


def _children(name: str) -> list[Path]:
    place = folder() / name
    return sorted(place.iterdir()) if place.is_dir() else []


def _pack(path: Path) -> Entry:
    try:
        about = json.loads((path / "pack.json").read_text())
        text = f"{about['images']} images, short side {about['canvas_px']} px"
    except (OSError, ValueError, KeyError):
        text = "unfinished"
    return Entry(path, "pack", _bytes(path), text)


def _features(path: Path) -> Entry:
    try:
        about = json.loads((path / "about.json").read_text())
        text = f"{about['images']} images at {about['image_px']} px, as the frozen {about['model']} sees them"
    except (OSError, ValueError, KeyError):
        text = "unfinished"
    return Entry(path, "features", _bytes(path), text)


def _bytes(path: Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
