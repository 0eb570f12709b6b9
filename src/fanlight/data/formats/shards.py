"""WebDataset shards: tars whose members belong together by name, `0001.jpg` with `0001.cls`, `0001.json` or `0001.txt`.

One tar, a folder of them, folders of splits with them, or a pattern such as shards-{0000..0003}.tar. Nothing is unpacked.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight import console
from fanlight.data import inside
from fanlight.data.formats.captions import texts_in
from fanlight.data.formats.listing import CLASS_LETTERS_MOST, SPLIT_OF, Listing, Row, listing_of, split_in
from fanlight.data.formats.tree import Disk, Tree, is_data, is_text, is_utf8, join
from fanlight.data.manifest import read_file
from fanlight.errors import DataError, shown, shown_all

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "pbm", "bmp", "gif", "tif", "tiff", "img")
LABELS = ("cls", "json", "txt")
LABEL_KEYS = ("label", "class", "class_name", "cls", "category", "target")
CAPTION_KEYS = ("caption", "captions", "text", "sentences")
SHARDS_MOST = 100_000  # that a pattern may name
TEXT_LABEL_LETTERS = 64
PROBED = 8  # samples in folders that are looked into for a label
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class _Sample:
    path: str
    split: str
    said: dict[str, str]  # extension -> path of what is said of it


def shards(tree: Tree, part: str) -> Listing | None:
    """The samples of one tar, or of the tars in a folder and in its folders of splits."""
    folders, files = tree.children(part)
    if isinstance(tree, Disk):
        found = [(name, split_in(name)) for name in files if name.lower().endswith(".tar")]
        for folder in folders:
            if folder.lower() in SPLIT_OF:
                inner = tree.children(join(part, folder))[1]
                found += [
                    (f"{folder}/{name}", SPLIT_OF[folder.lower()]) for name in inner if name.lower().endswith(".tar")
                ]
        return of_files(tree.root / part, found) if found else None
    split = split_in(tree.root.name)
    members = [join(part, name) for name in files]
    if folders:  # samples in folders are samples where each has a label beside it; else the folders may be the classes
        inner_members = list(tree.files(part))
        samples = list(_grouped(inner_members, split=split))
        if _say_their_labels(tree.root, samples):
            return _listing(tree.root, samples, members=inner_members, shards=1)
    samples = list(_grouped(members, split=split))
    return _listing(tree.root, samples, members=members, shards=1) if _are_samples(samples, len(members)) else None


def pattern(place: Path) -> Listing | None:
    """The shards that a path with braces names, {0000..0003} or {train,val}; None where it has none."""
    if not _BRACES.search(place.name):
        return None
    names = list(itertools.islice(_expanded(place.name), SHARDS_MOST))
    root = Path(os.path.abspath(place)).parent
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(f"{place} names {len(names)} shards, and {len(missing)} are not there, first {missing[0]}")
    found = of_files(root, [(name, split_in(name)) for name in names])
    if found is None:
        raise DataError(f"{place}: its files hold no images with a .cls, .json or .txt of the same name beside each")
    return found


def of_files(root: Path, files: list[tuple[str, str]]) -> Listing | None:
    """The samples of several shards (name, split). A shard that cannot be read is left out with a warning."""
    samples: list[_Sample] = []
    members: list[str] = []
    lost: list[str] = []
    for name, split in files:
        try:
            archive = inside.opened(str(root / name))
            why = "" if archive else "It is empty, or no tar, as its first bytes show"
        except (OSError, DataError) as error:
            archive, why = None, str(getattr(error, "strerror", None) or error).rstrip(".")
        if archive is None:
            console.warn(f"shard {name} is not used", why=why, do="Download it again")
            lost.append(name)
            continue
        names = [each for each in archive.names() if is_data(each.rpartition("/")[2])]
        here = [f"{name}/{each}" for each in names]
        members += here
        samples += _grouped(here, split=split)
    if not _are_samples(samples, len(members)):
        return None
    return _listing(root, samples, members=members, shards=len(files) - len(lost), lost=lost)


def _grouped(paths: Iterable[str], *, split: str) -> Iterator[_Sample]:
    """Files whose paths are equal up to the first dot of the name, one sample each. Without a split of the shard, the
    folders in it say one."""
    images: dict[str, str] = {}
    said: dict[str, dict[str, str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem, _, extension = name.partition(".")
        key, extension = f"{folder}/{stem}", extension.lower()
        if extension in IMAGES:
            images.setdefault(key, path)
        elif extension in LABELS:
            said.setdefault(key, {})[extension] = path
    for key, path in images.items():
        inner = (SPLIT_OF[piece.lower()] for piece in key.split("/")[:-1] if piece.lower() in SPLIT_OF)
        yield _Sample(path, split or next(inner, ""), said.get(key, {}))


def _say_their_labels(root: Path, samples: list[_Sample]) -> bool:
    """Whether half of the images have a .cls or a .json beside them, and the first of these say something."""
    telling = [each for each in samples if {"cls", "json"} & each.said.keys()]
    return (
        bool(telling)
        and 2 * len(telling) >= len(samples)
        and any(label or texts for label, texts, _ in (_said(root, each) for each in telling[:PROBED]))
    )


def _are_samples(samples: list[_Sample], members: int) -> bool:
    """Whether something is said of half of the images, and images are a third of the files."""
    return (
        bool(samples) and 2 * sum(bool(each.said) for each in samples) >= len(samples) and 5 * len(samples) >= members
    )


def _listing(
    root: Path, samples: list[_Sample], *, members: list[str], shards: int, lost: Sequence[str] = ()
) -> Listing:
    """`shards` were read; those `lost` could not be, and are named wherever the source is."""
    _say_unused(root, samples, members)
    rows = [(sample, *_said(root, sample)) for sample in samples if is_utf8(sample.path)]
    if not any(label for _, label, _, _ in rows) and _texts_are_labels([texts for _, _, texts, _ in rows]):
        console.say(f"{root}: the .txt of the samples are taken as labels, because they are short and few differ")
        rows = [(sample, texts[0], [], "") for sample, _, texts, _ in rows if texts]
    has_labels = any(label for _, label, _, _ in rows)
    used = [
        Row(sample.path, label, sample.split, "" if has_labels or not texts else json.dumps(texts))
        for sample, label, texts, _ in rows
        if (label if has_labels else texts)
    ]
    silent = [(sample, why) for sample, label, texts, why in rows if not (label if has_labels else texts)]
    if not used:
        raise DataError(
            f"{root}: nothing in the shards says a label or a caption, such as {silent[0][0].path} ({silent[0][1]}); a .json "
            "needs the key label or caption"
        )
    if silent:
        what = "label" if has_labels else "caption"
        first, why = silent[0]
        console.say(
            f"{root}: {len(silent)} images without a {what} are not used, such as {first.path} ({why or f'no {what}'})"
        )
    source = f"WebDataset, {shards} shard{'s' if shards != 1 else ''}"
    return listing_of(used, root=root, source=source + (f" without {shown_all(lost)}" if lost else ""))


def _say_unused(root: Path, samples: list[_Sample], members: list[str]) -> None:
    used = {path for each in samples for path in (each.path, *each.said.values())}
    if unused := sorted(set(members) - used):
        console.say(
            f"{root}: {len(unused)} files in the shards are neither a sample's image nor said of one, and are not used, such "
            f"as {unused[0]}"
        )


def _said(root: Path, sample: _Sample) -> tuple[str, list[str], str]:
    """(label, captions) of a sample, either may be empty; and why there is no label where something was to say one."""
    label, texts, why = "", list[str](), "" if sample.said else "no .cls, .json or .txt is beside it"
    for extension, path in sample.said.items():
        name = path.rpartition("/")[2]
        try:
            text = read_file(root / path).decode("utf-8-sig", "replace").strip()
        except OSError as error:
            why = why or f"{name} cannot be read: {error.strerror or error}"
            continue
        if not text:
            why = why or f"{name} is empty"
        elif extension == "cls":
            label = text
        elif extension == "txt":
            texts.append(text)
        else:
            found, wrong = _object(text)
            label = label or next((str(found[key]) for key in LABEL_KEYS if _is_plain(found.get(key))), "")
            try:
                texts += [text for key in CAPTION_KEYS for text in texts_in(found.get(key))]
            except ValueError as error:
                wrong = f"has {error} where a caption should be"
            if not (label or texts):
                why = why or f"{name} {wrong or 'has no label of text or a whole number, and no caption'}"
    if len(label) > CLASS_LETTERS_MOST:
        label, why = "", f"its label has {len(label)} letters, and at most {CLASS_LETTERS_MOST} are a class's name"
    if not is_text(label):
        label, why = "", f"its label {shown(label)!r} holds half of a letter and cannot be kept in a table"
    return label, texts if "txt" not in sample.said else list(dict.fromkeys(texts)), why


def _object(text: str) -> tuple[dict[str, Any], str]:
    """A JSON object, or none and why."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"is no JSON: {error}"
    return (found, "") if isinstance(found, dict) else ({}, "is no JSON object")


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | str) and str(value) != ""


def _texts_are_labels(texts: list[list[str]]) -> bool:
    words = [each[0] for each in texts if len(each) == 1]
    return len(words) == len(texts) and 2 * len(set(words)) <= len(words) and max(map(len, words)) <= TEXT_LABEL_LETTERS


def _expanded(text: str) -> Iterator[str]:
    found = _BRACES.search(text)
    if not found:
        yield text
        return
    span = _RANGE.fullmatch(found[1])
    pieces: Iterator[str] = iter(found[1].split(","))
    if span:
        pieces = (f"{number:0{len(span[1])}d}" for number in range(int(span[1]), int(span[2]) + 1))
    for piece in pieces:
        yield from _expanded(text[: found.start()] + piece + text[found.end() :])
