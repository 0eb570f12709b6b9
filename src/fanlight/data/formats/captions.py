"""Images with sentences: COCO captions, and Flickr8k's lists. They have no classes; several sentences belong to an image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from fanlight import console
from fanlight.data.formats import places
from fanlight.data.formats.listing import Listing, Misfit, Row, listing_of, split_in
from fanlight.data.formats.tree import Disk, Tree, below, is_text, join, refuse_outside, say_unlisted
from fanlight.errors import DataError, shown, shown_all

_COCO = re.compile(r"captions?_?(.*)\.json", re.IGNORECASE)
_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")  # 1000268201_693b08cb0e.jpg#0	A child in a pink dress …
_HEADER = re.compile(r"\s*image(_?name)?\s*[,|\t].*(caption|comment)\s*", re.IGNORECASE)
_SPLIT_LIST = re.compile(r"[._](train|dev|val|test)_?images\.txt", re.IGNORECASE)
HEADER, TOKEN = "'image,caption'", "'name.jpg#0', a tab and the caption"  # in words
SAMPLE = 100


def coco(tree: Tree, part: str) -> Listing | None:
    """annotations/captions_train2017.json beside train2017/, and the same of val. Images that are listed and missing are
    quarantined later; those that are not listed are not used, and it is said."""
    folders, files = tree.children(part)
    inner = "annotations" if "annotations" in folders else ""
    names = tree.children(join(part, inner))[1] if inner else files
    rows: list[Row] = []
    read: list[str] = []
    for name in names:
        matched = _COCO.fullmatch(name)
        document = _document(tree, join(part, join(inner, name)), is_sure=bool(inner)) if matched else None
        if matched and document is not None:
            read.append(name)
            rows += _coco_rows(tree, part, document, path=join(part, join(inner, name)), wanted=matched[1])
    if not rows and inner and read:  # annotations/ is no class, whatever lies beside it
        raise DataError(
            f"{tree.root / part}: {', '.join(read)} in {inner}/ leave no image with a caption; put the images that they name "
            "into a folder beside it, or remove the folder of annotations"
        )
    if not rows:
        return None
    return listing_of(rows, root=tree.root, source=f"COCO captions in {inner or part or tree.root.name}/")


def _document(tree: Tree, path: str, *, is_sure: bool) -> dict[str, Any] | None:
    """COCO's images and annotations. What is not so is refused in a folder of annotations, and is another file elsewhere."""
    found, told = json_document(tree, path), tree.root / path
    keys = ("images", "annotations")
    if not isinstance(found, dict):
        wrong = f"holds {json_kind(found)}, not an object with the keys images and annotations"
    elif missing := [key for key in keys if key not in found]:
        wrong = f"has no key {' and no key '.join(missing)}"
    elif unlike := [key for key in keys if not isinstance(found[key], list)]:
        raise DataError(f"{told}: {unlike[0]} is {json_kind(found[unlike[0]])}, not a list; download it again")
    else:
        return found
    if is_sure:
        raise DataError(f"{told} {wrong}, as COCO captions have; download it again")
    return None


def json_document(tree: Tree, path: str) -> Any:
    """What a JSON file holds. DataError where it cannot be read, a Misfit where it is no JSON."""
    told = tree.root / path
    try:
        return json.loads(_read(tree, path))
    except (ValueError, RecursionError) as error:
        raise Misfit(f"{told} is damaged ({error}); download it again") from None


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
        if not is_text(name):
            raise DataError(
                f"{place}: its file_name is {shown(name)!r}, which holds half of a letter; no file is called so"
            )
        same = found.setdefault(str(json_field(each, "id", (int, str), place=place)), [])
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
        image = str(json_field(each, "image_id", (int, str), place=place))
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
                why=why, do="Download it again",
            )  # fmt: skip
    return sentences


