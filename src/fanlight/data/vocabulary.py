"""Words of captions and their numbers: the tokenizer for training, and the vocabulary that is kept with a run.

Scores have a tokenizer of their own (tasks/caption_words.py): this one decides what a model can say, that one what counts.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from fanlight.errors import ConfigError, DataError, shown
from fanlight.types import END, PAD, START, UNK

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
FILE = "vocabulary.json"  # in a run folder
VERSION = 1

_LETTER = r"[^\x00-/:-@\[-`{-\x7f]"  # of a word; what is neither ASCII nor part of a word is a space by then
_WORD = re.compile(rf"{_LETTER}+(?:(?:['-]|(?<=[0-9])[.,](?=[0-9])){_LETTER}+)*")
_SPACE, _PART, _ALONE, _NOTHING, _MARK = range(5)  # what a letter beyond ASCII is
_UNSPACED = (  # scripts that put no spaces between words: each letter is one
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip  # Thai and Lao, Burmese, Khmer, Japanese, Chinese
_FIRST_EMOJI = "\u2190"  # before it are signs such as © and °
_JOINER, _SHOWN_AS = "\u200d", ("\ufe0e", "\ufe0f")  # in emoji: joins two into one, asks for colour or for none
_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "‐": "-", "‑": "-"})


def words_of(text: str) -> list[str]:
    """The words of a caption, in lower case, without punctuation, every script kept.

    An apostrophe or a hyphen inside a word stays (`man's`, `t-shirt`), so do points and commas inside a number (`3.5`). Each
    emoji is a word, and each letter of a script without spaces. words_of(" ".join(words)) gives the same words."""
    if text.isascii():
        return _WORD.findall(text.lower())
    text = unicodedata.normalize("NFC", text.translate(_APOSTROPHES)).lower()
    return _WORD.findall(unicodedata.normalize("NFC", "".join(_pieces(text))))


def _pieces(text: str) -> list[str]:
    """The text with spaces where words end that no ASCII mark ends."""
    pieces: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        place += 1
        kind = _PART if letter.isascii() else _kind(letter)
        if kind == _PART or (kind == _MARK and pieces and re.match(_LETTER, pieces[-1][-1:])):
            pieces.append(letter)  # an accent on nothing is none
        elif kind == _SPACE:
            pieces.append(" ")
        elif kind == _ALONE:
            end = _end_of_emoji(text, place)
            pieces += [" ", "".join(each for each in text[place - 1 : end] if each not in _SHOWN_AS), " "]
            place = end
    return pieces


def _end_of_emoji(text: str, place: int) -> int:
    """Where what belongs to the letter before `place` ends: accents, a skin's colour, the second half of a flag, and what a
    joiner ties to it."""
    if "\U0001f1e6" <= text[place - 1] <= "\U0001f1ff" and "\U0001f1e6" <= text[place : place + 1] <= "\U0001f1ff":
        return place + 1
    while place < len(text):
        letter = text[place]
        if letter == _JOINER and place + 1 < len(text) and _kind(text[place + 1]) == _ALONE:
            place += 2
        elif not letter.isascii() and (_kind(letter) == _MARK or "\U0001f3fb" <= letter <= "\U0001f3ff"):
            place += 1
        else:
            return place
    return place


@lru_cache(maxsize=1 << 16)
def _kind(letter: str) -> int:
    category = unicodedata.category(letter)
    if category[0] == "M" or "\U000e0020" <= letter <= "\U000e007f":  # the latter spell a region's flag
        return _MARK
    if category[0] in "LN":
        return _ALONE if _is_unspaced(letter) else _PART
    if category == "So":
        return _ALONE if letter >= _FIRST_EMOJI else _SPACE
    return _NOTHING if category == "Cf" else _SPACE


def _is_unspaced(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _UNSPACED)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows. A word's number is its place; V words, the four special ones first."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"a vocabulary begins with {' '.join(SPECIAL)}")

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int) -> Vocabulary:
        """Of the words of these captions, as `of_counts`."""
        return cls.of_counts(Counter(word for text in captions for word in words_of(text)), min_count)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], min_count: int) -> Vocabulary:
        """The words that occur at least `min_count` times, the most frequent first, equal ones in the order of their letters.
        DataError where there is no word, ConfigError where none is frequent enough."""
        if not counts:
            raise DataError("none of the training captions has a word, only marks and blanks; give them words")
        known = [
            word for word, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])) if count >= min_count
        ]
        if not known:
            most, word = max((count, word) for word, count in counts.items())
            raise ConfigError(
                f"caption.min_count is {min_count}: no word of the training captions occurs that often, the most frequent, "
                f"{shown(word)!r}, {most} times; try --min-count {max(1, most // 2)}"
            )
        return cls((*SPECIAL, *known))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Word -> its number, of the words that can stand in a caption."""
        return {word: number for number, word in enumerate(self.words) if number >= len(SPECIAL)}

    def encode(self, text: str, longest: int) -> list[int]:
        """START, at most the first `longest` words, END. Words that are not known are UNK."""
        number_of = self.number_of
        return [START, *(number_of.get(word, UNK) for word in words_of(text)[:longest]), END]

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to END, without PAD and START; letters of a script without spaces are joined again."""
        words: list[str] = []
        for number in map(int, ids):
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.words[number])
        return joined(words)

    def save(self, path: Path) -> None:
        """Writes JSON, whole or not at all."""
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(
                json.dumps({"version": VERSION, "words": self.words}, ensure_ascii=False, indent=0), "utf-8"
            )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def joined(words: Sequence[str]) -> str:
    """Words as a line: with spaces between, but none between two letters of a script that has none."""
    text = ""
    for word in words:
        is_close = text and word and _is_unspaced(word[0]) and _is_unspaced(text[-1])
        text += word if is_close or not text else f" {word}"
    return text
