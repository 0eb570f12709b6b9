"""Which images there are, with which labels or captions: one function per public format, recognised by what is there.

`recognise` asks them in turn; each returns a `Listing` and opens no image. All files count, whatever their extension: their
bytes decide later whether they are images. Every layout may lie in a folder, a zip or a tar.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fanlight import console
from fanlight.data import builtin, inside
from fanlight.data.formats import arrays, captions, flickr, folders, hub, karpathy, kept, lists, shards, tree
from fanlight.data.formats.listing import IMAGE_ENDINGS, WAYS, Listing, Misfit
from fanlight.data.formats.tree import Disk, Tree
from fanlight.errors import DataError, near, shown, shown_all

__all__ = ["Listing", "recognise"]

LAYOUTS = (
    arrays.cifar, arrays.idx, karpathy.karpathy, captions.coco, flickr.flickr, hub.tables_with_images, hub.image_folder,
    shards.shards, lists.beside,
)  # fmt: skip
_NUMBER = re.compile(r"\d{1,9}(\.\d{0,9})?", re.ASCII)
DEEP_MOST = 8  # folders that hold nothing but one folder, one in another


def recognise(path: str, *, cache: Path) -> Listing:
    """The listing of a folder, an archive, a list file, shards or a built-in name (which is written below `cache` first).

    An existing path wins over a built-in name. DataError where nothing can be learned from it."""
    if not path:
        raise DataError(f"no data is named, only an empty text. {WAYS}")
    place, chosen = lists.chosen_columns(Path(os.path.expanduser(path)))
    if os.path.exists(place):  # where Path's own raises, on a name too long, there is none
        if path in builtin.NAMES:
            console.say(
                f"{path}: the {'folder' if place.is_dir() else 'file'} here, not the built-in data of that name"
            )
        place = Path(os.path.abspath(place))  # links stay as they are: a list's paths are relative to where it is seen
        if not tree.is_text(str(place)):
            raise DataError(f"{str(place)!r}: a folder's name is not UTF-8 and cannot be kept in a table; rename it")
        listing = _existing(place, chosen=chosen)
    elif path in builtin.NAMES:
        try:
            written = builtin.write(path, cache=cache)
        except OSError as error:
            raise DataError(
                f"built-in {path} cannot be written below {cache}: {error.strerror or error}; set FANLIGHT_CACHE to a "
                "folder that can be written"
            ) from None
        listing = replace(of_tree(Disk(written)), source=f"built-in {path}")
    elif (found := shards.pattern(place)) is not None:
        _refuse_columns(chosen, place, "a pattern of shards")
        listing = found
    elif inside.outermost(str(place)) is not None:
        listing = _within(Path(os.path.abspath(place)), chosen=chosen)
    else:
        close = near(place.name, [*tree.names_beside(place.parent), *builtin.NAMES])
        raise DataError(
            f"{shown(path, letters=400)} does not exist.{close} {WAYS}; built in: {', '.join(builtin.NAMES)}"
        )
    if not listing.captions or any(listing.labels):
        _check_classes(listing)
    return listing


def _existing(place: Path, *, chosen: dict[str, str]) -> Listing:
    if place.is_dir():
        _refuse_columns(chosen, place, "a folder")
        return of_tree(Disk(place))
    if (listing := kept.manifest_file(place)) is not None:
        _refuse_columns(chosen, place, "a manifest")
        return listing
    if (table := hub.table_file(place)) is not None:
        _refuse_columns(chosen, place, "a table with the images in it")
        return table
    if (
        karpathy.is_split_file(place.name)
        and (split := karpathy.split_file(Disk(place.parent), "", place.name)) is not None
    ):
        _refuse_columns(chosen, place, "a split file")
        return split
    if arrays.is_one(place):
        raise DataError(
            f"{place} is one file of a set: images, or labels, alone. Give the folder, or the archive, that it lies in"
        )
    found = tree.opened(place)
    if found is not None:
        _refuse_columns(chosen, place, "an archive")
    return of_tree(found) if found is not None else lists.list_file(Disk(place.parent), place.name, chosen=chosen)


def _within(place: Path, *, chosen: dict[str, str]) -> Listing:
    """What a path into an archive names: a folder, or a list."""
    found = tree.opened(place)
    if found is not None:
        _refuse_columns(chosen, place, "in an archive, and a folder")
        return of_tree(found)
    beside = tree.opened(place.parent)
    if beside is None or not beside.has_file(place.name):
        raise DataError(f"{place} does not exist: the archive has no such folder or file")
    return lists.list_file(beside, place.name, chosen=chosen)


def _refuse_columns(chosen: dict[str, str], place: Path, what: str) -> None:
    """What is said of a list's columns means nothing of other data, and would change nothing in silence."""
    if chosen:
        words = "&".join(f"{each}={column}" for each, column in chosen.items())
        raise DataError(
            f"{place} is {what}, not a list, so ?{words} says nothing of it; leave it out, or name the list file"
        )


