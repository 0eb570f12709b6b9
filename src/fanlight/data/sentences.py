"""What the captions of a data set are like: words, lengths, scripts, and what is odd about them; said by `fanlight check`."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fanlight.console import say
from fanlight.data.captions import captions_of
from fanlight.data.manifest import Manifest
from fanlight.data.vocabulary import words_of
from fanlight.errors import shown

USUAL_COUNT = 5  # words that occur so often are what captioners usually know
LONG = 50  # words; a longer caption is more likely a story, or a mistake
LETTERS = 60  # shown of a caption
EMOJI = "emoji"
AGAIN = "that their image has before, letter by letter"
_LATIN = frozenset({"Latin"})


@dataclass(frozen=True)
class Survey:
    """Counts over the usable images of a manifest."""

    captions: int
    words: int  # running, over all captions
    vocabulary: int  # different ones
    frequent: int  # of the vocabulary, those that occur USUAL_COUNT times or more
    covered: float  # share of the running words that these are
    lengths: tuple[int, int, int, int]  # words of a caption: the shortest, half of them, 99 of 100, the longest
    per_image: tuple[int, int]  # captions of an image, the fewest and the most
    repeated: int  # captions that say what one of another image says
    odd: dict[str, list[str]]  # what is odd -> the captions that are so, each with its image


def survey(manifest: Manifest) -> Survey | None:
    """None where the data has no captions."""
    rows = manifest.rows()
    if not any(manifest.column("captions")[rows]):
        return None
    rows = rows[manifest.column("captions")[rows] != ""]  # images with a label alone may stand beside
    found = captions_of(manifest, rows)
    paths = manifest.column("path")[rows]
    counts: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    images_of: dict[tuple[str, ...], set[int]] = {}
    said: list[tuple[int, str, list[str], frozenset[str]]] = []
    again: dict[str, list[str]] = {}
    for image, texts in enumerate(found):
        before: set[str] = set()
        for text in texts:
            if text in before:
                again.setdefault(AGAIN, []).append(f"{paths[image]}: {shown(text, letters=LETTERS)}")
            before.add(text)
            words = words_of(text)
            counts.update(words)
            kinds = scripts_of(text)
            scripts.update(kinds - {EMOJI})
            images_of.setdefault(tuple(words), set()).add(image)
            said.append((image, text, words, kinds))
    odd: dict[str, list[str]] = again
    usual = scripts.most_common(1)[0][0] if scripts else ""
    for image, text, words, kinds in said:
        wrong = [f"with letters that are {kind}, not {usual}" for kind in sorted(kinds - {EMOJI, usual})]
        wrong += ["with emoji"] if EMOJI in kinds else []
        wrong += ["without a word"] if not words else [f"of more than {LONG} words"] if len(words) > LONG else []
        for what in wrong:
            odd.setdefault(what, []).append(f"{paths[image]}: {shown(text, letters=LETTERS)}")
    lengths = np.sort([len(words) for _, _, words, _ in said])
    frequent = [count for count in counts.values() if count >= USUAL_COUNT]
    total = counts.total()
    return Survey(
        captions=len(said), words=total, vocabulary=len(counts), frequent=len(frequent),
        covered=sum(frequent) / total if total else 0.0,
        lengths=(int(lengths[0]), int(np.median(lengths)), int(lengths[(len(lengths) * 99 - 1) // 100]), int(lengths[-1])),
        per_image=(min(map(len, found)), max(map(len, found))),
        repeated=sum(len(images_of[tuple(words)]) > 1 for _, _, words, _ in said), odd=odd,
    )  # fmt: skip


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of its letters, such as Latin or Cyrillic, and `emoji` where it has one."""
    if text.isascii():
        return _LATIN if any(map(str.isalpha, text)) else frozenset()
    return frozenset(filter(None, map(_script, text)))


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    """By the first word of the letter's name, which is that of its script; empty for what is no letter."""
    category = unicodedata.category(letter)
    if category == "So":
        return EMOJI if letter >= "\u2190" else ""  # below are ©, °, ®
    if category[0] != "L" or category == "Lm":
        return ""
    plain = unicodedata.normalize("NFKC", letter)[0]  # wide and mathematical letters, ª and µ are letters of a script
    first = unicodedata.name(plain, "unknown").partition(" ")[0]
    if first in ("CJK", "HIRAGANA", "KATAKANA"):  # Japanese is written with all three
        return "Chinese or Japanese"
    return first.capitalize()


def tell(found: Survey) -> dict[str, Any]:
    """Prints a survey, and says it as a part of the JSON object of `check --json`."""
    fewest, most = found.per_image
    say(
        f"Captions of an image: {fewest if fewest == most else f'{fewest} to {most}'}; words of a caption: "
        f"{found.lengths[0]} to {found.lengths[3]}, half have at most {found.lengths[1]}, 99 of 100 at most {found.lengths[2]}"
    )
    say(
        f"Vocabulary: {found.vocabulary} words, {found.frequent} of them {USUAL_COUNT} times or more, which are "
        f"{found.covered:.1%} of all words said"
    )
    say(f"Captions that another image has, too: {found.repeated}")
    for what, those in found.odd.items():
        say(f"{len(those)} captions {what}, first of {those[0]}")
    shortest, median, nearly_all, longest = found.lengths
    return {
        "words": found.words, "vocabulary": found.vocabulary, "frequent_words": found.frequent, "covered": found.covered,
        "caption_words": {"min": shortest, "median": median, "p99": nearly_all, "max": longest},
        "captions_per_image": {"min": fewest, "max": most}, "repeated_captions": found.repeated, "odd_captions": found.odd,
    }  # fmt: skip
