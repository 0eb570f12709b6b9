"""Captions read back: from words to facts, grammar.py inverted.

    caption  = { background | opening | total | joint | relation | name }
    name     = count [size] colour shape [place] | count [size] shape (`that is` | `in`) colour [place]
             | `the` and the same, of what was named before
    relation = name [`is`] (`left of` | `above` | …) name

Commas say nothing: what a model writes has none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fanlight.data.shapes.scene import Fact, Kind, Scene, facts, required
from fanlight.data.shapes.words import LONGEST, PHRASES, Meaning
from fanlight.data.vocabulary import words_of


@dataclass(frozen=True)
class Read:
    """What a caption says, and what of it means nothing here."""

    facts: frozenset[Fact]
    unread: tuple[str, ...]  # words and phrases, in order, that are unknown or stand where they make no sense


def parse(caption: str) -> Read:
    """The facts that a caption states. How many things there are is the sum of those that it names; where it says another
    number as well, both are facts, and one of them is false."""
    return _Reader(caption).read()


def true_and_complete(caption: str, scene: Scene) -> bool:
    """Whether all of it can be read, all is true of the scene, and nothing that is required is left out."""
    found = parse(caption)
    return not found.unread and found.facts <= facts(scene) and required(scene) <= found.facts


class _Reader:
    """One caption on its way to facts: phrases from left to right, one name at a time."""

    def __init__(self, caption: str) -> None:
        self._phrases = _phrases(words_of(caption))
        self._place = 0
        self._counts: Counter[Kind] = Counter()
        self._found: set[Fact] = set()
        self._unread: list[str] = []

    def read(self) -> Read:
        before: Kind | None = None  # the name that ends here, which a relation can follow
        while self._place < len(self._phrases):
            kind, meaning = self._next()
            if kind in ("count", "the"):
                before = self._name()
            elif before is not None and kind in ("is", "relation"):
                self._relation(before)
                before = None  # `a above b above c` is no sentence of ours
            else:
                before = None
                text = self._take()
                if kind in ("total", "background"):
                    self._found.add(("number" if kind == "total" else kind, meaning))
                elif kind not in ("opening", "joint"):
                    self._unread.append(text)
        self._found |= {("count", kind, count) for kind, count in self._counts.items()}
        if self._counts:
            self._found.add(("number", self._counts.total()))
        return Read(frozenset(self._found), tuple(self._unread))

    def _next(self) -> Meaning:
        return self._phrases[self._place][1] if self._place < len(self._phrases) else ("end", None)

    def _take(self) -> str:
        self._place += 1
        return self._phrases[self._place - 1][0]

    def _taken(self, kind: str) -> object:
        """The meaning of the next phrase, where it is of this kind; else None."""
        if self._next()[0] != kind:
            return None
        meaning = self._next()[1]
        self._take()
        return meaning

    def _name(self) -> Kind | None:
        """The kind that is named from here on; None, and all its words unread, where it makes no sense."""
        start = self._place
        is_again = self._next()[0] == "the"
        count = self._next()[1]
        self._take()
        size, colour = self._taken("size"), self._taken("colour")
        form = "shape" if is_again or count == 1 else "shapes"
        shape = self._taken(form)
        colour = colour or self._taken("colour after")
        kind = (str(colour), str(shape))
        if colour is None or shape is None or (is_again and kind not in self._counts):
            self._senseless(start)
            return None
        if not is_again:
            assert isinstance(count, int)
            self._counts[kind] += count
        if size is not None:
            self._found.add(("size", kind, size))
        if (place := self._taken("place")) is not None:
            self._found.add(("place", kind, place))
        return kind

    def _relation(self, one: Kind) -> None:
        start = self._place
        self._taken_is()
        relation = self._taken("relation")
        if relation is None or self._next()[0] not in ("count", "the"):
            self._senseless(start)
            return
        other = self._name()
        if other is not None:
            self._found.add(("relation", one, relation, other))

    def _taken_is(self) -> None:
        if self._next()[0] == "is":
            self._take()

    def _senseless(self, start: int) -> None:
        self._unread += [text for text, _ in self._phrases[start : self._place]]


def _phrases(words: list[str]) -> list[tuple[str, Meaning]]:
    """The longest phrase at each place; a word that none begins with is `unknown`."""
    found: list[tuple[str, Meaning]] = []
    place = 0
    while place < len(words):
        for length in range(min(LONGEST, len(words) - place), 0, -1):
            if (meaning := PHRASES.get(tuple(words[place : place + length]))) is not None:
                break
        else:
            meaning = ("unknown", None)
        found.append((" ".join(words[place : place + length]), meaning))
        place += length
    return found
