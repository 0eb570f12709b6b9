"""Folders that something made for itself, and that go again when it is refused: never one that was there before."""

import contextlib
from collections.abc import Sequence
from pathlib import Path


def missing(folder: Path) -> list[Path]:
    """`folder` and the folders above it that are not there now, the innermost first."""
    found = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        found.append(each)
    return found


def remove(folders: Sequence[Path]) -> None:
    """Removes those of `folders` that are there and empty, in their order."""
    for each in folders:
        with contextlib.suppress(OSError):  # somebody else's files are in it by now
            each.rmdir()
