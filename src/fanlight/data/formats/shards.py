"""WebDataset shards: tars whose members belong together by name, `0001.jpg` with `0001.cls`, `0001.json` or `0001.txt`.

One tar, a folder of them, folders of splits with them, or a pattern such as shards-{0000..0003}.tar. Nothing is unpacked.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight import console
from fanlight.data import inside
from fanlight.data.formats.listing import SPLIT_OF, Listing, Row, listing_of, split_in
from fanlight.data.formats.tree import Disk, Tree, is_data, is_utf8, join
from fanlight.data.manifest import read_file
from fanlight.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "pbm", "bmp", "gif", "tif", "tiff", "img")
LABELS = ("cls", "json", "txt")
LABEL_KEYS = ("label", "class", "class_name", "cls", "category", "target")
CAPTION_KEYS = ("caption", "captions", "text", "sentences")
SHARDS_MOST = 100_000  # that a pattern may name
TEXT_LABEL_LETTERS = 64
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
    samples = list(_grouped((join(part, name) for name in files), split=split_in(tree.root.name)))
    return _listing(tree.root, samples, shards=1) if _are_samples(samples, len(files)) else None


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
    members = 0
    for name, split in files:
        try:
            archive = inside.opened(str(root / name))
        except (OSError, DataError) as error:
            console.warn(
                f"shard {name} is not used", why=str(getattr(error, "strerror", None) or error).rstrip("."),
                do="Download it again",
            )  # fmt: skip
            continue
        names = [each for each in (archive.names() if archive else ()) if is_data(each.rpartition("/")[2])]
        members += len(names)
        samples += _grouped((f"{name}/{each}" for each in names), split=split)
    return _listing(root, samples, shards=len(files)) if _are_samples(samples, members) else None


def _grouped(paths: Iterator[str], *, split: str) -> Iterator[_Sample]:
    """Files whose names are equal up to the first dot, one sample each."""
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
        if is_utf8(path):
            yield _Sample(path, split, said.get(key, {}))


def _are_samples(samples: list[_Sample], members: int) -> bool:
    """Whether something is said of half of the images, and images are a third of the files."""
    return (
        bool(samples) and 2 * sum(bool(each.said) for each in samples) >= len(samples) and 5 * len(samples) >= members
    )


def _listing(root: Path, samples: list[_Sample], *, shards: int) -> Listing:
    rows = [(sample, *_said(root, sample)) for sample in samples]
    if not any(label for _, label, _ in rows) and _texts_are_labels([texts for _, _, texts in rows]):
        console.say(f"{root}: the .txt of the samples are taken as labels, because they are short and few differ")
        rows = [(sample, texts[0], []) for sample, _, texts in rows if texts]
    has_labels = any(label for _, label, _ in rows)
    used = [
        Row(sample.path, label, sample.split, "" if has_labels or not texts else json.dumps(texts))
        for sample, label, texts in rows
        if (label if has_labels else texts)
    ]
    if not used:
        raise DataError(
            f"{root}: nothing in the shards says a label or a caption; a .json needs the key label or caption"
        )
    if len(used) < len(rows):
        what = "label" if has_labels else "caption"
        console.say(f"{root}: {len(rows) - len(used)} images without a {what} are not used")
    return listing_of(used, root=root, source=f"WebDataset, {shards} shard{'s' if shards != 1 else ''}")


def _said(root: Path, sample: _Sample) -> tuple[str, list[str]]:
    """(label, captions) of a sample; either may be empty."""
    label, texts = "", list[str]()
    for extension, path in sample.said.items():
        try:
            text = read_file(root / path).decode("utf-8-sig", "replace").strip()
        except OSError:
            continue
        if extension == "cls":
            label = text
        elif extension == "txt":
            texts += [text] if text else []
        else:
            found = _object(text)
            label = label or next((str(found[key]) for key in LABEL_KEYS if _is_plain(found.get(key))), "")
            for value in (found[key] for key in CAPTION_KEYS if found.get(key)):
                texts += [str(each) for each in value] if isinstance(value, list) else [str(value)]
    return label, texts if "txt" not in sample.said else list(dict.fromkeys(texts))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
