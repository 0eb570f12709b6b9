"""List files: a table with a row per image. Columns are known by their names, else by what is in them, and it is said.

The path column is the one whose values are files (with or without extension, also in a folder beside the list); the label
column the one with few different values, or one column per class with a single 1 in each row. Where several could be meant,
the list is refused, and `list.csv?label=NAME` says which.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NoReturn

from fanlight import console
from fanlight.data import unpacked
from fanlight.data.formats import flickr, places, tables
from fanlight.data.formats.listing import CLASS_LETTERS_MOST, IMAGE_ENDINGS, SPLIT_OF, WAYS, Listing
from fanlight.data.formats.tables import Table
from fanlight.data.formats.tree import Disk, Tree, below, is_text, join, refuse_outside, say_unlisted
from fanlight.errors import DataError, near, shown, shown_all

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "class", "category", "target", "class_name"),
    "split": ("split", "subset", "set"),
    "group": ("group", "group_id", "patient", "patient_id"),
    "weight": ("weight", "sample_weight"),
    "captions": ("caption", "captions", "text", "sentence", "sentences", "comment"),
}
CLASSES_MOST, LABEL_LETTERS_MOST = 1000, 100
NAME_LETTERS = 200  # of a path in a message
_ARCHIVE_NAME = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
NO_LISTS = {  # first bytes -> what a file is instead, and what to do with it
    **dict.fromkeys((b"\xff\xd8\xff", b"\x89PNG", b"GIF8"), "one image; give the folder of its class folders"),
    b"Rar!": "a RAR archive, which is not read; unpack it, and give the folder",
    b"7z\xbc\xaf": "a 7z archive, which is not read; unpack it, and give the folder",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard, which is not read; unpack it, and give the folder",
    b"\xff\xfe": "text in UTF-16, as some programs save it; save it as UTF-8",
}  # fmt: skip
_IMAGE_FOLDER = re.compile(r"image|img|photo|pict|train|test|val|jpe?g|png|data", re.IGNORECASE)


def chosen_columns(place: Path) -> tuple[Path, dict[str, str]]:
    """`list.csv?path=A&label=B` in two: the file, and which columns are what. DataError for other words after the mark."""
    name, mark, words = str(place).rpartition("?")
    if not mark or os.path.exists(place):
        return place, {}
    chosen = {}
    for word in words.split("&"):
        what, _, column = word.partition("=")
        if what not in COLUMNS or not column:
            raise DataError(f"{place}: after the ? belong path=COLUMN, label=COLUMN and the like, not {word!r}")
        if what in chosen:
            raise DataError(f"{place}: {what}= is there twice; say it once")
        chosen[what] = column.strip().lower()
    return Path(name), chosen


def list_file(tree: Tree, name: str, *, chosen: dict[str, str] | None = None) -> Listing:
    """The listing of a table in the root of `tree`."""
    told = tree.root / name
    try:
        data = tree.read(name)
    except OSError as error:
        raise DataError(f"cannot read {told}: {error.strerror or error}") from None
    _refuse_no_list(data, told=str(told))
    sentences = None if chosen else flickr.sentences(data)
    if sentences is not None and any(set(COLUMNS[what]) & sentences.columns for what in ("label", "split", "group")):
        sentences = None  # a column of sentences beside these is one of a list
    if sentences is not None and (found := flickr.listed(tree, "", name, sentences)) is not None:
        return found
    return of_table(tables.read(data, told=str(told)), tree=tree, told=str(told), name=name, chosen=chosen or {})


def _refuse_no_list(data: bytes, *, told: str) -> None:
    """Before a file is read as a table: what is empty, or has an archive's name and is none."""
    if not data.strip(b"\0 \t\r\n"):
        zeros = f": {len(data)} bytes of zeros or blanks, as an archive of nothing has" if data else ""
        raise DataError(f"{told} is empty{zeros}; download or make it again")
    for head, what in NO_LISTS.items():
        if data.startswith(head):
            raise DataError(f"{told} is {what}")
    if called := _ARCHIVE_NAME.search(told):
        raise DataError(
            f"{told} is called {called[0]} and is no such archive: its first bytes are {unpacked.peek(data, 12)!r}; download or "
            "make it again, or name it as what it is"
        )


