"""Captions and their way back to facts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.data.shapes import grammar, words
from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.reading import parse, true_and_complete
from fanlight.data.shapes.scene import COLOURS, Scene, Thing, drawn, facts, required
from fanlight.data.vocabulary import Vocabulary, words_of

SCENE = Scene(
    (
        Thing("red", "circle", "large", 12, 12, 10, 0), Thing("blue", "cross", "small", 50, 14, 6, 0),
        Thing("blue", "cross", "small", 52, 50, 6, 0),
    ),
    "striped", 0,
)  # fmt: skip
CIRCLE, CROSS = ("red", "circle"), ("blue", "cross")
COUNTS = {("number", 3), ("count", CIRCLE, 1), ("count", CROSS, 2)}


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Scene, Dice]:
    dice = Dice(draw(st.integers(0, 2**31)), seed=draw(st.integers(0, 2**31)))
    return drawn(dice, unseen=draw(st.booleans()), seed=0), dice


@given(scenes())
def test_every_caption_is_read_whole_true_and_complete(made: tuple[Scene, Dice]) -> None:
    scene, dice = made
    captions = grammar.captions(scene, dice)
    assert len(set(captions)) == grammar.PER_SCENE
    for text in captions:
        found = parse(text)
        assert not found.unread, text
        assert required(scene) <= found.facts <= facts(scene, clear=True) <= facts(scene), text
        assert parse(" ".join(words_of(text))) == found  # as a model writes it
        assert true_and_complete(text, scene)


@given(scenes())
def test_a_caption_with_one_wrong_word_is_not_true(made: tuple[Scene, Dice]) -> None:
    """A colour for another, a number for another, a relation or a place turned round, a size for the other."""
    scene, dice = made
    turned = {"left": "right", "right": "left", "above": "below", "below": "above", "top": "bottom", "bottom": "top"}
    turned |= {"small": "large", "large": "small", "big": "tiny", "one": "two", "three": "two", "striped": "dotted"}
    for text in grammar.captions(scene, dice):
        said = words_of(text)
        for place, word in enumerate(said):
            other = turned.get(word)
            if word in COLOURS and said[place - 1] != "the":  # what is true of the one may be of the other
                other = COLOURS[COLOURS.index(word) - 1]
            if other is not None:
                changed = " ".join([*said[:place], other, *said[place + 1 :]])
                assert not true_and_complete(changed, scene), changed


@given(scenes(), st.data())
def test_a_caption_that_lacks_a_thing_is_not_complete(made: tuple[Scene, Dice], data: st.DataObject) -> None:
    scene, dice = made
    if len(scene.things) == 1:
        return
    left_out = data.draw(st.integers(0, len(scene.things) - 1))
    fewer = Scene((*scene.things[:left_out], *scene.things[left_out + 1 :]), scene.background, 0)
    assert not any(true_and_complete(text, scene) for text in grammar.captions(fewer, dice))


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("a red circle and two blue crosses", set()),
        ("a red circle, a blue cross and a blue cross", set()),  # counted together
        ("Three shapes: two crosses in blue with a disc that is red.", set()),
        ("a big red disc and a pair of tiny blue crosses", {("size", CIRCLE, "large"), ("size", CROSS, "small")}),
        ("two blue crosses and a red circle in the top left corner", {("place", CIRCLE, "top left")}),
        ("a red circle is to the left of two blue crosses", {("relation", CIRCLE, "left", CROSS)}),
        ("a red circle left of two blue crosses", {("relation", CIRCLE, "left", CROSS)}),
        ("two blue crosses and a red circle, and the red disc is left of the blue cross", {("relation", CIRCLE, "left", CROSS)}),
        ("against a striped background there are two blue crosses and one red circle", {("background", "striped")}),
    ],
)  # fmt: skip
def test_read(text: str, more: set[object]) -> None:
    found = parse(text)
    assert (found.facts, found.unread) == (COUNTS | more, ())


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("a red circle and two blue crosses happily", ("happily",)),
        ("a red circle and two blue cross", ("two", "blue", "cross")),
        ("a red circles", ("a", "red", "circles")),
        ("a red", ("a", "red")),
        ("a small circle", ("a", "small", "circle")),
        ("red circle", ("red", "circle")),
        ("the red circle", ("the", "red", "circle")),  # not named before
        ("a red circle is", ("is",)),
        ("a red circle above", ("above",)),
        ("above a red circle", ("above",)),
        ("a red circle above a blue cross above a red square", ("above",)),
        ("a red circle and left of a blue cross", ("left of",)),
        ("a red blue circle", ("a", "red", "blue", "circle")),
        ("in the top left a red circle", ("in the top left",)),
        ("a red <unk>", ("a", "red", "unk")),
        ("犬", ("犬",)),
    ],
)
def test_what_cannot_be_read_is_named(text: str, unread: tuple[str, ...]) -> None:
    assert parse(text).unread == unread
    assert not true_and_complete(text, SCENE)


def test_an_empty_caption_says_nothing() -> None:
    assert parse("") == parse("and with.") and not parse("").facts and not parse("").unread
    assert not true_and_complete("", SCENE)


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("a red circle and two blue crosses", True),
        ("two blue crosses and a red circle on a striped background", True),
        ("two blue crosses and a red circle on a dotted background", False),
        ("three objects: a red circle and two blue crosses", True),
        ("two objects: a red circle and two blue crosses", False),
        ("a red circle and a blue cross", False),
        ("a red circle and three blue crosses", False),
        ("two blue crosses", False),
        ("a red circle and two small blue crosses", True),
        ("a red circle and two big blue crosses", False),
        ("two blue crosses to the right of a red circle", True),  # both are
        ("two blue crosses below a red circle", False),  # only one is
        ("two blue crosses and a red circle, and the red circle is large", False),  # no sentence of ours
    ],
)
def test_true_and_complete(text: str, is_so: bool) -> None:
    assert true_and_complete(text, SCENE) is is_so


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([word for phrase in words.PHRASES for word in phrase]), max_size=20).map(" ".join)
)
def test_anything_can_be_read(text: str) -> None:  # fmt: skip
    found = parse(text)
    counts = [fact[2] for fact in found.facts if fact[0] == "count"]
    assert not counts or ("number", sum(counts)) in found.facts


def test_captions_vary() -> None:
    made = []
    for number in range(300):
        dice = Dice(number, seed=1)
        made.append(grammar.captions(drawn(dice, unseen=False, seed=0), dice))
    captions = [text for each in made for text in each]
    vocabulary = Vocabulary.of(captions, 1)
    assert {word for phrase in words.PHRASES for word in phrase} - {"an", "one"} <= set(vocabulary.words)
    stated = Counter(fact[0] for text in captions for fact in parse(text).facts)
    assert all(stated[what] > len(captions) / 10 for what in ("size", "place", "relation", "background"))
    assert len({tuple(words_of(text)[:3]) for text in captions}) > 150
    assert max(len(words_of(text)) for text in captions) == grammar.LONGEST
