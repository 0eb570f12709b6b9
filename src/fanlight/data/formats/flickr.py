"""Flickr8k's and Flickr30k's ways: a file of sentences beside a folder of images, with or without lists of splits."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from fanlight import console
from fanlight.data.formats.captions import folder_of, read_file, texts_in
from fanlight.data.formats.listing import IMAGE_ENDINGS, Listing, Row, listing_of, split_in
from fanlight.data.formats.tree import Disk, Tree, join, refuse_outside, say_unlisted
from fanlight.errors import DataError, shown

_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")  # 1000268201_693b08cb0e.jpg#0	A child in a pink dress …
_HEADER = re.compile(r"\s*image(_?name)?\s*[,|\t].*(caption|comment)\s*", re.IGNORECASE)
_SPLIT_LIST = re.compile(r"[._](train|dev|val|test)_?images\.txt", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
LINES_MOST = 20  # of one caption
HEADER, TOKEN = "'image,caption'", "'name.jpg#0', a tab and the caption"  # in words


def flickr(tree: Tree, part: str) -> Listing | None:
    """captions.txt (image,caption) or Flickr8k.token.txt beside a folder of images; Flickr_8k.trainImages.txt and the like
    are the splits."""
    texts = _texts(tree, part)
    for path in _likely(texts):
        found = sentences(read_file(tree, path))
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
    told, data = tree.root / likely[0], read_file(tree, likely[0])
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
        return f"{told}: its first line is '{shown(head)}', and no line below it has an image and a caption"
    return (
        f"{told}: its first line is '{shown(head)}', by which it is no file of captions; make it {HEADER}, with one line for "
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
    if said.unclosed:
        console.warn(
            f"{tree.root / path}: {len(said.unclosed)} of its rows open a quotation mark and do not close it, first "
            f"{shown(said.unclosed[0])!r}", why="Each is read to the end of its line", do="Close the mark, or take it away",
        )  # fmt: skip
    rows = [Row(join(folder, name), captions=json.dumps(texts)) for name, texts in found.items() if texts]
    if not rows:
        raise DataError(
            f"{tree.root / path}: none of its {len(found)} images has a caption; write them behind their names"
        )
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
    unclosed: list[str] = field(default_factory=list)  # rows with a quotation mark that nothing closes
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
    head, *lines = _LINE_END.split(text)
    found = Sentences()
    if _TOKEN.fullmatch(head.strip()):
        for line in filter(str.strip, [head, *lines]):
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
    for row, open_line in _rows(lines, mark):
        if len(row) > columns and row[0].strip():  # commas in a sentence that is not quoted make more fields
            others = dict(zip(names[1:], map(str.strip, row[1:columns])))
            found.add(row[0].strip(), " ".join(mark.join(row[columns:]).split()), others)
        elif any(map(str.strip, row)):
            found.unread.append(mark.join(row))
        if open_line:
            found.unclosed.append(open_line)
    return found if found.of else None


def _rows(lines: list[str], mark: str) -> Iterator[tuple[list[str], str]]:
    """The fields of each row, and its line where that opens a quotation mark for nothing. A mark may take in lines that
    follow, but none that is a row of its own: one letter too many would make a story of half a data set."""
    at = 0
    while at < len(lines):
        end = at + 1
        fields, is_open = _fields(lines[at], mark)
        while is_open and end < min(at + LINES_MOST, len(lines)) and not _is_row(lines[end], mark):
            end += 1
            more, is_open = _fields("\n".join(lines[at:end]), mark)
            fields = fields if is_open else more
        yield fields, lines[at] if is_open else ""
        at = at + 1 if is_open else end


def _fields(text: str, mark: str) -> tuple[list[str], bool]:
    """Of one row, and whether a quotation mark in it is left open, which then counts for nothing."""
    if '"' not in text:
        return text.split(mark), False
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)), False
    except csv.Error as error:
        is_open = "unexpected end" in str(error)
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=mark)), is_open
    except csv.Error:  # longer than such a field may be
        return text.split(mark), False


def _is_row(line: str, mark: str) -> bool:
    return line.partition(mark)[0].strip(' "').lower().endswith(IMAGE_ENDINGS)


def listed_sentences(text: str) -> list[str]:
    """The captions in one field of a table: one sentence, or JSON as `texts_in` has it, whose ValueError it may raise."""
    try:
        found = json.loads(text) if text.startswith(("[", "{")) else text
    except (ValueError, RecursionError):
        found = text
    return texts_in(found)


def _with_lists(tree: Tree, listing: Listing, texts: Iterable[str]) -> Listing:
    """With the splits of the lists of names that Flickr8k has. DataError where they name none of the images, or one twice."""
    split_of: dict[str, str] = {}
    for path in texts:
        if matched := _SPLIT_LIST.search(path):
            split = split_in(matched[1])
            for name in _names_in(tree, path):
                if split_of.setdefault(name, split) != split:
                    raise DataError(
                        f"{tree.root / path}: {shown(name)} is in the list of {split_of[name]}, too, and an image stands in one "
                        "split; take it out of one of them"
                    )
    if not split_of:
        return listing
    rows = [
        Row(path, split=split_of.get(path.rpartition("/")[2], ""), captions=captions)
        for path, captions in zip(listing.paths, listing.captions)
    ]
    used = [row for row in rows if row.split]
    if not used:
        raise DataError(
            f"{listing.root}: none of the {len(rows)} images with captions, such as {shown(rows[0].path)}, is in a list of a "
            f"split; these name {shown(next(iter(split_of)))} and the like: mend them, or take them away"
        )
    if len(used) < len(rows):
        console.say(f"{listing.root}: {len(rows) - len(used)} images are in none of the lists of splits and not used")
    if silent := sorted(split_of.keys() - {row.path.rpartition("/")[2] for row in used}):
        console.say(
            f"{listing.root}: {len(silent)} images of the lists of splits have no caption, and are not used, such as "
            f"{shown(silent[0])}"
        )
    return listing_of(used, root=listing.root, source=listing.source)


def _names_in(tree: Tree, path: str) -> Iterator[str]:
    """The names in a list of them, one in a line, without their folders."""
    for line in _LINE_END.split(read_file(tree, path).decode("utf-8-sig", "replace")):
        if name := line.strip().rpartition("/")[2]:
            yield name
