"""Captions of a scene. Each says all that is required, some of what else is clear, and nothing that is not so."""

from __future__ import annotations

from dataclasses import dataclass

from fanlight.data.shapes import scene as scenes
from fanlight.data.shapes import words
from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.scene import Fact, Kind, Scene, Thing

PER_SCENE = 5
LONGEST = 24  # words; as long as captioners usually write
# How often each is said, where it can be.
SIZE_SHARE, PLACE_SHARE, BACKGROUND_SHARE, RELATION_SHARE = 0.4, 0.15, 0.2, 0.3


@dataclass(frozen=True)
class _Said:
    """A scene, what is clear in it, and the lots that decide about words."""

    scene: Scene
    kinds: dict[Kind, list[Thing]]  # of the scene
    clear: frozenset[Fact]
    dice: Dice


def captions(scene: Scene, dice: Dice, *, count: int = PER_SCENE) -> list[str]:
    """`count` different captions of at most LONGEST words."""
    said = _Said(scene, scene.kinds, scenes.facts(scene, clear=True), dice)
    found: dict[str, None] = {}
    while len(found) < count:
        text = _caption(said)
        if len(text.split()) <= LONGEST:
            found[text] = None
    return list(found)


def _caption(said: _Said) -> str:
    dice, kinds = said.dice, _in_order(said)
    relations = sorted(fact for fact in said.clear if fact[0] == "relation" and _are_single(said, fact))
    relation = dice.one_of(relations) if relations and dice.is_so(RELATION_SHARE) else None
    if relation is None:
        text = _listing(said, kinds)
    elif dice.is_so(0.5):
        text = _relating(said, relation, kinds)
    else:
        text = f"{_listing(said, kinds)}, and {_again(said, relation)}"
    if dice.is_so(BACKGROUND_SHARE):
        background = dice.one_of(words.BACKGROUND_WORDS[said.scene.background])
        text = f"{text} {background}" if dice.is_so(0.6) else f"{background}, {text}"
    return f"{text[0].upper()}{text[1:]}."


def _are_single(said: _Said, relation: Fact) -> bool:
    return len(said.kinds[relation[1]]) == len(said.kinds[relation[3]]) == 1


def _in_order(said: _Said) -> list[Kind]:
    """The kinds from left to right, by the first thing of each."""
    return sorted(said.kinds, key=lambda kind: min(thing.x for thing in said.kinds[kind]))


def _listing(said: _Said, kinds: list[Kind]) -> str:
    """`there are two red circles and a small cross that is blue`, `three objects: …`."""
    dice, number = said.dice, len(said.scene.things)
    form = dice.number()
    listed = _joined([_named(said, kind) for kind in kinds], dice)
    if form < 0.4:
        return listed
    if form < 0.6 and number > 1:
        things = dice.one_of(words.THINGS)
        return f"{dice.one_of(words.NUMBER_WORDS[number])} {things}: {listed}"
    is_one = len(said.kinds[kinds[0]]) == 1
    fitting = [text for text in words.OPENINGS if not text.endswith("are" if is_one else "is")]
    return f"{dice.one_of(fitting)} {listed}"


def _relating(said: _Said, relation: Fact, kinds: list[Kind]) -> str:
    """`a red circle is above a blue cross, with a green square`."""
    _, one, word, other = relation
    dice = said.dice
    between = f"{'is ' if dice.is_so(0.5) else ''}{dice.one_of(words.RELATION_WORDS[word])}"
    text = f"{_named(said, one, is_bare=True)} {between} {_named(said, other)}"
    rest = [_named(said, kind) for kind in kinds if kind not in (one, other)]
    return f"{text}, {dice.one_of(('and', 'with'))} {_joined(rest, dice)}" if rest else text


def _again(said: _Said, relation: Fact) -> str:
    """`the red circle is above the blue cross`, of what was named before."""
    _, one, word, other = relation
    names = [f"the {said.dice.one_of(words.COLOUR_WORDS[kind[0]])} {_shape(said, kind)}" for kind in (one, other)]
    return f"{names[0]} is {said.dice.one_of(words.RELATION_WORDS[word])} {names[1]}"


def _joined(names: list[str], dice: Dice) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}{dice.one_of((' and', ', and', ' with'))} {names[-1]}"


def _shape(said: _Said, kind: Kind) -> str:
    return said.dice.one_of(words.SHAPE_WORDS[kind[1]])[len(said.kinds[kind]) > 1]


def _named(said: _Said, kind: Kind, *, is_bare: bool = False) -> str:
    """`a small red circle in the top left`, `two crosses that are blue`; `is_bare`: without its place."""
    dice, things = said.dice, said.kinds[kind]
    count = len(things)
    colour, shape = dice.one_of(words.COLOUR_WORDS[kind[0]]), _shape(said, kind)
    size = f"{dice.one_of(words.SIZE_WORDS[things[0].size])} " if dice.is_so(SIZE_SHARE) else ""
    form = dice.number()
    if form < 0.75:
        name = f"{size}{colour} {shape}"
    elif form < 0.9:
        name = f"{size}{shape} that {'is' if count == 1 else 'are'} {colour}"
    else:
        name = f"{size}{shape} in {colour}"
    if count == 1:
        first = words.article(name)
    else:
        first = "a pair of" if count == 2 and dice.is_so(0.2) else dice.one_of(words.NUMBER_WORDS[count])
    places = [place for place in scenes.PLACES if ("place", kind, place) in said.clear]
    if is_bare or count > 1 or not places or not dice.is_so(PLACE_SHARE):
        return f"{first} {name}"
    return f"{first} {name} {dice.one_of(words.PLACE_WORDS[dice.one_of(places)])}"
