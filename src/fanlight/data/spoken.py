"""The words of a manifest's captions, read once: vocabulary, lengths and targets are arithmetic on what is here. NumPy only.

R rows of the manifest, S captions of all of them, W running words of all captions. Taking words out of 600,000 sentences
takes seconds, and a run asks for them several times on every rank, so of a large set they are kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary
from zipfile import BadZipFile

import numpy as np

from fanlight.data import cache, vocabulary
from fanlight.data.captions import captions_of
from fanlight.data.manifest import Manifest
from fanlight.data.vocabulary import Vocabulary
from fanlight.types import END, PAD, START, UNK

KEPT_FROM = 20_000  # captions; fewer are read again sooner than a file is found
RULES = 1  # of vocabulary.words_of: another number where they change, so that no older file is used
_ARRAYS = ("numbers_W", "ends_S", "ends_R")


@dataclass(frozen=True, eq=False)
class Spoken:
    """Rows without a caption have none here; empty captions are left out, as captions_of does."""

    words: tuple[str, ...]  # every different one, in the order in which they are first said
    numbers_W: np.ndarray  # int32, places in `words`
    ends_S: np.ndarray  # int64, where in W each caption ends, and the next begins
    ends_R: np.ndarray  # int64, where in S the captions of each row end

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """int64 [N], captions of each row."""
        return np.diff(self.ends_R, prepend=0)[rows]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """int64, words of each caption of these rows, in their order."""
        return self._lengths_S[self._of(rows)]

    def vocabulary(self, rows: np.ndarray, min_count: int) -> Vocabulary:
        """Of the captions of these rows. Errors as Vocabulary.of_counts."""
        return Vocabulary.of_counts(self._times(rows), min_count)

    def saying(self, words: Iterable[str], rows: np.ndarray) -> list[tuple[int, int]]:
        """(row, number of its caption) of every caption of these rows that has one of the words, in their order."""
        asked = frozenset(words)
        wanted = [number for number, word in enumerate(self.words) if word in asked]
        places_W = np.flatnonzero(np.isin(self.numbers_W, wanted))
        found_S = np.unique(np.searchsorted(self.ends_S, places_W, side="right"))
        row_S = np.searchsorted(self.ends_R, found_S, side="right")
        number_S = found_S - (self.ends_R - np.diff(self.ends_R, prepend=0))[row_S]
        is_one_S = np.isin(row_S, rows)
        return list(zip(row_S[is_one_S].tolist(), number_S[is_one_S].tolist()))

    def encoded(self, rows: np.ndarray, known: Vocabulary, longest: int) -> np.ndarray:
        """int16 (int32 for a vocabulary that needs it) [N, C, L]: START, at most `longest` words, END, PAD; of an image without
        a caption PAD alone. L is that of the longest caption, C the captions of the image that has most."""
        counts_N, captions_S = self.counts(rows), self._of(rows)
        kind = np.int16 if len(known) <= np.iinfo(np.int16).max else np.int32
        number_of = np.fromiter((known.number_of.get(word, UNK) for word in self.words), kind, len(self.words))
        lengths_S = np.minimum(self._lengths_S[captions_S], longest)
        width = int(lengths_S.max(initial=-2)) + 2
        slots = int(counts_N.max(initial=0))
        targets_NCL = np.full((len(rows), slots, width), PAD, kind)
        row_S = np.repeat(np.arange(len(rows)), counts_N)
        slot_S = _within(counts_N)
        first_S, numbers = (row_S * slots + slot_S) * width, targets_NCL.reshape(-1)
        numbers[first_S] = START
        numbers[first_S + 1 + lengths_S] = END
        inside_W = _within(lengths_S)
        begins_S = self.ends_S[captions_S] - self._lengths_S[captions_S]
        said_W = self.numbers_W[np.repeat(begins_S, lengths_S) + inside_W]
        numbers[np.repeat(first_S + 1, lengths_S) + inside_W] = number_of[said_W]
        return targets_NCL

    def unknown(self, rows: np.ndarray, known: Vocabulary) -> dict[str, int]:
        """How often these rows say each word that the vocabulary lacks."""
        return {word: count for word, count in self._times(rows).items() if word not in known.number_of}

    @cached_property
    def _lengths_S(self) -> np.ndarray:
        return np.diff(self.ends_S, prepend=0)

    def _times(self, rows: np.ndarray) -> dict[str, int]:
        """How often these rows say each word, of those that they say."""
        is_said_S = np.zeros(len(self.ends_S), bool)
        is_said_S[self._of(rows)] = True
        times = np.bincount(self.numbers_W[np.repeat(is_said_S, self._lengths_S)], minlength=len(self.words))
        return {word: count for word, count in zip(self.words, times.tolist()) if count}

    def _of(self, rows: np.ndarray) -> np.ndarray:
        """int64, the captions of these rows, in their order."""
        counts_N = self.counts(rows)
        return np.repeat(self.ends_R[rows] - counts_N, counts_N) + _within(counts_N)


def _within(counts: np.ndarray) -> np.ndarray:
    """int64: 0 … n - 1 of each n."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


_known: WeakKeyDictionary[Manifest, Spoken] = WeakKeyDictionary()


def of(manifest: Manifest) -> Spoken:
    """What the captions of the manifest's rows say. DataError that names a row whose captions are damaged."""
    if (found := _known.get(manifest)) is None:
        place = cache.folder() / "captions" / f"{_key(manifest)}.npz"
        if (found := _loaded(place, rows=len(manifest))) is None:
            found = _read(manifest)
            if len(found.ends_S) >= KEPT_FROM and found.words:
                _save(found, place)
        _known[manifest] = found
    return found


def _read(manifest: Manifest) -> Spoken:
    said = captions_of(manifest, np.arange(len(manifest)), may_lack=True)
    number_of: dict[str, int] = {}
    numbers: list[int] = []
    ends: list[int] = []
    for text in (text for each in said for text in each):
        numbers += [number_of.setdefault(word, len(number_of)) for word in vocabulary.words_of(text)]
        ends.append(len(numbers))
    return Spoken(
        tuple(number_of), np.array(numbers, np.int32), np.array(ends, np.int64),
        np.cumsum([len(each) for each in said], dtype=np.int64),
    )  # fmt: skip


def _key(manifest: Manifest) -> str:
    """Of the texts alone: splits, copies and what is quarantined change nothing here."""
    found = hashlib.sha256(f"{RULES} {unicodedata.unidata_version}".encode())
    column = manifest.table["captions"].combine_chunks()
    if len(column):
        _, offsets, texts = column.buffers()
        ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
        found.update(ends - ends[0])
        found.update(memoryview(texts)[ends[0] : ends[-1]] if texts is not None else b"")
    return found.hexdigest()[:24]


def _save(found: Spoken, place: Path) -> None:
    """Whole or not at all; a disk that takes no file costs time later, and nothing else."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    letters = np.frombuffer("\n".join(found.words).encode(), np.uint8)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                np.savez(file, words=letters, **{name: getattr(found, name) for name in _ARRAYS})
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)


def _loaded(place: Path, *, rows: int) -> Spoken | None:
    """What `_save` wrote; None where there is nothing, or a file that is torn."""
    try:
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as kept:
            words = kept["words"].tobytes().decode().split("\n")
            found = Spoken(tuple(words), *(kept[name] for name in _ARRAYS))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return found if len(found.ends_R) == rows else None
