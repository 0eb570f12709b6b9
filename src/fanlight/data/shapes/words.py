"""What captions of scenes are made of: each meaning with the words for it. grammar.py says them, reading.py knows them again.

A phrase stands for one meaning; where two begin alike the longer one is meant.
"""

from __future__ import annotations

from fanlight.data.shapes.scene import BACKGROUNDS, COLOURS

COLOUR_WORDS: dict[str, tuple[str, ...]] = {colour: (colour,) for colour in COLOURS}
SHAPE_WORDS = {  # singular and plural
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
NUMBER_WORDS = {1: ("one",), 2: ("two",), 3: ("three",)}
PLACE_WORDS = {
    place: (f"in the {place}", f"in the {place} corner")
    for place in ("top left", "top right", "bottom left", "bottom right")
} | {
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "middle": ("in the middle", "in the centre"),
}
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
BACKGROUND_WORDS = {name: (f"on a {name} background", f"against a {name} background") for name in BACKGROUNDS}
OPENINGS = (
    "there is", "there are", "a picture of", "an image of", "a drawing of", "the picture shows", "the image shows", "you can see",
    "we see", "here is", "here are",
)  # fmt: skip
THINGS = ("things", "shapes", "objects", "figures")
JOINTS = ("and", "with")

Meaning = tuple[str, object]  # what kind of phrase it is, and of what


def _phrases() -> dict[tuple[str, ...], Meaning]:
    """Every phrase, as its words, and what it means."""
    found: dict[tuple[str, ...], Meaning] = {}

    def add(text: str, kind: str, meaning: object = None) -> None:
        words = tuple(text.split())
        assert found.setdefault(words, (kind, meaning)) == (kind, meaning), f"{text!r} means two things"

    for colour, names in COLOUR_WORDS.items():
        for name in names:
            add(name, "colour", colour)
            for before in ("that is", "that are", "in"):
                add(f"{before} {name}", "colour after", colour)
    for shape, pairs in SHAPE_WORDS.items():
        for one, several in pairs:
            add(one, "shape", shape)
            add(several, "shapes", shape)
    for kind, table in (("size", SIZE_WORDS), ("place", PLACE_WORDS), ("relation", RELATION_WORDS)):
        for meaning, names in table.items():
            for name in names:
                add(name, kind, meaning)
    for meaning, names in BACKGROUND_WORDS.items():
        for name in names:
            add(name, "background", meaning)
    for number, names in NUMBER_WORDS.items():
        for name in names:
            add(name, "count", number)
            for things in THINGS if number > 1 else ():
                add(f"{name} {things}", "total", number)
    add("a", "count", 1)
    add("an", "count", 1)
    add("a pair of", "count", 2)
    add("the", "the")
    add("is", "is")
    for text in OPENINGS:
        add(text, "opening")
    for text in JOINTS:
        add(text, "joint")
    return found


PHRASES = _phrases()
LONGEST = max(map(len, PHRASES))


def article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"
