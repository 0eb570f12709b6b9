"""Scenes of one to three things, and the facts about them. Lengths are pixels, x to the right and y downwards.

A fact is a tuple whose first word says of what: ("number", 3), ("count", kind, 2), ("size", kind, "small"),
("place", kind, "top left"), ("relation", kind, "above", kind), ("background", "striped"). A kind is (colour, shape). What is said
of a kind holds for all things of that kind; things of one kind in a scene have one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fanlight.data.shapes.dice import Dice

SIDE_PX = 64
COLOURS = ("red", "yellow", "green", "blue", "white", "black")
SHAPES = ("circle", "square", "triangle", "cross")
RADIUS_PX = {"small": (6.0, 7.0), "large": (10.0, 11.5)}
BACKGROUNDS = ("plain", "shaded", "striped", "dotted")
PLACES = ("top left", "top right", "bottom left", "bottom right", "top", "bottom", "left", "right", "middle")
RELATIONS = ("left", "right", "above", "below")
NUMBERS = {1: 0.3, 2: 0.45, 3: 0.25}  # of things in a scene -> how often
REPEATED = 0.2  # how often a further thing is of a kind that is there already
GAP_PX = 2.5  # at least, between two things and to the edge
TRIES = 40  # for one thing's place, before the scene is begun anew

Kind = tuple[str, str]  # colour, shape
Fact = tuple[Any, ...]

KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
UNSEEN: tuple[Kind, ...] = (  # stand in the split `test` only; each shape once, four of the six colours
    ("red", "square"), ("blue", "triangle"), ("green", "cross"), ("yellow", "circle"),
)  # fmt: skip
SEEN = tuple(kind for kind in KINDS if kind not in UNSEEN)


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    size: str  # small or large
    x: float  # of its centre
    y: float
    radius: float
    turn: float  # radians

    @property
    def kind(self) -> Kind:
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str  # one of BACKGROUNDS
    seed: int  # of what is drawn and is no fact: shades, stripes

    @property
    def kinds(self) -> dict[Kind, list[Thing]]:
        """The things of each kind, in the order of their first."""
        found: dict[Kind, list[Thing]] = {}
        for thing in self.things:
            found.setdefault(thing.kind, []).append(thing)
        return found

    def as_json(self) -> dict[str, Any]:
        return {"background": self.background, "seed": self.seed, "things": [asdict(thing) for thing in self.things]}

    @classmethod
    def of_json(cls, document: dict[str, Any]) -> Scene:
        return cls(tuple(Thing(**each) for each in document["things"]), document["background"], document["seed"])


def drawn(dice: Dice, *, unseen: bool, seed: int) -> Scene:
    """A scene of seen kinds only, or one with at least one kind of UNSEEN, the others of any kind."""
    while True:
        things = _things(dice, unseen=unseen)
        if things is not None:
            return Scene(things, dice.one_of(BACKGROUNDS), seed)


def _things(dice: Dice, *, unseen: bool) -> tuple[Thing, ...] | None:
    """None where they find no room."""
    sizes: dict[Kind, str] = {}
    placed: list[Thing] = []
    kinds: list[Kind] = []
    for number in range(dice.weighted(NUMBERS)):
        if kinds and dice.is_so(REPEATED):
            kinds.append(dice.one_of(kinds))
        elif unseen:
            kinds.append(dice.one_of(KINDS if number else UNSEEN))
        else:
            kinds.append(dice.one_of(SEEN))
    for kind in kinds:
        size = sizes.setdefault(kind, dice.one_of(tuple(RADIUS_PX)))
        thing = _placed(dice, kind, size, placed)
        if thing is None:
            return None
        placed.append(thing)
    return tuple(placed)


def _placed(dice: Dice, kind: Kind, size: str, others: list[Thing]) -> Thing | None:
    radius = round(dice.number(*RADIUS_PX[size]), 2)
    turn = round(dice.number(-0.2, 0.2), 3)
    nearest = radius + GAP_PX
    for _ in range(TRIES):
        x, y = (round(dice.number(nearest, SIDE_PX - nearest), 2) for _ in range(2))
        if all(math.hypot(x - each.x, y - each.y) > radius + each.radius + GAP_PX for each in others):
            return Thing(*kind, size, x, y, radius, turn)
    return None


def facts(scene: Scene, *, clear: bool = False) -> frozenset[Fact]:
    """Everything that is true of a scene and that a caption can say; `clear`: only what nobody would dispute, which is what
    captions are made of.

    A thing is left of another where its centre is by more than 4 pixels, and by more than half of what they differ in
    height; clearly so, by three times that. It is at the top where its centre is more than 5 pixels above the middle, clearly so
    by 12; at the top left where it is above and left of it, clearly so by 6; in the middle within 9 pixels of it both ways,
    clearly so within 5."""
    kinds = scene.kinds
    found: set[Fact] = {("number", len(scene.things)), ("background", scene.background)}
    for kind, things in kinds.items():
        found.add(("count", kind, len(things)))
        found.add(("size", kind, things[0].size))
        found |= {("place", kind, place) for place in PLACES if all(_is_at(thing, place, clear) for thing in things)}
    for one, things in kinds.items():
        for other, others in kinds.items():
            for relation in RELATIONS if one != other else ():
                if all(_is_so(a, relation, b, clear) for a in things for b in others):
                    found.add(("relation", one, relation, other))
    return frozenset(found)


def required(scene: Scene) -> frozenset[Fact]:
    """What every caption says: the number of things, and how many there are of each colour and shape."""
    return frozenset(
        {("number", len(scene.things))} | {("count", kind, len(all_)) for kind, all_ in scene.kinds.items()}
    )


def _is_at(thing: Thing, place: str, clear: bool) -> bool:
    right, down = thing.x - SIDE_PX / 2, thing.y - SIDE_PX / 2
    if place == "middle":
        return max(abs(right), abs(down)) < (5 if clear else 9)
    least = (6 if clear else 0) if " " in place else (12 if clear else 5)
    beyond: dict[str, Callable[[], bool]] = {
        "top": lambda: down < -least, "bottom": lambda: down > least,
        "left": lambda: right < -least, "right": lambda: right > least,
    }  # fmt: skip
    return all(beyond[word]() for word in place.split())


def _is_so(one: Thing, relation: str, other: Thing, clear: bool) -> bool:
    right, down = other.x - one.x, other.y - one.y
    along, across = {"left": (right, down), "right": (-right, down), "above": (down, right), "below": (-down, right)}[
        relation
    ]
    times = 3 if clear else 1
    return along > 4 * times and along > abs(across) / 2 * times
