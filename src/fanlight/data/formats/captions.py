"""COCO captions, and what other formats of images with sentences need, too: JSON that says where it is wrong, and the folder of
the images. They have no classes; several sentences belong to an image."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from fanlight import console
from fanlight.data.formats import places
from fanlight.data.formats.listing import Listing, Misfit, Row, listing_of, split_in
from fanlight.data.formats.tree import Tree, below, is_text, join, refuse_outside
from fanlight.errors import DataError, shown, shown_all

_COCO = re.compile(r"captions?_?(.*)\.json", re.IGNORECASE)
_COCO_OTHERS = re.compile(r"(instances|person_keypoints|stuff|panoptic|image_info).*\.json", re.IGNORECASE)
SAMPLE = 100


def coco(tree: Tree, part: str) -> Listing | None:
    """annotations/captions_train2017.json beside train2017/, and the same of val. Images that are listed and missing are
    quarantined later; those that are not listed are not used, and it is said."""
    folders, files = tree.children(part)
    inner = "annotations" if "annotations" in folders else ""
    names = tree.children(join(part, inner))[1] if inner else files
    rows: list[Row] = []
    read: list[str] = []
    lacking: list[str] = []  # files whose images are not here
    for name in names:
        matched = _COCO.fullmatch(name)
        document = _document(tree, join(part, join(inner, name)), is_sure=bool(inner)) if matched else None
        if matched and document is not None:
            read.append(name)
            found = _coco_rows(tree, part, document, path=join(part, join(inner, name)), wanted=matched[1])
            rows += found or []
            lacking += [name] if found is None else []
    if not rows and inner and read:  # annotations/ is no class, whatever lies beside it
        way = (
            "put the images that they name into a folder beside it" if lacking else
            "give them images, with id and file_name, and annotations, each with an image's id as image_id and a caption"
        )  # fmt: skip
        raise DataError(
            f"{tree.root / part}: {', '.join(read)} in {inner}/ leave no image with a caption; {way}, or remove the folder of "
            "annotations"
        )
    if not rows:
        _refuse_other_annotations(tree, part, folders=folders, names=names if inner and not read else [])
        return None
    rows = _once(rows, told=f"{tree.root / join(part, inner)}: {shown_all(read)}")
    return listing_of(rows, root=tree.root, source=f"COCO captions in {inner or part or tree.root.name}/")


def _refuse_other_annotations(tree: Tree, part: str, *, folders: Collection[str], names: Collection[str]) -> None:
    """COCO's boxes and key points without its captions, beside nothing but folders of splits, which are no classes."""
    others = [name for name in names if _COCO_OTHERS.match(name)]
    if others and all(name == "annotations" or split_in(name) for name in folders):
        raise DataError(
            f"{tree.root / part}: annotations/ holds {shown_all(others)} and no captions_….json: boxes or outlines of objects "
            "are not learned here, captions are; put captions_train2017.json or the like beside them"
        )


def _once(rows: list[Row], *, told: str) -> list[Row]:
    """Each image once, with the captions of all files that name it, each of them once; it is counted. DataError where they
    put an image into several splits."""
    found: dict[str, Row] = {}
    again: dict[str, None] = {}
    for row in rows:
        before = found.setdefault(row.path, row)
        if before is row:
            continue
        if before.split != row.split:
            raise DataError(
                f"{told}: {shown(row.path, letters=200)} is in {before.split or 'no split'} by one of these files and in "
                f"{row.split or 'no split'} by another, and an image stands in one split; move one of the files elsewhere"
            )
        again[row.path] = None
        texts = dict.fromkeys([*json.loads(before.captions), *json.loads(row.captions)])
        found[row.path] = replace(before, captions=json.dumps(list(texts)))
    if again:
        console.say(
            f"{told}: {len(again)} images are in several of these files, such as {next(iter(again))}; each is used once, with "
            "the captions of all"
        )
    return list(found.values())


def _document(tree: Tree, path: str, *, is_sure: bool) -> dict[str, Any] | None:
    """COCO's images and annotations. What is not so is refused in a folder of annotations, and is another file elsewhere."""
    found, told = json_document(tree, path), tree.root / path
    keys = ("images", "annotations")
    if not isinstance(found, dict):
        wrong = f"holds {json_kind(found)}, not an object with the keys images and annotations"
    elif missing := [key for key in keys if key not in found]:
        wrong = f"has no key {' and no key '.join(missing)}"
    elif unlike := [key for key in keys if not isinstance(found[key], list)]:
        raise DataError(
            f"{told}: {unlike[0]} is {json_kind(found[unlike[0]])}, not a list; mend it, or download it again"
        )
    else:
        return found
    if is_sure:
        raise DataError(f"{told} {wrong}, as COCO captions have; mend it, or download it again")
    return None


