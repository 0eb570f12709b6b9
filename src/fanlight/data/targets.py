"""Where `check` may write what a user asks for: never over, or into, somebody's data."""

from __future__ import annotations

import os
from pathlib import Path

from fanlight.errors import ConfigError

NAMES = {"--out": "manifest.parquet", "--fix": "fixed.parquet", "--report": "data.html"}  # in a folder that is given
MARK = b'<meta name="generator" content="fanlight">'  # in the head of pages
HEAD_BYTES = 1024


def places(data: str, asked: dict[str, str | None]) -> dict[str, Path]:
    """Option -> the file that it writes, for the options that were given. ConfigError, before anything is read, for what would
    destroy something: a place in the data, a file that Fanlight did not write, one file for two options."""
    found: dict[str, Path] = {}
    for option, text in asked.items():
        if text is None:
            continue
        if not text:
            raise ConfigError(f"{option} is empty; name a file, or leave it out")
        given = Path(os.path.expanduser(text))
        place = given / NAMES[option] if given.is_dir() else given
        suffix = Path(NAMES[option]).suffix
        if place.suffix.lower() != suffix:
            raise ConfigError(f"{option} {text}: it writes a {suffix} file; name one that ends so, or a folder")
        if not os.path.isdir(place.parent):  # said now, and not after hours of reading
            raise ConfigError(
                f"{option} {text} cannot be written: {place.parent} is no folder; make it, or use another path"
            )
        _check_outside(data, place, option=option)
        _check_own(place, option=option)
        for other, taken in found.items():
            if os.path.realpath(taken) == os.path.realpath(place):
                raise ConfigError(f"{other} and {option} both write {place}; name two files")
        found[option] = place
    return found


def _check_outside(data: str, place: Path, *, option: str) -> None:
    root, real = os.path.realpath(os.path.expanduser(data)), os.path.realpath(place)
    if os.path.exists(root) and os.path.commonpath([root, real]) == root:
        what = "is the data itself" if root == real else f"lies in the data, {data}"
        raise ConfigError(f"{option} {place} {what}, which is never changed; use another path")


def _check_own(place: Path, *, option: str) -> None:
    if not os.path.lexists(place):
        return
    if not place.is_file():  # it would be replaced, and a device is not for that
        raise ConfigError(f"{option} {place} is no regular file; use another path")
    if not (_is_page(place) if place.suffix.lower() == ".html" else _is_manifest(place)):
        raise ConfigError(f"{option} {place} exists, and is not of Fanlight's making; use another path, or remove it")


def _is_page(place: Path) -> bool:
    with open(place, "rb") as file:
        return MARK in file.read(HEAD_BYTES)


def _is_manifest(place: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return b"fanlight" in (pq.read_schema(place).metadata or {})
    except (OSError, pa.ArrowException):
        return False