def unread(tree: Tree, part: str) -> str:
    """Why the one table beside folders of images could not be used, though its columns are those of a list; else empty."""
    likely = _tables_beside(tree, part)
    inner = below(tree, part)
    try:
        data = inner.read(likely[0]) if len(likely) == 1 else b""
        head = data.decode("utf-8-sig").partition("\n")[0]
    except (OSError, ValueError):
        return ""
    words = {word.strip(' "\r').lower() for word in re.split(r"[\t;,|]", head)}
    says = {*COLUMNS["label"], *COLUMNS["captions"]}
    if not (words & set(COLUMNS["path"]) and words & says) or flickr.sentences(data) is not None:
        return ""
    told = str(inner.root / likely[0])
    try:
        of_table(tables.read(data, told=told), tree=inner, told=told, name=likely[0], chosen={})
    except DataError as error:
        return str(error)
    return ""


def _tables_beside(tree: Tree, part: str) -> list[str]:
    files = tree.children(part)[1]
    likely = [name for name in files if name.lower().endswith((".csv", ".tsv", ".jsonl", ".parquet"))]
    if len(likely) > 1:
        likely = [name for name in likely if re.search(r"train|label|metadata|groundtruth|annot", name, re.IGNORECASE)]
    return likely


def beside(tree: Tree, part: str) -> Listing | None:
    """Kaggle's layout: train.csv beside train_images/, whose images lie flat."""
    folders, likely = tree.children(part)[0], _tables_beside(tree, part)
    looks_flat = folders and all(_IMAGE_FOLDER.search(name) for name in folders)
    if len(likely) != 1 or not looks_flat or any(tree.children(join(part, name))[0] for name in folders):
        return None
    inner = below(tree, part)
    told = inner.root / likely[0]
    try:
        table = tables.read(inner.read(likely[0]), told=str(told))
    except (OSError, DataError):
        return None
    if not any(places.are_files(inner, values) for values in table.values()):
        return None
    return of_table(table, tree=inner, told=str(told), name=likely[0], chosen={})


def of_table(
    table: Table, *, tree: Tree, told: str, name: str, chosen: dict[str, str], paths: list[str] | None = None,
    is_closed: bool = False,
) -> Listing:  # fmt: skip
    """The listing that a table describes; `paths` where its rows hold their images themselves. One that `is_closed`, or lies
    in an archive, must name files below its own folder."""
    named = _by_name(table, told=told, chosen=chosen)
    if paths is None and "path" not in named:
        named["path"] = _path_by_content(table, named, tree=tree, told=told, name=name)
    columns = {what: table[named[what]] if what in named else [] for what in COLUMNS}
    columns["path"] = columns["path"] if paths is None else paths
    are_meant = _are_captions(named, chosen, told=told, name=name if paths is None else "")
    has_captions = are_meant and (paths is not None or places.are_files(tree, columns["path"]))
    if are_meant and not has_captions and "captions" in chosen:
        _refuse_elsewhere(tree, columns["path"], named=named, told=told)
    if not has_captions and "label" not in named:
        try:
            columns["label"] = _label_by_content(table, named, told=told, name=name)
        except DataError:
            if are_meant and columns["path"]:
                _refuse_elsewhere(tree, columns["path"], named=named, told=told)
            raise
    count = len(columns["path"])
    if not count:
        raise DataError(f"{told} lists no files. {WAYS}")
    _refuse_unwritable({**table, "path": columns["path"], "label": columns["label"]}, told=told)
    if has_captions:
        columns, table = _grouped(columns, table, told=told)
        count, paths = len(columns["path"]), paths and columns["path"]
    check_rows(columns, told=told)
    if paths is None and (is_closed or not isinstance(tree, Disk)):
        for number, path in enumerate(columns["path"], 1):
            refuse_outside(path, told=f"{told}, entry {number}", root=tree.root)
    splits = [SPLIT_OF.get(word.lower(), "") for word in columns["split"]] or [""] * count
    names = [path.replace("\\", "/") for path in columns["path"]]
    located = paths or places.located(tree, names, splits=splits, told=told)
    refuse_twice(located, columns["path"], root=tree.root, told=told)
    if paths is None:
        say_unlisted(tree, located, told=told, is_whole=is_closed)
    return Listing(
        root=tree.root, source=f"list file {name}", paths=located, labels=columns["label"] or [""] * count,
        splits=splits,
        groups=columns["group"] or [""] * count, weights=columns["weight"],
        captions=columns["captions"] if has_captions else [], columns=table,
    )  # fmt: skip


