"""Which images there are, with which labels: class folders, list files (CSV, TSV, Parquet), built-in names.

One function per layout; each returns a `Listing` and opens no image. All files count, whatever their extension: their
bytes decide later whether they are images.
"""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from fanlight import console
from fanlight.data import builtin
from fanlight.data.manifest import read_file
from fanlight.errors import DataError, near

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "class", "category", "target", "class_name"),
    "split": ("split", "subset", "set"),
    "group": ("group", "group_id", "patient", "patient_id"),
    "weight": ("weight", "sample_weight"),
}
NOT_DATA = ("thumbs.db", "desktop.ini", "__macosx")
WAYS = "Fanlight reads a folder with one folder of images per class, or a CSV file with the columns path and label"


@dataclass(frozen=True)
class Listing:
    """Files and what is said of them, in one order. Nothing has been opened."""

    root: Path  # absolute
    source: str  # where the labels come from, in words
    paths: list[str]  # relative to the root, with forward slashes
    labels: list[str]
    splits: list[str]  # train, val, test, or empty where the data gives none
    groups: list[str]  # empty where the data gives none
    weights: list[str] = field(default_factory=list)  # as a list file says them; no element where it has no such column
    captions: list[str] = field(default_factory=list)  # JSON lists of sentences; no element where the data gives none


def recognise(path: str, *, cache: Path) -> Listing:
    """The listing of a folder, a list file or a built-in name (which is written below `cache` first).

    An existing path wins over a built-in name. DataError where nothing can be learned from it."""
    if not path:
        raise DataError(f"no data is named, only an empty text. {WAYS}")
    place = Path(os.path.expanduser(path))
    if os.path.exists(place):  # where Path's own raises, on a name too long, there is none
        if path in builtin.NAMES:
            console.say(
                f"{path}: the {'folder' if place.is_dir() else 'file'} here, not the built-in data of that name"
            )
        place = Path(os.path.abspath(place))  # links stay as they are: a list's paths are relative to where it is seen
        if not _is_text(str(place)):
            raise DataError(f"{str(place)!r}: a folder's name is not UTF-8 and cannot be kept in a table; rename it")
        listing = _class_folders(place) if place.is_dir() else _list_file(place)
    elif path in builtin.NAMES:
        try:
            written = builtin.write(path, cache=cache)
        except OSError as error:
            raise DataError(
                f"built-in {path} cannot be written below {cache}: {error.strerror or error}; set FANLIGHT_CACHE to a "
                "folder that can be written"
            ) from None
        listing = replace(_class_folders(written), source=f"built-in {path}")
    else:
        close = near(place.name, [*_names(place.parent), *builtin.NAMES])
        raise DataError(f"{path} does not exist.{close} {WAYS}; built in: {', '.join(builtin.NAMES)}")
    _check_classes(listing)
    return listing


def _class_folders(root: Path) -> Listing:
    root = root / _look_through(root, "", stop=tuple(SPLIT_OF))
    folders, files = _children(root)
    split_folders = sorted((name for name in folders if name.lower() in SPLIT_OF), key=_split_order)
    has_splits = len(split_folders) == len(folders) or any(SPLIT_OF[name.lower()] == "train" for name in split_folders)
    if not folders:
        _refuse_flat(root, files)
    if has_splits and (others := [name for name in folders if name not in split_folders]):
        console.say(f"{root}: not used, because they are beside the folders of the splits: {', '.join(others)}")
    elif not has_splits and files:
        console.say(f"{root}: {len(files)} files beside the class folders are not used, such as {files[0]}")

    parts = (
        [(_look_through(root, name), SPLIT_OF[name.lower()]) for name in split_folders] if has_splits else [("", "")]
    )
    found = [(split, _tops(root, part, split=split)) for part, split in parts]
    leaves_are_classes = all(_has_distinct_leaves(tops) for _, tops in found if tops)
    rows = [
        (path, path.split("/")[-2] if leaves_are_classes else top.rpartition("/")[2], split)
        for split, tops in found
        for top, paths in tops.items()
        for path in paths
        if _is_utf8(path)
    ]
    if not rows:
        raise DataError(f"no files in the folders of {root}. {WAYS}")
    if leaves_are_classes:
        console.say(f"{root}: the inner folders are the classes, because no two have the same name")
    rows.sort()
    source = f"class folders in {' and '.join(f'{name}/' for name in split_folders)}" if has_splits else "class folders"
    paths, labels, splits = (list(column) for column in zip(*rows))
    return Listing(root, source, paths, labels, splits, groups=[""] * len(rows))