def json_field(entry: Any, key: str, kinds: tuple[type, ...], *, place: str) -> Any:
    """entry[key], or a DataError that names the `place` where it is not, or is of no kind of `kinds`."""
    if not isinstance(entry, dict):
        raise DataError(f"{place} is {json_kind(entry)}, not an object; download it again")
    if key not in entry:
        raise DataError(f"{place} has no {key}; download it again")
    if not isinstance(entry[key], kinds) or (isinstance(entry[key], bool) and object not in kinds):
        raise DataError(f"{place}: its {key} is {json_kind(entry[key])}; download it again")
    return entry[key]


def _coco_rows(tree: Tree, part: str, document: dict[str, Any], *, path: str, wanted: str) -> list[Row]:
    told = path.rpartition("/")[2]
    images = _coco_images(document, told=str(tree.root / path), root=tree.root)
    sentences = _coco_captions(document, images, told=str(tree.root / path))
    listed = [name for names in images.values() for name in names]
    folder = folder_of(tree, part, listed, wanted=wanted, told=path)
    if folder is None:
        console.warn(
            f"{told} is not used", why=f"None of its images is in {wanted or 'a folder'} beside it",
            do=f"Put the folder {wanted or 'of images'} beside it",
        )  # fmt: skip
        return []
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


def flickr(tree: Tree, part: str) -> Listing | None:
    """captions.txt (image,caption) or Flickr8k.token.txt beside a folder of images; Flickr_8k.trainImages.txt and the like
    are the splits."""
    texts = _texts(tree, part)
    for path in _likely(texts):
        found = sentences(_read(tree, path))
        if found is not None and (listing := listed(tree, part, path, found)) is not None:
            return _with_lists(tree, listing, texts)
    return None


def _texts(tree: Tree, part: str) -> list[str]:
    folders, files = tree.children(part)
    texts = [join(part, name) for name in files if name.lower().endswith((".txt", ".csv", ".token"))]
    for folder in folders:
        if folder.lower().endswith("text"):  # Flickr8k_text
            texts += [join(part, join(folder, name)) for name in tree.children(join(part, folder))[1]]
    return texts


def _likely(texts: Iterable[str]) -> list[str]:
    """Those that are called as a file of captions, the likeliest first."""
    found = [path for path in texts if re.search(r"caption|token|results", path.rpartition("/")[2], re.IGNORECASE)]
    return sorted(found, key=lambda path: ("lemma" in path.lower(), path))


