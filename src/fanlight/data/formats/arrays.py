"""Listings of CIFAR-10, CIFAR-100 (binary and Python versions) and MNIST's IDX files, as downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from fanlight import console
from fanlight.data import arrays, inside, plain_pickle, unpacked
from fanlight.data.arrays import Samples
from fanlight.data.formats.listing import Listing, Row, listing_of, split_in
from fanlight.data.formats.tree import Tree, join
from fanlight.data.inside import HEAD_BYTES, Part
from fanlight.errors import DataError

_CIFAR = re.compile(r"(data_batch_\d+|test_batch|train|test)(\.bin)?")
_IDX = re.compile(r".*idx[1-4][-_.]?u?byte.*|.*-idx[1-4].*", re.IGNORECASE)
BATCHES_10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
BATCHES_100 = ("train", "test")
_IDX_NAME = re.compile(r".*idx[1-4][-_.]?u?byte(\.gz)?", re.IGNORECASE)  # and nothing after, as .md5
NAMES_10 = ("batches.meta.txt", "batches.meta")
NAMES_100 = ("fine_label_names.txt", "meta")


def cifar(tree: Tree, part: str) -> Listing | None:
    """data_batch_1 … data_batch_5 and test_batch, or CIFAR-100's train and test; .bin or pickles. CIFAR-100's labels are
    the fine ones."""
    _, files = tree.children(part)
    batches = [name for name in files if _CIFAR.fullmatch(name)]
    binary = [name for name in batches if name.endswith(".bin")]
    pickles = [name for name in batches if not name.endswith(".bin")]
    if not (binary or ({"meta", "batches.meta"} & set(files) and pickles) or any("batch" in name for name in pickles)):
        return None
    names = _class_names(tree, part, files)
    rows: list[Row] = []
    kinds = set()
    for name in binary or pickles:
        path = join(part, name)
        samples, labels, of = _binary(tree, path) if binary else _pickled(tree, path)
        kinds.add(of)
        split = "test" if name.startswith("test") else "train"
        for number, label in enumerate(labels):
            if names and label >= len(names):
                raise DataError(f"{tree.root / path}: sample {number} has label {label} of {len(names)} classes")
            rows.append(Row(f"{path}/{samples.name(number)}", names[label] if names else str(label), split))
    _warn_of_missing(binary or pickles, tree.root / part)
    version = "binary" if binary else "Python"
    return listing_of(rows, root=tree.root, source=f"CIFAR-{'/'.join(sorted(kinds))}, {version} version")


def _warn_of_missing(names: list[str], folder: Path) -> None:
    """CIFAR-10 is five batches and a test, CIFAR-100 a train and a test."""
    suffix = ".bin" if names[0].endswith(".bin") else ""
    whole = BATCHES_10 if any("batch" in name for name in names) else BATCHES_100
    if missing := [name + suffix for name in whole if name + suffix not in names]:
        console.warn(
            f"{folder} lacks {', '.join(missing)}", why="The set is not whole without, and its scores are not comparable",
            do="Download it again, unless this part is what you want",
        )  # fmt: skip


def _binary(tree: Tree, path: str) -> tuple[Samples, list[int], str]:
    """Samples, their labels, and how many classes the set is named after."""
    samples = _samples(tree, path)
    if samples is None:
        raise DataError(
            f"{tree.root / path} is not a whole number of CIFAR's records of 3073 or 3074 bytes; download it again"
        )
    data = tree.read(path)
    return samples, list(data[samples.first - 1 :: samples.stride]), "100" if samples.stride == 3074 else "10"


def _pickled(tree: Tree, path: str) -> tuple[Samples, list[int], str]:
    samples, held = arrays.pickled(_part(tree, path), told=str(tree.root / path))
    labels = next(
        (found for key in ("fine_labels", "labels") if (found := arrays.numbers(held.get(key))) is not None), None
    )
    if samples is None or labels is None or len(labels) != samples.count or min(labels, default=0) < 0:
        raise DataError(f"{tree.root / path} has no data and labels for each of them, as CIFAR's batches have")
    return samples, labels, "100" if "fine_labels" in held else "10"


def _class_names(tree: Tree, part: str, files: list[str]) -> list[str]:
    for name in (*NAMES_10, *NAMES_100):
        if name not in files:
            continue
        path = join(part, name)
        if name.endswith(".txt"):
            text = tree.read(path).decode("utf-8", "replace")
            return [line.strip() for line in text.splitlines() if line.strip()]
        told = str(tree.root / path)
        held = arrays.held(_part(tree, path), told=told)
        found = held.get("fine_label_names") or held.get("label_names")
        if isinstance(found, list):
            return [arrays.text(each, told=told) for each in found]
    return []


def idx(tree: Tree, part: str) -> Listing | None:
    """MNIST, Fashion-MNIST, EMNIST: train-images-idx3-ubyte and its labels, t10k- of the test, also .gz."""
    _, files = tree.children(part)
    named = [name for name in files if _IDX.fullmatch(name)]
    heads = {name: _head(tree, join(part, name)) for name in named}
    ranks = {name: len(arrays.idx_shape(head) or ()) for name, head in heads.items()}
    labels_of = {_stem(name): name for name, rank in ranks.items() if rank == 1}
    images = {_stem(name): name for name, rank in ranks.items() if rank > 1}
    wrong = [name for name in named if not ranks[name] and _IDX_NAME.fullmatch(name)]
    if wrong:
        raise DataError(f"{tree.root / join(part, wrong[0])} {_why_no_idx(heads[wrong[0]])}; download it again")
    if not images:
        return None
    if missing := sorted(images.keys() - labels_of.keys()):
        raise DataError(f"{tree.root / part}: {images[missing[0]]} has no file of labels beside it; download that, too")
    if alone := sorted(labels_of.keys() - images.keys()):
        console.warn(
            f"{tree.root / part}: {labels_of[alone[0]]} is not used", why="It has no file of images beside it",
            do="Download that, too, unless this part is what you want",
        )  # fmt: skip
    by_split: dict[str, str] = {}
    rows: list[Row] = []
    for stem, name in images.items():
        split = "test" if "t10k" in stem else split_in(stem)
        if split in by_split:
            raise DataError(
                f"{tree.root / part} has several sets, {by_split[split]} and {name}; put the files of one into a folder"
            )
        by_split[split] = name
        path = join(part, name)
        samples = _samples(tree, path)
        told = str(tree.root / join(part, labels_of[stem]))
        labels = arrays.idx_labels(_whole(tree, join(part, labels_of[stem])), told=told)
        if samples is None or len(labels) != samples.count:
            raise DataError(f"{tree.root / path} and {told} are not of the same number of samples; download them again")
        if not samples.count:
            raise DataError(f"{tree.root / path} has no images; download it again, or leave it and its labels out")
        rows += [Row(f"{path}/{samples.name(number)}", str(label), split) for number, label in enumerate(labels)]
    return listing_of(rows, root=tree.root, source="MNIST's IDX files")


def _why_no_idx(head: bytes) -> str:
    if not head:
        return "is empty"
    return f"is no IDX file of bytes: it begins with {head[:4].hex(' ')}, and images with 00 00 08 03, labels with 00 00 08 01"


def is_one(place: Path) -> bool:
    """Whether a file on the disk is one of these sets' files, which says nothing alone."""
    try:
        part = Part.whole(str(place))
        head = unpacked.peek(part.read(0, 4096))
        name = place.name.lower()
        is_binary = bool(_CIFAR.fullmatch(name)) and name.endswith(".bin")
        return arrays.idx_shape(head) is not None or is_binary or plain_pickle.is_pickle(head)
    except OSError:
        return False


def _stem(name: str) -> str:
    """What images and labels of one set have in common."""
    return re.sub(r"images?|labels?|idx\d", "", name.lower()).removesuffix(".gz")


def _samples(tree: Tree, path: str) -> Samples | None:
    found = inside.opened(str(tree.root / path))
    return found if isinstance(found, Samples) else None


def _part(tree: Tree, path: str) -> Part:
    part = inside.part(str(tree.root / path))
    if part.size == 0:
        raise DataError(f"{tree.root / path} is empty; download it again")
    return part


def _head(tree: Tree, path: str) -> bytes:
    try:
        return unpacked.peek(inside.part(str(tree.root / path)).read(0, 4096), HEAD_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {tree.root / path}: {error.strerror or error}") from None


def _whole(tree: Tree, path: str) -> bytes:
    part = inside.part(str(tree.root / path))
    return (
        unpacked.whole(part, told=str(tree.root / path)) if unpacked.is_compressed(part.read(0, 8)) else part
    ).read()
