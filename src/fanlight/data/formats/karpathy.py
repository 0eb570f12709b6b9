"""Karpathy's split files: dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json, with images, splits and sentences.

`images` has filename, split (train, restval, val, test) and sentences, each with its `raw` words, and of COCO filepath, the
folder.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fanlight import console
from fanlight.data.formats.captions import folder_of, json_document, json_field
from fanlight.data.formats.listing import SPLIT_OF, Listing, Row, listing_of
from fanlight.data.formats.tree import Tree, is_text, join, refuse_outside, say_unlisted
from fanlight.errors import DataError, shown, shown_all

_NAME = re.compile(r"dataset_\w+\.json", re.IGNORECASE)
_FOLDERS = re.compile(
    r"karpathy|caption|annotation|split|dataset|text", re.IGNORECASE
)  # where such a file is looked for
_SPLITS = SPLIT_OF | {"restval": "train"}  # images of COCO's val that its split trains on


def karpathy(tree: Tree, part: str) -> Listing | None:
    """The split file here, or in a folder here that is called as one of annotations."""
    folders, files = tree.children(part)
    found = [join(part, name) for name in files if _NAME.fullmatch(name)]
    for folder in filter(_FOLDERS.search, folders):
        found += [
            join(part, join(folder, name)) for name in tree.children(join(part, folder))[1] if _NAME.fullmatch(name)
        ]
    images = {path: images for path in found if (images := _images(tree, path)) is not None}
    found = list(images)
    listings = [listing for path in found if (listing := _listed(tree, part, path, images.pop(path))) is not None]
    if len(listings) > 1:
        names = shown_all(each.source.rpartition(" ")[2] for each in listings)
        raise DataError(
            f"{tree.root / part} has several split files whose images are here, {names}; name the one that is meant"
        )
    if found and not listings:
        console.warn(
            f"{shown_all(found)}: not used", why="None of the images of a split file is here",
            do="Put the folders of images beside it, under the names that it has for them",
        )  # fmt: skip
    return listings[0] if listings else None


def is_split_file(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def split_file(tree: Tree, part: str, path: str) -> Listing | None:
    """The listing of one such file, with images below `part`; None where it is another file, or none of its images is here."""
    images = _images(tree, path)
    return None if images is None else _listed(tree, part, path, images)


def _listed(tree: Tree, part: str, path: str, images: list[Any]) -> Listing | None:
    told = str(tree.root / path)
    rows: dict[str, Row] = {}
    silent: list[str] = []
    empty: list[str] = []
    for number, each in enumerate(images, 1):
        place = f"{told}: entry {number} of images"
        last = json_field(each, "filename", (str,), place=place)
        folder = json_field(each, "filepath", (str,), place=place) if "filepath" in each else ""
        name = join(folder, last)
        refuse_outside(name, told=place, root=tree.root)
        if not last.strip():
            raise DataError(f"{place}: its filename is empty; mend it, or download it again")
        if not is_text(name):
            raise DataError(
                f"{place}: its filename is {shown(name)!r}, which holds half of a letter; no file is called so"
            )
        split = str(json_field(each, "split", (str,), place=place))
        if split.lower() not in _SPLITS:
            raise DataError(f"{place}: its split is {shown(split)!r}; known are {', '.join(_SPLITS)}")
        if name in rows:
            raise DataError(f"{place}: {shown(name)} is there before; an image stands in one split, once")
        texts = _sentences(each, place=place)
        said = [text for text in texts if text]
        empty += [name] * (len(texts) - len(said))
        silent += [] if said else [name]
        rows[name] = Row(name, split=_SPLITS[split.lower()], captions=json.dumps(said) if said else "")
    _say(told, silent=silent, empty=empty, total=len(rows))
    located = _located(tree, part, path, list(rows))
    if located is None:
        return None
    used = [Row(located[name], split=row.split, captions=row.captions) for name, row in rows.items() if row.captions]
    if not used:
        raise DataError(f"{told}: none of its {len(rows)} images has a caption; fill their sentences")
    say_unlisted(tree, list(located.values()), told=told)
    return listing_of(used, root=tree.root, source=f"Karpathy's split, {path.rpartition('/')[2]}")


def _images(tree: Tree, path: str) -> list[Any] | None:
    """The entries of a split file, as they are; None where it is another file. DataError where it has none."""
    found = json_document(tree, path)
    images = found.get("images") if isinstance(found, dict) else None
    if not isinstance(images, list):
        return None
    if not images and "dataset" in found:
        raise DataError(f"{tree.root / path}: images is empty; mend it, or download it again")
    return images if any(isinstance(each, dict) and "sentences" in each for each in images) else None


def _sentences(entry: dict[str, Any], *, place: str) -> list[str]:
    """Its sentences, an empty text for an empty one; where one has no `raw`, its tokens are joined."""
    found = []
    for number, each in enumerate(json_field(entry, "sentences", (list,), place=place), 1):
        inner = f"{place}: sentence {number}"
        if isinstance(each, dict) and "raw" not in each and isinstance(each.get("tokens"), list):
            found.append(" ".join(str(word) for word in each["tokens"]))
        else:
            found.append(" ".join(json_field(each, "raw", (str,), place=inner).split()))
    return found


def _say(told: str, *, silent: list[str], empty: list[str], total: int) -> None:
    if empty:
        console.warn(
            f"{told}: {len(empty)} captions are empty, first of {shown(empty[0])}", why="They are not used",
            do="Mend them, if they are to be used",
        )  # fmt: skip
    if silent:
        console.say(
            f"{told}: {len(silent)} of {total} images have no caption and are not used, such as {shown(silent[0])}"
        )


def _located(tree: Tree, part: str, path: str, names: list[str]) -> dict[str, str] | None:
    """Name -> path: where the file says, or all in one folder; None where they are nowhere."""
    sample = names[:: max(1, len(names) // 100)]
    for start in dict.fromkeys((part, path.rpartition("/")[0])):
        if any(tree.has_file(join(start, name)) for name in sample):
            return {name: join(start, name) for name in names}
    flat = [name.rpartition("/")[2] for name in names]
    folder = folder_of(tree, part, flat, wanted="", told=path)
    return None if folder is None else {name: join(folder, last) for name, last in zip(names, flat)}
