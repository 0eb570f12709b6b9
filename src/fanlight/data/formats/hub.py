"""What the Hugging Face hub keeps: folders with metadata.csv, .jsonl or .parquet, and Parquet tables with the images in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fanlight import console
from fanlight.data import inside, unpacked
from fanlight.data.formats import lists, tables
from fanlight.data.formats.listing import SPLIT_OF, Listing, Misfit, split_in
from fanlight.data.formats.tree import Disk, Tree, below, is_data, join
from fanlight.data.inside import Part, Reader
from fanlight.errors import DataError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def image_folder(tree: Tree, part: str) -> Listing | None:
    """imagefolder: metadata with file_name and a label or a text, in the folder or in each folder of a split."""
    folders, files = tree.children(part)
    places = [("", "", name) for name in METADATA if name in files]
    for folder in folders:
        if folder.lower() in SPLIT_OF:
            inner = tree.children(join(part, folder))[1]
            places += [(folder, SPLIT_OF[folder.lower()], name) for name in METADATA if name in inner]
    found = [_metadata(tree, join(part, folder), name, split=split, at=folder) for folder, split, name in places]
    listings = [each for each in found if each is not None]
    if not listings:
        return None
    root = tree.root / part
    for (folder, _, name), each in zip(places, found):
        if each is None:
            raise DataError(
                f"{root / folder / name} has no column file_name, as other metadata here have; rename the column that names files"
            )
    _warn_of_untold(tree, part, told={folder for folder, _, _ in places})
    joined = _joined(listings, root=root, source=f"metadata in {listings[0].source.removeprefix('list file ')}")
    lists.refuse_twice(joined.paths, joined.paths, root=root, told=f"the metadata of {root}")
    return joined


def _warn_of_untold(tree: Tree, part: str, *, told: set[str]) -> None:
    """Names the folders of splits without metadata, where metadata lie in those of others."""
    folders = [name for name in tree.children(part)[0] if name.lower() in SPLIT_OF and name not in told]
    for name in folders if "" not in told else ():
        console.warn(
            f"{tree.root / part / name} is not used", why="Other folders of splits have metadata in them, and it has none",
            do=f"Put a {METADATA[0]} with file_name and the label into it, unless its images have none",
        )  # fmt: skip


def _metadata(tree: Tree, folder: str, name: str, *, split: str, at: str) -> Listing | None:
    """None where it has no file_name, or says nothing of the files but that there are class folders."""
    inner = below(tree, folder)
    told = inner.root / name
    try:
        table = tables.read(inner.read(name), told=str(told))
    except OSError as error:
        raise DataError(f"cannot read {told}: {error.strerror or error}") from None
    said = {*lists.COLUMNS["label"], *lists.COLUMNS["captions"]}
    if "file_name" not in table or (inner.children("")[0] and not said & table.keys()):
        return None
    found = lists.of_table(table, tree=inner, told=str(told), name=name, chosen={"path": "file_name"}, is_closed=True)
    splits = [
        split or own or SPLIT_OF.get(path.split("/")[0].lower(), "") for path, own in zip(found.paths, found.splits)
    ]
    return replace(found, splits=splits, paths=[join(at, path) for path in found.paths])


def _tables_in(tree: Tree, part: str) -> list[str]:
    """Parquet tables with images, in a folder or in its folder data/."""
    folders, files = tree.children(part)
    names = [name for name in files if name.lower().endswith(".parquet")]
    if "data" in folders:
        names += [f"data/{name}" for name in tree.children(join(part, "data"))[1] if name.lower().endswith(".parquet")]
    return [name for name in names if _has_images(tree.root / part / name)]


def _has_images(path: Path) -> bool:
    try:
        return unpacked.image_column(inside.part(str(path))) is not None
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> Misfit:
    why = " ".join(str(error).split()).rstrip(".")
    return Misfit(f"{path} is a damaged Parquet table ({why}); download it again")


def tables_with_images(tree: Tree, part: str) -> Listing | None:
    """data/train-00000-of-00001.parquet and the like, with a column of images and one of labels or captions."""
    names = _tables_in(tree, part)
    if not names:
        return None
    root = tree.root / part
    return _joined(
        [_rows(root, name) for name in names], root=root, source=f"Parquet tables with images ({len(names)})"
    )


def table_file(place: Path) -> Listing | None:
    """The listing of one Parquet table with images; None where it is another file."""
    try:
        part = Part.whole(str(place)) if is_data(place.name) and place.is_file() else None
    except OSError:
        return None
    if part is None or not unpacked.has_images(part, part.read(0, 8)):
        return None
    return _joined([_rows(place.parent, place.name)], root=place.parent, source="a Parquet table with images")


def _rows(root: Path, name: str) -> Listing:
    part = inside.part(str(root / name))
    try:
        with io.BufferedReader(Reader(part)) as file:  # type: ignore[type-var]
            table = tables.parquet(file, told=str(root / name))
    except ValueError as error:
        raise _damaged(root / name, error) from None
    archive = inside.opened(str(root / name))
    if archive is None:  # it was a table with images a moment ago
        raise DataError(f"{root / name} changed while it was read; try again")
    paths = [f"{name}/{member}" for member in archive.names()]
    table = {column: values for column, values in table.items() if column not in lists.COLUMNS["path"]}
    found = lists.of_table(table, tree=Disk(root), told=str(root / name), name=name, chosen={}, paths=paths)
    return replace(found, splits=[own or split_in(name) for own in found.splits])


def _joined(listings: list[Listing], *, root: Path, source: str) -> Listing:
    """Several listings of one root as one. Labels or captions, not some of each."""

    def column(of: Callable[[Listing], list[str]]) -> list[str]:
        filled = any(of(each) for each in listings)
        return [value for each in listings for value in (of(each) or [""] * len(each.paths))] if filled else []

    if len({bool(each.captions) for each in listings}) > 1:
        console.warn(
            f"{root}: some tables have captions and no labels", why="They are left out", do="Give each table a label"
        )
        listings = [each for each in listings if not each.captions]

    def said(name: str) -> list[str]:
        return column(lambda each: each.columns.get(name, []))

    names = dict.fromkeys(name for each in listings for name in each.columns)
    return Listing(
        root=root, source=source, paths=column(lambda each: each.paths), labels=column(lambda each: each.labels),
        splits=column(lambda each: each.splits), groups=column(lambda each: each.groups),
        weights=column(lambda each: each.weights), captions=column(lambda each: each.captions),
        columns={name: said(name) for name in names},
    )  # fmt: skip
