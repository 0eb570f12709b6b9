"""What every format is turned into: files, and what is said of them."""

from dataclasses import dataclass, field
from pathlib import Path

from fanlight.errors import DataError

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pfm", ".avif", ".jp2",
)  # fmt: skip  # of files that are images by their names, where no bytes are read
CLASS_LETTERS_MOST = 200  # more is a mistake, not the name of a class
WAYS = "Fanlight reads a folder with one folder of images per class, or a CSV file with the columns path and label"


class Misfit(DataError):
    """A file that is called as a format's are, and is damaged or none of it; beside class folders it is a stray."""


@dataclass(frozen=True)
class Listing:
    """Files and what is said of them, in one order. Nothing has been opened."""

    root: Path  # absolute; an archive, or a folder in one, where the files are in it
    source: str  # where the labels come from, in words
    paths: list[str]  # relative to the root, with forward slashes
    labels: list[str]  # empty where the data has captions only
    splits: list[str]  # train, val, test, or empty where the data gives none
    groups: list[str]  # empty where the data gives none
    weights: list[str] = field(default_factory=list)  # as a list file says them; no element where it has no such column
    captions: list[str] = field(default_factory=list)  # JSON lists of sentences; no element where the data gives none
    copies: list[str] = field(
        default_factory=list
    )  # as an earlier audit found; no element where the data is no manifest
    films: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(
        default_factory=dict
    )  # by name in lower case: all that a list, a table or a manifest says of the files; empty for other sources


@dataclass(frozen=True)
class Row:
    """One file on its way into a Listing."""

    path: str
    label: str = ""
    split: str = ""
    captions: str = ""


def listing_of(rows: list[Row], *, root: Path, source: str) -> Listing:
    """A Listing of rows that have no groups and no weights, in the order of their paths."""
    rows = sorted(rows, key=lambda row: row.path)
    return Listing(
        root=root, source=source, paths=[row.path for row in rows], labels=[row.label for row in rows],
        splits=[row.split for row in rows], groups=[""] * len(rows),
        captions=[row.captions for row in rows] if any(row.captions for row in rows) else [],
    )  # fmt: skip


def split_in(name: str) -> str:
    """The split that a file or folder name has a word of, such as train of `imagenet-train-0001.tar`; else empty."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "")