def _by_name(table: Table, *, told: str, chosen: dict[str, str]) -> dict[str, str]:
    """What is said -> the column that says it: as chosen, else by its name."""
    named: dict[str, str] = {}
    for wanted, synonyms in COLUMNS.items():
        asked = chosen.get(wanted)
        if asked is not None and asked not in table:
            raise DataError(
                f"{told} has no column {asked!r}.{near(asked, map(shown, table))} It has: {shown_all(table) or 'none'}"
            )
        found = asked or next((name for name in synonyms if name in table and name not in chosen.values()), None)
        named |= {wanted: found} if found else {}
    return named


def _are_captions(named: dict[str, str], chosen: dict[str, str], *, told: str, name: str) -> bool:
    """Whether the column of captions is meant, where there is one: it was chosen, or the list has no label. `name`: of a
    table whose columns can be chosen."""
    if "captions" not in named:
        return False
    if "captions" in chosen and "label" in chosen:
        raise DataError(f"{told}: ?label= asks for classes and ?captions= for sentences; choose one of them")
    if "captions" in chosen or "label" not in named:
        return True
    column = shown(named["captions"])
    way = f"; {name}?captions={column} takes it instead" if name else ""
    console.say(f"{told}: the column {column} is not used, because {shown(named['label'])} says the classes{way}")
    return False


def _refuse_elsewhere(tree: Tree, names: list[str], *, named: dict[str, str], told: str) -> NoReturn:
    """For captions of files that are not here: without them nothing can be learned from the list."""
    raise DataError(
        f"{told}: its column {shown(named['captions'])} has captions, and most of the files in its column {shown(named['path'])} "
        f"are not here, such as {shown(places.missing(tree, names), letters=NAME_LETTERS)}; put them into a folder beside it, or "
        "mend the names"
    )


def _path_by_content(table: Table, named: dict[str, str], *, tree: Tree, told: str, name: str) -> str:
    found = [column for column in table if column not in named.values() and places.are_files(tree, table[column])]
    if len(found) > 1:
        raise DataError(
            f"{told} has no column 'path', and {shown_all(found)} name files; rename one to path, or say which: "
            f"{name}?path={shown(found[0])}"
        )
    if not found and (taken := [f"{what}={column}" for what, column in named.items() if column in COLUMNS["path"]]):
        column = taken[0].partition("=")[2]
        raise DataError(
            f"{told}: no column is left for the path, because {taken[0]} takes {column!r}; choose another column"
        )
    if not found:
        raise DataError(f"{told} has no column 'path', only {shown_all(table) or 'none'}. Rename one to path")
    if found[0].endswith(IMAGE_ENDINGS):  # the first image would be lost
        raise DataError(
            f"{told}: its first line is not the names of its columns, but {shown_all(table)}; put a line such as path,label or "
            "path,caption above"
        )
    console.say(f"{told}: the column {shown(found[0])} is taken as path, because its values are files")
    return found[0]


def _label_by_content(table: Table, named: dict[str, str], *, told: str, name: str) -> list[str]:
    left = [column for column in table if column not in named.values()]
    binary = [column for column in left if {_number(value) for value in set(table[column])} <= {0.0, 1.0}]
    ones: list[list[str]] = []
    if len(binary) > 1 and table[binary[0]]:
        rows = list(zip(*(table[column] for column in binary)))
        ones = [[column for column, value in zip(binary, row) if _number(value) == 1.0] for row in rows]
        if all(len(each) == 1 for each in ones):
            if others := [column for column in left if column not in binary and _is_label(table[column])]:
                raise DataError(
                    f"{told} has no column 'label', and {shown_all(others)} could be it as well as {shown_all(binary)}, of which "
                    f"each row has a single 1; say which: {name}?label={shown(others[0])}, or take {shown_all(others)} out of "
                    "the list"
                )
            console.say(
                f"{told}: the columns {shown_all(binary)} are the classes, because each row has a single 1 in them"
            )
            return [each[0] for each in ones]
    found = [column for column in left if _is_label(table[column])]
    if len(binary) > 1 and ones and set(found) <= set(binary):
        _refuse_ones(binary, ones, told=told, name=name)
    if len(found) > 1:
        raise DataError(
            f"{told} has no column 'label', and {shown_all(found)} could be it; rename one to label, or say which: "
            f"{name}?label={shown(found[0])}"
        )
    if not found:
        raise DataError(f"{told} has no column 'label', only {shown_all(table) or 'none'}. Rename one to label")
    different = len(set(table[found[0]]))
    console.say(f"{told}: the column {shown(found[0])} is taken as label, because it has {different} different values")
    return table[found[0]]