def json_document(tree: Tree, path: str) -> Any:
    """What a JSON file holds. DataError where it cannot be read, a Misfit where it is no JSON."""
    told = tree.root / path
    try:
        return json.loads(read_file(tree, path))
    except (ValueError, RecursionError) as error:
        raise Misfit(f"{told} is damaged ({error}); mend it, or download it again") from None


def json_kind(value: Any) -> str:
    """A JSON value, in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        type(None): "null",
        int: "a number",
    }
    return names.get(type(value), "a number that is not whole")


def _coco_images(document: dict[str, Any], *, told: str, root: Path) -> dict[str, list[str]]:
    """id -> file names, of which there should be one; the id 7 is the id "7". DataError that names the entry; ids that are
    there twice are counted."""
    found: dict[str, list[str]] = {}
    repeated: list[str] = []
    for number, each in enumerate(document["images"], 1):
        place = f"{told}: entry {number} of images"
        name = json_field(each, "file_name", (str,), place=place)
        refuse_outside(name, told=place, root=root)
        if not name.strip():
            raise DataError(f"{place}: its file_name is empty; mend it, or download it again")
        if not is_text(name):
            raise DataError(
                f"{place}: its file_name is {shown(name)!r}, which holds half of a letter; no file is called so"
            )
        same = found.setdefault(_id(each, "id", place=place), [])
        if name in same:
            repeated.append(f"entry {number}, of image {shown(str(each['id']))}")
        else:
            same.append(name)
    total = len(document["images"])
    if repeated:
        console.warn(
            f"{told}: {len(repeated)} of {total} entries of images are there before, first {repeated[0]}",
            why="Each image is used once, with all its captions", do="Remove the repeated entries",
        )  # fmt: skip
    if several := {image: names for image, names in found.items() if len(names) > 1}:
        image, names = next(iter(several.items()))
        console.warn(
            f"{told}: {sum(map(len, several.values()))} of {total} images share their id with another and are not used, first "
            f"{shown_all(names)} of id {shown(image)}",
            why="Which of them a caption means cannot be known", do="Give each image an id of its own",
        )  # fmt: skip
    return found


def _coco_captions(document: dict[str, Any], images: Collection[str], *, told: str) -> dict[str, list[str]]:
    """id -> sentences. DataError that names the entry; what names none of the `images`, or says nothing, is counted."""
    sentences: dict[str, list[str]] = {}
    unknown: list[str] = []
    silent: list[str] = []
    empty: list[str] = []
    for number, each in enumerate(document["annotations"], 1):
        place = f"{told}: entry {number} of annotations"
        image = _id(each, "image_id", place=place)
        text = json_field(each, "caption", (object,), place=place)
        if image not in images:
            unknown.append(f"entry {number}, of image {shown(image)}")
        elif not isinstance(text, str):
            silent.append(f"entry {number}, whose caption is {json_kind(text)}")
        elif text.strip():
            sentences.setdefault(image, []).append(" ".join(text.split()))
        else:
            empty.append(f"entry {number}, whose caption is empty")
    for wrong, why in (
        (unknown, "Their images are not in it"), (silent, "Their captions are no text"), (empty, "Their captions are empty"),
    ):  # fmt: skip
        if wrong:
            console.warn(
                f"{told}: {len(wrong)} of {len(document['annotations'])} annotations are not used, first {wrong[0]}",
                why=why, do="Mend it, or download it again",
            )  # fmt: skip
    return sentences


def _id(entry: Any, key: str, *, place: str) -> str:
    """7, "7" and 7.0, as tables write it where an entry is empty, are one."""
    if isinstance(entry, dict) and isinstance(value := entry.get(key), float) and value.is_integer():
        return str(int(value))
    return str(json_field(entry, key, (int, str), place=place))


def texts_in(value: Any) -> list[str]:
    """The captions in a JSON value: a text, or a list of texts. null and blanks are none; of an object with `raw`, as
    Karpathy's sentences are kept in tables, that is the caption. ValueError that says what else stands there."""
    found = []
    for each in value if isinstance(value, list) else [value]:
        text = each["raw"] if isinstance(each, dict) and "raw" in each else each
        if isinstance(text, bool) or not isinstance(text, str | int | float | None):
            raise ValueError(json_kind(text))
        if text is not None and (text := str(text).strip()):
            found.append(text)
    return found


