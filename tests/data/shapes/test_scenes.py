"""What is in a scene, and what is true of it."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fanlight.data.shapes import scene as scenes
from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.scene import GAP_PX, SEEN, SIDE_PX, UNSEEN, Scene, Thing

numbers = st.integers(0, 2**31)


def thing(x: float, y: float, *, colour: str = "red", shape: str = "circle", size: str = "small") -> Thing:
    return Thing(colour, shape, size, x, y, 6.5, 0.0)


def facts(*things: Thing, clear: bool = False) -> set[scenes.Fact]:
    return set(scenes.facts(Scene(things, "plain", 0), clear=clear))


@given(numbers, st.booleans())
def test_things_lie_apart_and_inside(number: int, unseen: bool) -> None:
    scene = scenes.drawn(Dice(number, seed=1), unseen=unseen, seed=0)
    assert 1 <= len(scene.things) <= 4
    for place, one in enumerate(scene.things):
        assert all(one.radius + GAP_PX <= each <= SIDE_PX - one.radius - GAP_PX + 0.01 for each in (one.x, one.y))
        for other in scene.things[:place]:
            assert math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + GAP_PX
            assert one.kind != other.kind or one.size == other.size


@given(numbers)
def test_pairs_that_are_held_out_stand_in_test_only(number: int) -> None:
    seen = scenes.drawn(Dice(number, seed=1), unseen=False, seed=0)
    assert set(seen.kinds) <= set(SEEN)
    assert set(scenes.drawn(Dice(number, seed=1), unseen=True, seed=0).kinds) & set(UNSEEN)


def test_each_colour_and_each_shape_of_a_held_out_pair_is_seen_with_others() -> None:
    assert {shape for _, shape in UNSEEN} == set(scenes.SHAPES)
    for colour, shape in UNSEEN:
        assert sum(kind[0] == colour for kind in SEEN) == len(scenes.SHAPES) - 1
        assert sum(kind[1] == shape for kind in SEEN) == len(scenes.COLOURS) - 1


def test_scenes_are_as_varied_as_they_say() -> None:
    drawn = [scenes.drawn(Dice(number, seed=1), unseen=False, seed=0) for number in range(600)]
    counts = Counter(len(scene.things) for scene in drawn)
    assert all(abs(counts[number] / 600 - share) < 0.09 for number, share in scenes.NUMBERS.items())
    assert {scene.background for scene in drawn} == set(scenes.BACKGROUNDS)
    assert len({kind for scene in drawn for kind in scene.kinds}) == len(SEEN)
    assert Counter(max(map(len, scene.kinds.values())) for scene in drawn).keys() >= {1, 2, 3}
    assert len({scene.things for scene in drawn}) == 600


def test_relations_hold_beyond_a_margin_and_clearly_beyond_three_times_that() -> None:
    circle, cross = ("red", "circle"), ("blue", "cross")

    def relations(right: float, down: float, *, clear: bool) -> set[str]:
        found = facts(thing(30, 30), thing(30 + right, 30 + down, colour="blue", shape="cross"), clear=clear)
        assert {(*fact[:1], fact[3], fact[2], fact[1]) for fact in found if fact[0] == "relation"} == {
            ("relation", fact[1], {"left": "right", "right": "left", "above": "below", "below": "above"}[fact[2]], fact[3])
            for fact in found if fact[0] == "relation"
        }  # fmt: skip
        return {fact[2] for fact in found if fact[:2] == ("relation", circle) and fact[3] == cross}

    assert relations(20, 0, clear=True) == relations(20, 0, clear=False) == {"left"}
    assert relations(-20, 5, clear=True) == {"right"}
    assert relations(3, 20, clear=True) == {"above"} and relations(3, -20, clear=True) == {"below"}
    assert relations(10, 8, clear=False) == {"left", "above"} and relations(10, 8, clear=True) == set()
    assert relations(20, 15, clear=True) == set() and relations(20, 12, clear=True) == {"left"}
    assert relations(4, 1, clear=False) == set()


def test_places() -> None:
    def places(x: float, y: float, *, clear: bool) -> set[str]:
        return {fact[2] for fact in facts(thing(x, y), clear=clear) if fact[0] == "place"}

    assert places(10, 10, clear=True) == places(10, 10, clear=False) == {"top left", "top", "left"}
    assert places(54, 33, clear=False) == {"bottom right", "right"} and places(54, 33, clear=True) == {"right"}
    assert places(32, 32, clear=True) == {"middle"}
    assert places(39, 39, clear=False) == {"middle", "bottom right", "bottom", "right"}
    assert places(39, 39, clear=True) == {"bottom right"}


def test_what_is_said_of_a_kind_holds_for_all_of_it() -> None:
    kind = ("red", "circle")
    found = facts(thing(10, 10), thing(10, 50), thing(50, 10, shape="cross"))
    assert {fact for fact in found if fact[0] in ("number", "count", "size")} == {
        ("number", 3), ("count", kind, 2), ("count", ("red", "cross"), 1), ("size", kind, "small"),
        ("size", ("red", "cross"), "small"),
    }  # fmt: skip
    assert {fact[2] for fact in found if fact[:2] == ("place", kind)} == {"left"}
    assert ("relation", kind, "left", ("red", "cross")) in found
    assert not any(fact[:3] == ("relation", kind, "below") for fact in found)
    scene = Scene((thing(10, 10), thing(10, 50), thing(50, 10, shape="cross")), "plain", 0)
    assert scenes.required(scene) == {("number", 3), ("count", kind, 2), ("count", ("red", "cross"), 1)}
    assert scenes.required(scene) <= scenes.facts(scene)


@given(numbers, st.booleans())
def test_what_is_clear_is_true(number: int, unseen: bool) -> None:
    scene = scenes.drawn(Dice(number, seed=2), unseen=unseen, seed=0)
    assert scenes.facts(scene, clear=True) <= scenes.facts(scene)
    assert Scene.of_json(scene.as_json()) == scene


def test_dice_never_change_between_versions() -> None:
    """Pinned: a drift here draws other scenes under the names of the old ones."""
    dice = Dice(5, seed=1)
    found = [dice.number() for _ in range(300)]
    assert [round(value, 12) for value in (found[0], found[255], found[256])] == GOLDEN
    assert 0.4 < sum(found) / 300 < 0.6 and len(set(found)) == 300
    assert Counter(dice.weighted({"a": 0.2, "b": 0.8}) for _ in range(1_000))["a"] in range(150, 250)


GOLDEN = [0.180976147697, 0.957804469549, 0.549676674343]