def _refuse_ones(binary: list[str], ones: list[list[str]], *, told: str, name: str) -> NoReturn:
    """For columns of 0 and 1 that are not one per class: several may hold, or none, and one of them alone is no label."""
    wrong = [number for number, each in enumerate(ones, 1) if len(each) != 1]
    found = ones[wrong[0] - 1]
    raise DataError(
        f"{told}, entry {wrong[0]}: {shown_all(found) or 'none'} of the columns {shown_all(binary)} {'are' if found else 'is'} "
        f"1, and one column per class needs a single 1 in each row ({len(wrong)} of {len(ones)} rows are not so); mend them, "
        f"or say which column is the label: {name}?label={shown(binary[0])}"
    )


def _is_label(values: list[str]) -> bool:
    different = set(values)
    return 2 <= len(different) <= min(CLASSES_MOST, len(values) // 2) and max(map(len, different)) <= LABEL_LETTERS_MOST


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _grouped(columns: dict[str, list[str]], table: Table, *, told: str) -> tuple[dict[str, list[str]], Table]:
    """One row per image, with all of its captions; the other columns, and the whole table, as its first row says them. Images
    without a caption are left out, and it is said."""
    sentences: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], int] = {}
    splits = columns["split"] or [""] * len(columns["path"])
    for row, (*image, text) in enumerate(zip(columns["path"], splits, columns["captions"])):
        key = (image[0], image[1])
        first.setdefault(key, row)
        try:
            sentences.setdefault(key, []).extend(flickr.listed_sentences(text))
        except ValueError as error:
            raise DataError(
                f"{told}, entry {row + 1}: its caption {shown(text)} has {error} where a text should be; write a text, or a "
                "list of texts"
            ) from None
    if silent := [key for key, texts in sentences.items() if not texts]:
        if len(silent) == len(sentences):
            raise DataError(f"{told}: none of its {len(silent)} images has a caption; fill the column of captions")
        console.say(f"{told}: {len(silent)} images have no caption and are not used, such as {shown(silent[0][0])}")
        first = {key: row for key, row in first.items() if sentences[key]}
    kept, whole = (
        {name: [values[row] for row in first.values()] for name, values in of.items() if values}
        for of in (columns, table)
    )
    return {**columns, **kept, "label": [], "captions": [json.dumps(sentences[key]) for key in first]}, whole


def _refuse_unwritable(columns: dict[str, list[str]], *, told: str) -> None:
    """JSON can escape half of a letter (\\ud800), which no table can keep."""
    for column, values in columns.items():
        for number, value in enumerate(values, 1):
            if not is_text(value):
                raise DataError(
                    f"{told}, entry {number}: {shown(column)} is {shown(value)!r}, which holds half of a letter and cannot be "
                    "kept in a table; write it anew"
                )


def check_rows(columns: dict[str, list[str]], *, told: str) -> None:
    """DataError, with the number of the entry, for a path or a label that is none, and an unknown split."""
    labels = columns["label"] or [" "] * len(columns["path"])
    for number, (name, label) in enumerate(zip(columns["path"], labels), 1):
        if not name or not label:
            raise DataError(
                f"{told}, entry {number}: the {'label' if name else 'path'} is empty; fill it or remove the row"
            )
        if _is_several(label):
            raise DataError(
                f"{told}, entry {number}: the label {shown(label)} is a list or an object, not a name; a classifier needs one "
                "class per image, as text or a number"
            )
        if len(label) > CLASS_LETTERS_MOST:
            raise DataError(
                f"{told}, entry {number}: the label {shown(label)!r} has {len(label)} letters; at most {CLASS_LETTERS_MOST} are "
                "a class's name"
            )
    for number, word in enumerate(columns["split"], 1):
        if word and word.lower() not in SPLIT_OF:
            raise DataError(f"{told}, entry {number}: split {shown(word)!r} is unknown; use train, val or test")


def _is_several(label: str) -> bool:
    if not label.startswith(("[", "{")):
        return False
    try:
        return isinstance(json.loads(label), list | dict)
    except (ValueError, RecursionError):
        return False


def refuse_twice(located: list[str], names: list[str], *, root: Path, told: str) -> None:
    """Of the files that are meant: two splits may have files of one name, in a folder each, and `./1.jpg` is `1.jpg`."""
    first: dict[str, int] = {}
    for number, (path, name) in enumerate(zip(located, names), 1):
        path = os.path.normpath(os.path.join(root, path))
        if path in first:
            raise DataError(
                f"{told} lists {shown(name, letters=NAME_LETTERS)} twice, as entries {first[path]} and {number}; keep one of them"
            )
        first[path] = number