def _look_through(root: Path, part: str, *, stop: tuple[str, ...] = ()) -> str:
    """photos -> photos/photos, where a folder holds nothing but one folder of folders."""
    while True:
        folders, files = _children(root / part)
        if len(folders) != 1 or files or folders[0].lower() in stop:
            return part
        inner = f"{part}/{folders[0]}".lstrip("/")
        if not _children(root / inner)[0]:
            return part
        part = inner


def _tops(root: Path, part: str, *, split: str) -> dict[str, list[str]]:
    """Top folder, relative to the root -> its files at any depth, relative to the root."""
    folders, files = _children(root / part)
    if files and not folders and split in ("val", "test"):
        console.warn(
            f"{root / part} is not used",
            why="Its files have no class folders",
            do="Use `fanlight predict` for unlabelled images",
        )
    elif files and not folders:
        _refuse_flat(root / part, files)
    prefix = f"{part}/" if part else ""
    tops = {prefix + name: list(_files(root, prefix + name)) for name in folders}
    for top in [top for top, paths in tops.items() if not paths]:
        console.warn(
            f"class folder {top} is empty", why="A class without images cannot be learned", do="Add images or remove it"
        )
    return {top: paths for top, paths in tops.items() if paths}


def _has_distinct_leaves(tops: dict[str, list[str]]) -> bool:
    """LC25000 (lung_image_sets/lung_aca/…): top folders of folders of files, no folder's name twice."""
    leaves = {top: {path[len(top) + 1 :].rpartition("/")[0] for path in paths} for top, paths in tops.items()}
    names = [name for inner in leaves.values() for name in inner]
    if not names or "" in names or any("/" in name for name in names):
        return False
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        console.warn(
            f"folders named {twice} occur in several of the folders {', '.join(leaves)}",
            why="The outer folders are taken as the classes",
            do="If they are splits, name them train, val and test",
        )
        return False
    return True