def of_tree(found: Tree) -> Listing:
    """The first layout that fits, looked for also below folders that hold nothing but one folder."""
    part = ""
    for _ in range(DEEP_MOST):
        for layout in LAYOUTS:
            try:
                listing = layout(found, part)
            except DataError as error:
                is_misfit = isinstance(error, Misfit) or layout in (arrays.cifar, arrays.idx)
                if not (is_misfit and folders.are_classes(found, part)):
                    raise
                console.warn(
                    str(error).rpartition(";")[0] or str(error), why="The class folders beside it are read, and it is not",
                    do="If the folders are not the data, take them away",
                )  # fmt: skip
                continue
            if listing is not None:
                if layout in (shards.shards, hub.tables_with_images):
                    _refuse_two_sets(found, part, listing)
                return listing
        inner, files = found.children(part)
        if len(files) == 1 and not inner and (packed := tree.opened(found.root / part / files[0])) is not None:
            console.say(f"{found.root / part}: {files[0]} is all that is in it, and is looked into")
            return of_tree(packed)
        if len(inner) != 1 or files:
            break
        part = f"{part}/{inner[0]}".lstrip("/")
    return _by_folders(found, part)


def _by_folders(found: Tree, part: str) -> Listing:
    """The listing of class folders. Where two do not hold images, a file that is called as one of captions was meant."""
    try:
        listing = folders.class_folders(found)
    except DataError:
        if why := lists.unread(found, part) or flickr.unread(found, part):
            raise DataError(why) from None
        raise
    labels = {label for path, label in zip(listing.paths, listing.labels) if path.lower().endswith(IMAGE_ENDINGS)}
    if len(labels or set(listing.labels)) < 2 and (why := lists.unread(found, part) or flickr.unread(found, part)):
        raise DataError(why)
    return listing


def _refuse_two_sets(found: Tree, part: str, listing: Listing) -> None:
    """A backup of samples beside class folders: the one or the other would be left out in silence."""
    if isinstance(found, Disk) and folders.are_classes(found, part):
        raise DataError(
            f"{found.root / part} holds two sets: {listing.source}, such as {listing.paths[0]}, and folders of images, "
            f"{shown_all(found.children(part)[0])}; move one of them elsewhere, or name the file that is meant"
        )


def _check_classes(listing: Listing) -> None:
    """Classes of val and test are matched to train's by name, never by position."""
    of_split: dict[str, set[str]] = {}
    for label, split in set(zip(listing.labels, listing.splits)):
        of_split.setdefault(split or "train", set()).add(label)
    classes = of_split.get("train") or set(listing.labels)
    if len(classes) < 2:
        only = shown_all(classes)
        raise DataError(f"{listing.root} has only one class, {only}; a classifier needs at least two. {WAYS}")
    for names in _alike(classes):
        console.warn(
            f"classes {' and '.join(map(repr, names))} differ only in case or in how accents or numbers are written",
            why="They are trained as different classes",
            do="If they are one class, give them one name",
        )
    for split in ("val", "test"):
        if unknown := sorted(of_split.get(split, classes) - classes):
            close = near(unknown[0], sorted(classes))
            raise DataError(
                f"{listing.root}: classes of {split} that train lacks: {shown_all(unknown)}.{close} "
                f"Rename them, or add images of them to train; train has: {shown_all(sorted(classes))}"
            )
        if missing := sorted(classes - of_split.get(split, classes)):
            console.warn(
                f"{split} has no images of {shown_all(missing)}",
                why="These classes cannot be scored there",
                do="Add some",
            )


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that a careless eye, or another file system, takes for one."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        key = unicodedata.normalize("NFC", name).casefold()
        if _NUMBER.fullmatch(key):
            key = str(float(key))
        found.setdefault(key, []).append(name)
    return [alike for alike in found.values() if len(alike) > 1]