def unread(tree: Tree, part: str) -> str:
    """Why the file that is called as one of captions could not be used, and the way out; empty where there is none."""
    likely = _likely(_texts(tree, part))
    if not likely:
        return ""
    told, data = tree.root / likely[0], _read(tree, likely[0])
    found = sentences(data)
    if found is not None and found.of:
        return (
            f"{told}: none of the {len(found.of)} images that it names is here, such as {shown(next(iter(found.of)))}; put them "
            "into a folder beside it, under these names"
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        return f"{told}: byte {error.start} is no UTF-8; save the file as UTF-8"
    head = lines[0].strip()
    if not any(map(str.strip, lines)):
        return f"{told} is empty; write one line for each caption below the line {HEADER}"
    if _HEADER.fullmatch(head):
        return f"{told}: its first line is {shown(head)!r}, and no line below it has an image and a caption"
    return (
        f"{told}: its first line is {shown(head)!r}, by which it is no file of captions; make it {HEADER}, with one line for "
        f"each caption below it, or write every line as {TOKEN}"
    )


def listed(tree: Tree, part: str, path: str, said: Sentences) -> Listing | None:
    """The listing of a file of sentences; None where its images are nowhere. What of it is not used is counted."""
    found = said.of
    folder = folder_of(tree, part, list(found), wanted="", told=path)
    if folder is None:
        return None
    if not isinstance(tree, Disk):
        for number, name in enumerate(found, 1):
            refuse_outside(name, told=f"{tree.root / path}, image {number}", root=tree.root)
    for wrong, what in ((said.unread, "have no mark between image and caption"), (said.silent, "have no caption")):
        if wrong:
            console.warn(
                f"{tree.root / path}: {len(wrong)} of its rows are not used, first {shown(wrong[0])!r}", why=f"They {what}",
                do="Mend them, if their images or captions are to be used",
            )  # fmt: skip
    rows = [Row(join(folder, name), captions=json.dumps(texts)) for name, texts in found.items() if texts]
    if not rows:
        raise DataError(f"{tree.root / path}: none of its {len(found)} images has a caption")
    say_unlisted(tree, [row.path for row in rows], told=str(tree.root / path))
    listing = listing_of(rows, root=tree.root, source=f"captions in {path.rpartition('/')[2]}")
    image_of = {join(folder, name): name for name in found}
    others = [said.others[image_of[path]] for path in listing.paths]
    names = dict.fromkeys(name for each in others for name in each)
    return replace(listing, columns={name: [each.get(name, "") for each in others] for name in names})


@dataclass(frozen=True)
class Sentences:
    """What a file of captions says, and which of its rows say nothing."""

    of: dict[str, list[str]] = field(default_factory=dict)  # image -> its captions; none where all are empty
    unread: list[str] = field(default_factory=list)  # rows without a mark between image and caption
    silent: list[str] = field(default_factory=list)  # images of rows without a caption
    others: dict[str, dict[str, str]] = field(default_factory=dict)  # image -> other columns, as its first row has them

    @property
    def columns(self) -> set[str]:
        return {name for each in self.others.values() for name in each}

    def add(self, image: str, text: str, others: dict[str, str] | None = None) -> None:
        self.of.setdefault(image, [])
        self.others.setdefault(image, others or {})
        if text:
            self.of[image].append(text)
        else:
            self.silent.append(image)


def sentences(data: bytes) -> Sentences | None:
    """Of a file in one of Flickr's ways; None where it is another file."""
    try:
        text = data.decode("utf-8-sig")
    except ValueError:
        return None
    head = text.partition("\n")[0]
    found = Sentences()
    if _TOKEN.fullmatch(head.strip()):
        for line in filter(str.strip, text.splitlines()):
            if matched := _TOKEN.fullmatch(line.strip(" ")):
                found.add(matched[1], matched[2].strip())
            else:
                found.unread.append(line)
        return found
    if not _HEADER.fullmatch(head) or len(head) > 100:
        return None
    mark = next(mark for mark in "|\t," if mark in head)
    names = [name.strip().lower() for name in head.split(mark)[:-1]]
    columns = len(names)
    try:
        for row in list(csv.reader(io.StringIO(text, newline=""), delimiter=mark))[1:]:
            if len(row) > columns and row[0].strip():  # commas in a sentence that is not quoted make more fields
                others = dict(zip(names[1:], map(str.strip, row[1:columns])))
                found.add(row[0].strip(), mark.join(row[columns:]).strip(), others)
            elif any(map(str.strip, row)):
                found.unread.append(mark.join(row))
    except csv.Error:
        return None
    return found if found.of else None


def listed_sentences(text: str) -> list[str]:
    """The captions in one field of a table: one sentence, or a JSON list of them."""
    try:
        found = json.loads(text) if text.startswith("[") else text
    except ValueError:
        found = text
    return [str(each) for each in found] if isinstance(found, list) else [str(found)] if found else []


def _with_lists(tree: Tree, listing: Listing, texts: Iterable[str]) -> Listing:
    """With the splits of the lists of names that Flickr8k has."""
    split_of: dict[str, str] = {}
    for path in texts:
        if matched := _SPLIT_LIST.search(path):
            split_of |= dict.fromkeys(_read(tree, path).decode("utf-8", "replace").split(), split_in(matched[1]))
    if not split_of:
        return listing
    rows = [
        Row(path, split=split_of.get(path.rpartition("/")[2], ""), captions=captions)
        for path, captions in zip(listing.paths, listing.captions)
    ]
    used = [row for row in rows if row.split]
    if len(used) < len(rows):
        console.say(f"{listing.root}: {len(rows) - len(used)} images are in none of the lists of splits and not used")
    return listing_of(used, root=listing.root, source=listing.source)


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


def _read(tree: Tree, path: str) -> bytes:
    try:
        return tree.read(path)
    except OSError as error:
        raise DataError(f"cannot read {tree.root / path}: {error.strerror or error}") from None