def _children(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted, without hidden ones and leftovers of other systems."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_data(entry.name):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from None
    return sorted(folders), sorted(files)


def _files(root: Path, folder: str, *, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Files at any depth. `above` are the folders on the way here, so that a link to one of them ends the walk."""
    place = root / folder
    try:
        state = place.stat()
        here = (state.st_dev, state.st_ino)
        if here in above:
            return
        with os.scandir(place) as entries:
            found = [entry for entry in entries if _is_data(entry.name)]
    except OSError as error:
        raise DataError(f"cannot read folder {place}: {error.strerror}") from None
    for entry in found:
        if _is_folder(entry):
            yield from _files(root, f"{folder}/{entry.name}", above=(*above, here))
        else:  # what is no file, or a link into nowhere, is quarantined later, with its name
            yield f"{folder}/{entry.name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _split_order(name: str) -> int:
    return list(SPLITS).index(SPLIT_OF[name.lower()])


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in NOT_DATA


def _is_utf8(path: str) -> bool:
    """Whether a name can be written down; the others are left out with a warning."""
    if _is_text(path):
        return True
    console.warn(
        f"{path!r} is not used", why="Its name is not UTF-8 and cannot be kept in a table", do="Rename the file"
    )
    return False


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in path)


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _is_data(name)]
    except OSError:
        return []


def _refuse_flat(folder: Path, files: list[str]) -> NoReturn:
    if not files:
        raise DataError(f"{folder} is empty. {WAYS}")
    raise DataError(f"{folder} has {len(files)} files, such as {files[0]}, but no folder per class. {WAYS}")


def _list_file(path: Path) -> Listing:
    """CSV, TSV or Parquet with the columns path and label, and split, group and weight where they are given."""
    table = _table(path)
    columns: dict[str, list[str]] = {}
    for wanted, synonyms in COLUMNS.items():
        name = next((name for name in synonyms if name in table), None)
        if name is None and wanted in ("path", "label"):
            raise DataError(
                f"{path} has no column {wanted!r}, only {', '.join(table) or 'none'}. Rename one to {wanted}"
            )
        columns[wanted] = table[name] if name else []
    count = len(columns["path"])
    if not count:
        raise DataError(f"{path} lists no files. {WAYS}")
    first: dict[str, int] = {}
    for number, (name, label) in enumerate(zip(columns["path"], columns["label"]), 1):
        if not name or not label:
            raise DataError(
                f"{path}, entry {number}: the {'label' if name else 'path'} is empty; fill it or remove the row"
            )
        if name in first:
            raise DataError(f"{path} lists {name} twice, as entries {first[name]} and {number}; keep one of them")
        first[name] = number
    for number, word in enumerate(columns["split"], 1):
        if word and word.lower() not in SPLIT_OF:
            raise DataError(f"{path}, entry {number}: split {word!r} is unknown; use train, val or test")
    return Listing(
        root=path.parent,
        source=f"list file {path.name}",
        paths=[name.replace("\\", "/") for name in columns["path"]],
        labels=columns["label"],
        splits=[SPLIT_OF.get(word.lower(), "") for word in columns["split"]] or [""] * count,
        groups=columns["group"] or [""] * count,
        weights=columns["weight"],
    )


def _table(path: Path) -> dict[str, list[str]]:
    """Column, in lower case -> its values as stripped text; empty where there is none."""
    try:
        data = read_file(path)
        if data.startswith(b"PAR1"):
            import pyarrow.parquet as pq

            columns = pq.ParquetFile(path).read().to_pydict()
            return {
                str(name).strip().lower(): [
                    "" if value is None or value != value else str(value).strip() for value in values
                ]
                for name, values in columns.items()
            }
        text = data.decode("utf-8-sig")
        heading = text.partition("\n")[0]
        delimiter = max("\t;,", key=heading.count) if any(mark in heading for mark in "\t;,") else ","
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:  # also UnicodeDecodeError and Arrow's
        raise DataError(f"{path} is not a list file ({error}). {WAYS}") from None
    head = [name.strip().lower() for name in rows.pop(0)] if rows else []
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise DataError(f"{path} has several columns {twice[0]!r}; keep one of them")
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise DataError(
                f"{path}, entry {number}: {len(row)} fields where the first line has {len(head)}: {row[:4]}"
            )
    return {name: [row[column].strip() for row in rows] for column, name in enumerate(head)}


def _check_classes(listing: Listing) -> None:
    """Classes of val and test are matched to train's by name, never by position."""
    of_split: dict[str, set[str]] = {}
    for label, split in set(zip(listing.labels, listing.splits)):
        of_split.setdefault(split or "train", set()).add(label)
    classes = of_split.get("train") or set(listing.labels)
    if len(classes) < 2:
        only = ", ".join(classes)
        raise DataError(f"{listing.root} has only one class, {only}; a classifier needs at least two. {WAYS}")
    for names in _alike(classes):
        console.warn(
            f"classes {' and '.join(map(repr, names))} differ only in case or in how accents are written",
            why="They are trained as different classes",
            do="If they are one class, give them one name",
        )
    for split in ("val", "test"):
        if unknown := sorted(of_split.get(split, classes) - classes):
            close = near(unknown[0], sorted(classes))
            raise DataError(
                f"{listing.root}: classes of {split} that train lacks: {', '.join(unknown)}.{close} "
                f"Rename them, or add images of them to train; train has: {', '.join(sorted(classes))}"
            )
        if missing := sorted(classes - of_split.get(split, classes)):
            console.warn(
                f"{split} has no images of {', '.join(missing)}",
                why="These classes cannot be scored there",
                do="Add some",
            )


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that a careless eye, or another file system, takes for one."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    return [alike for alike in found.values() if len(alike) > 1]
