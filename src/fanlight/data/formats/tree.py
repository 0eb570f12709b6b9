"""Folders and files, on the disk or in an archive: what recognising a layout needs to see of them.

Paths are relative to the root, with forward slashes; the root itself is the empty path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fanlight import console
from fanlight.data import inside
from fanlight.data.formats.listing import IMAGE_ENDINGS
from fanlight.data.inside import Archive
from fanlight.data.manifest import read_file
from fanlight.errors import DataError, shown

NOT_DATA = ("thumbs.db", "desktop.ini", "__macosx")


class Tree(Protocol):
    """Hidden files and leftovers of other systems are not in it."""

    root: Path

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder, sorted. DataError where it cannot be read."""
        ...

    def files(self, folder: str) -> Iterator[str]:
        """Files at any depth, relative to the root."""
        ...

    def has_file(self, path: str) -> bool: ...

    def read(self, path: str) -> bytes:
        """OSError where it cannot be read."""
        ...


class Disk:
    def __init__(self, root: Path):
        self.root = root

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if is_data(entry.name):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            raise DataError(f"cannot read folder {self.root / folder}: {error.strerror}") from None
        return sorted(folders), sorted(files)

    def files(self, folder: str) -> Iterator[str]:
        on_the_way = [self.root / "/".join(folder.split("/")[:depth]) for depth in range(len(folder.split("/")))]
        return self._files(folder, above=tuple(_identity(each) for each in on_the_way if folder))

    def _files(self, folder: str, *, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """`above` are the folders on the way here, so that a link to one of them ends the walk: below `cat/up -> ..` all classes
        would be cats."""
        place = self.root / folder
        try:
            here = _identity(place)
            if here in above:
                return
            with os.scandir(place) as entries:
                found = [entry for entry in entries if is_data(entry.name)]
        except OSError as error:
            raise DataError(f"cannot read folder {place}: {error.strerror}") from None
        for entry in found:
            path = f"{folder}/{entry.name}".lstrip("/")
            if _is_folder(entry):
                yield from self._files(path, above=(*above, here))
            else:  # what is no file, or a link into nowhere, is quarantined later, with its name
                yield path

    def has_file(self, path: str) -> bool:
        try:
            return os.path.isfile(self.root / path)
        except ValueError:  # a zero byte
            return False

    def read(self, path: str) -> bytes:
        return read_file(self.root / path)


class Packed:
    """A folder of an archive, `inner`, or all of it; `root` is then the archive's own path."""

    def __init__(self, root: Path, archive: Archive, *, inner: str = ""):
        self.root = root / inner if inner else root
        self._archive = archive
        self._inner = f"{inner}/" if inner else ""
        self._children: dict[str, tuple[dict[str, None], list[str]]] = {"": ({}, [])}
        for name in archive.names():
            if name.startswith(self._inner):
                self._add(name[len(self._inner) :])

    def _add(self, path: str) -> None:
        pieces = path.split("/")
        if not all(map(is_data, pieces)):
            return
        folder = "/".join(pieces[:-1])
        if folder not in self._children:
            for depth in range(len(pieces) - 1):
                above, name = "/".join(pieces[:depth]), pieces[depth]
                self._children[above][0][name] = None
                self._children.setdefault(f"{above}/{name}".lstrip("/"), ({}, []))
        self._children[folder][1].append(pieces[-1])

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._children:
            raise DataError(f"cannot read folder {self.root / folder}: there is none in the archive")
        folders, files = self._children[folder]
        return sorted(folders), sorted(files)

    def files(self, folder: str) -> Iterator[str]:
        folders, files = self.children(folder)
        prefix = f"{folder}/" if folder else ""
        for name in folders:
            yield from self.files(prefix + name)
        for name in files:
            yield prefix + name

    def has_file(self, path: str) -> bool:
        try:
            return self._archive.size(self._inner + path) >= 0
        except KeyError:
            return False

    def read(self, path: str) -> bytes:
        return read_file(self.root / path)


def opened(place: Path) -> Tree | None:
    """The folder, the archive, or the folder in an archive at `place`; None where it is a file of another kind, or none."""
    if place.is_dir():
        return Disk(place)
    outer = inside.outermost(str(place))
    if outer is None:
        return None
    try:
        archive = inside.opened(str(place))
        if archive is not None:
            return Packed(place, archive)
        archive, inner = inside.opened(outer[0]), outer[1]
        found = Packed(Path(outer[0]), archive, inner=inner) if archive is not None and inner else None
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror or error}") from None
    return found if found is not None and found.children("") != ([], []) else None


def look_through(tree: Tree, part: str, *, stop: tuple[str, ...] = ()) -> str:
    """photos -> photos/photos, where a folder holds nothing but one folder of folders."""
    while True:
        folders, files = tree.children(part)
        if len(folders) != 1 or files or folders[0].lower() in stop:
            return part
        inner = f"{part}/{folders[0]}".lstrip("/")
        if not tree.children(inner)[0]:
            return part
        part = inner


def below(tree: Tree, part: str) -> Tree:
    """The same files, seen from a folder of the tree."""
    inner = opened(tree.root / part) if part else tree
    assert inner is not None, part
    return inner


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def refuse_outside(name: str, *, told: str, root: Path) -> None:
    """DataError for a name that leads out of `root`: a downloaded list must not read other files of this machine."""
    if inside.points_out(name):
        raise DataError(
            f"{told}: {shown(name, letters=200)!r} points out of {root}; name files in it, or remove the row"
        )


def is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in NOT_DATA


def is_utf8(path: str) -> bool:
    """Whether a name can be written down; the others are left out with a warning."""
    if is_text(path):
        return True
    console.warn(
        f"{path!r} is not used", why="Its name is not UTF-8 and cannot be kept in a table", do="Rename the file"
    )
    return False


def is_text(text: str) -> bool:
    """Whether it has no half of a letter: what a name that is not UTF-8 has, or an escape in JSON may."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def say_unlisted(tree: Tree, listed: list[str], *, told: str, is_whole: bool = False) -> None:
    """Counts the images, as their names say, that lie beside listed ones, or anywhere in the tree, and are in no row."""
    known = set(listed)
    folders = {path.rpartition("/")[0] for path in listed if not inside.points_out(path)}
    there = sorted(tree.files("")) if is_whole else [path for each in sorted(folders) for path in _files_in(tree, each)]
    unlisted = [path for path in there if path.lower().endswith(IMAGE_ENDINGS) and path not in known]
    if unlisted:
        console.say(f"{told}: {len(unlisted)} images beside those that it names are not used, such as {unlisted[0]}")


def _files_in(tree: Tree, folder: str) -> list[str]:
    try:
        return [join(folder, name) for name in tree.children(folder)[1]]
    except (DataError, ValueError):  # the list names files in a folder that is not there, or cannot be
        return []


def names_beside(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if is_data(name)]
    except OSError:
        return []


def _identity(place: Path) -> tuple[int, int]:
    state = place.stat()
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