def json_field(entry: Any, key: str, kinds: tuple[type, ...], *, place: str) -> Any:
    """entry[key], or a DataError that names the `place` where it is not, or is of no kind of `kinds`."""
    if not isinstance(entry, dict):
        raise DataError(f"{place} is {json_kind(entry)}, not an object; mend it, or download it again")
    if key not in entry:
        raise DataError(f"{place} has no {key}; mend it, or download it again")
    if not isinstance(entry[key], kinds) or (isinstance(entry[key], bool) and object not in kinds):
        raise DataError(f"{place}: its {key} is {json_kind(entry[key])}; mend it, or download it again")
    return entry[key]


def _coco_rows(tree: Tree, part: str, document: dict[str, Any], *, path: str, wanted: str) -> list[Row] | None:
    """None where its images are not here. What is not used is said."""
    told = path.rpartition("/")[2]
    images = _coco_images(document, told=str(tree.root / path), root=tree.root)
    sentences = _coco_captions(document, images, told=str(tree.root / path))
    listed = [name for names in images.values() for name in names]
    if not listed:
        console.warn(f"{told} is not used", why="Its list of images is empty", do="Mend it, or download it again")
        return []
    folder = folder_of(tree, part, listed, wanted=wanted, told=path)
    if folder is None:
        console.warn(
            f"{told} is not used", why=f"None of its images is in {wanted or 'a folder'} beside it",
            do=f"Put the folder {wanted or 'of images'} beside it",
        )  # fmt: skip
        return None
    there = below(tree, folder).files("") if folder else ()
    unlisted = sorted({path.rpartition("/")[2] for path in there} - set(listed))
    if unlisted:
        console.say(
            f"{tree.root / folder}: {len(unlisted)} images are not in {told} and not used, such as {unlisted[0]}"
        )
    said: dict[str, list[str]] = {}
    ids: dict[str, list[str]] = {}
    for image, found in images.items():
        if len(found) == 1:
            said.setdefault(found[0], []).extend(sentences.get(image, []))
            ids.setdefault(found[0], []).append(image)
    if several := {name: each for name, each in ids.items() if len(each) > 1}:
        name, each = next(iter(several.items()))
        console.say(
            f"{told}: {len(several)} images have several ids, such as {shown(name)} of {shown_all(each)}; each is used once, "
            "with the captions of all"
        )
    if silent := [name for name, texts in said.items() if not texts]:
        console.say(f"{told}: {len(silent)} images have no caption and are not used, such as {shown(silent[0])}")
    split = split_in(wanted)
    return [Row(join(folder, name), split=split, captions=json.dumps(texts)) for name, texts in said.items() if texts]


def folder_of(tree: Tree, part: str, names: list[str], *, wanted: str, told: str) -> str | None:
    """Where most of the images are: the folder (or zip) of that name, images/, another folder, or beside the list. Folders of
    another split than that, or than `told`, the file that names the images, are none. DataError where two have the same."""
    folders, files = tree.children(part)
    zips = [f"{name}/{PurePosixPath(name).stem}" for name in files if name.lower() == f"{wanted}.zip".lower()]
    nested = [f"{name}/{inner}" for name in folders for inner in tree.children(join(part, name))[0]]
    split = split_in(wanted or told.rpartition("/")[2])
    among = [join(part, name) for name in (*folders, *zips, *nested)] + [part]
    among = [each for each in among if not (wanted or split) or split_in(each.rpartition("/")[2]) in ("", split)]
    sample = names[:: max(1, len(names) // SAMPLE)]
    found = {each: {name for name in sample if _is_there(tree, join(each, name))} for each in among}

    def rank(place: str) -> tuple[bool, int, bool]:
        name = place.rpartition("/")[2]
        return (bool(split) and split_in(name) != split, -len(found[place]), name.lower() != wanted.lower())

    ranked = sorted(filter(found.get, among), key=rank)
    if ranked and not (wanted and ranked[0].rpartition("/")[2].lower() == wanted.lower()):
        places.refuse_tie(
            {each: found[each] for each in ranked if rank(each)[0] == rank(ranked[0])[0]}, told=str(tree.root / told)
        )
    return ranked[0] if ranked else None


def _is_there(tree: Tree, path: str) -> bool:
    if tree.has_file(path):
        return True
    if ".zip/" not in path:
        return False
    from fanlight.data.manifest import file_state

    return file_state(tree.root / path) != (0, 0)


def read_file(tree: Tree, path: str) -> bytes:
    """DataError where it cannot be read."""
    try:
        return tree.read(path)
    except OSError as error:
        raise DataError(f"cannot read {tree.root / path}: {error.strerror or error}") from None
