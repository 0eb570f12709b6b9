"""Shares against timers: which bounds hold, which are broken, and that noise breaks none."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanlight.study.layouts import crosscheck, folder, result
from fanlight.study.layouts.crosscheck import Pair
from fanlight.study.layouts.grid import Point
from study.layouts import folders

TIMERS = {
    "input": 0.02,
    "copy": 0.01,
    "forward": 0.25,
    "backward": 0.55,
    "communication": 0.08,
    "optimizer": 0.09,
    "rest": 0.0,
}
SHARES = {
    "input": 0.03, "compute": 0.6, "contention": 0.02, "communication": 0.15, "straggler": 0.05, "bubble": 0.0,
    "optimizer": 0.04, "launch": 0.11, "rest": 0.0,
}  # fmt: skip
ONE, DDP = Point("serial", 1, "fp32", "cpu", 1, 1), Point("ddp", 2, "fp32", "cpu", 1, 2)
ROUNDS = (-1, 0, 1)  # how far each is from the middle
Doc = dict[str, Any]


def point(*, ranks: int = 2, timers: dict[str, float] | None = None, **shares: float) -> Doc:
    return {"name": "p", "ranks": ranks, "timers": TIMERS | (timers or {}), "shares": SHARES | shares}


def rounds(own: Doc, *, shares: dict[str, float] | None = None, timers: dict[str, float] | None = None) -> list[Doc]:
    """Three rounds with the point in their middle; what is said of a share or a timer is how far it goes up and down."""
    return [
        {name: {key: value + at * (reach or {}).get(key, 0.0) for key, value in own[name].items()}
         for name, reach in (("shares", shares), ("timers", timers))}
        for at in ROUNDS
    ]  # fmt: skip


def pairs(own: Doc, **reach: dict[str, float]) -> dict[str, Pair]:
    return {pair.name: pair for pair in crosscheck.pairs(own, rounds(own, **reach))}


def said(own: Doc) -> str:
    return crosscheck.words([own | {"checks": [asdict(pair) for pair in pairs(own).values()]}])


def apart(found: dict[str, Pair]) -> list[str]:
    return [name for name, pair in found.items() if pair.apart]


def test_where_bounds_hold_nothing_is_said():
    found = pairs(point())
    assert list(found) == ["input", "waiting", "optimizer", "computing"] and not apart(found)
    assert found["waiting"].timers == pytest.approx(0.08 + 0.05 - 0.02)
    assert found["waiting"].shares == pytest.approx(0.2)
    assert found["computing"].timers == pytest.approx(0.81 + 0.02)
    assert found["computing"].shares == pytest.approx(0.73)
    assert said(point()) == ""


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"timers": {"input": 0.09}}, "input"),
        ({"timers": {"communication": 0.23}}, "waiting"),
        ({"timers": {"optimizer": 0.25}}, "waiting"),  # who clips gradients waits there
        ({"optimizer": 0.15}, "optimizer"),
        ({"compute": 0.76}, "computing"),
        ({"contention": 0.22}, "computing"),
        ({"ranks": 1, "timers": {"optimizer": 0.10}}, "optimizer"),  # alone there is nobody to wait for
    ],
)
def test_a_broken_bound_is_named_with_both_figures(about, name):
    own = point(**about)
    (pair,) = [pair for pair in pairs(own).values() if pair.apart]
    figures = f"p ({name} {pair.timers:.0%} by timers, {pair.shares:.0%} by differences)"
    assert pair.name == name
    assert said(own) == f"Timers and shares are apart by more than 5% of a step: {figures}."


def test_an_optimizer_that_many_ranks_slow_waits_for_nobody():
    """Contention is of the whole step, its optimizer too: what a rank alone takes is less, and that is no exchange."""
    slowed = point(timers={"optimizer": 0.34}, contention=0.35, compute=0.39)
    found = pairs(slowed)
    assert not apart(found)
    assert found["waiting"].timers == pytest.approx(0.08)
    assert found["computing"].timers == pytest.approx(0.81 + 0.30)
    assert found["computing"].shares == pytest.approx(0.85)


def test_contention_hides_no_waiting_and_no_work_that_is_too_much():
    """It stands for what the optimizer takes longer, and for nothing else: a wait that a timer saw is still one."""
    slowed = {"contention": 0.35, "compute": 0.39}
    assert apart(pairs(point(timers={"optimizer": 0.34, "communication": 0.3}, **slowed))) == ["waiting"]
    assert apart(pairs(point(timers={"optimizer": 0.34}, **slowed | {"compute": 0.75}))) == ["computing"]
    assert apart(pairs(point(timers={"optimizer": 0.6}, **slowed))) == ["waiting"]  # longer than contention can make it


@pytest.mark.parametrize(
    ("cause", "broken"), [("communication", "waiting"), ("contention", "computing"), ("optimizer", "optimizer")]
)
def test_a_round_in_which_a_bound_holds_excuses_it(cause, broken):
    own = {
        "communication": point(timers={"communication": 0.28}), "contention": point(contention=0.22),
        "optimizer": point(optimizer=0.15),
    }[cause]  # fmt: skip
    assert apart(pairs(own)) == [broken]
    assert apart(pairs(own, shares={cause: 0.03})) == [broken]  # it scatters, and is broken in every round
    assert apart(pairs(own, shares={cause: 0.2})) == []


def test_what_counts_is_the_difference_of_each_round():
    """A share that moves with its timer is off by the same in every round; one that moves against another cause of the same
    sum does not move the sum. Neither is noise."""
    own = point(compute=0.76)
    assert pairs(own)["computing"].differences == pytest.approx([0.06, 0.06])
    together = pairs(own, shares={"compute": 0.1}, timers={"forward": 0.1})
    assert apart(together) == ["computing"] and together["computing"].differences == pytest.approx([0.06, 0.06])
    assert apart(pairs(own, shares={"compute": 0.1, "launch": -0.1})) == ["computing"]
    assert apart(pairs(own, shares={"compute": 0.04, "launch": 0.04})) == []  # each too little, together enough


def test_a_share_may_be_larger_than_a_wait():
    """Preparing images takes from computing, and exchange hides in the backward, where no timer sees it."""
    assert not apart(pairs(point(input=0.3, communication=0.4, compute=0.1)))


def test_a_point_without_a_probe_has_nothing_to_compare():
    assert crosscheck.pairs({"timers": TIMERS, "shares": None}, []) == []
    own = point()
    unprobed = [row | {"shares": None} for row in rounds(own)]
    assert crosscheck.pairs(own, unprobed) == []
    only = crosscheck.pairs(own, [*unprobed, *rounds(own)[:1]])
    assert [pair.name for pair in only] == ["input", "waiting", "optimizer", "computing"]


def test_timers_that_contradict_shares_in_every_round_are_flagged(tmp_path):
    """Where steps of the run computed for less time than the probe says: in all rounds, or in all but one."""

    def flagged(place: Path, short: tuple[float, ...]) -> tuple[dict[str, Any], str]:
        study = folders.begin(place, [ONE, DDP])
        for number, part in enumerate(short):
            folders.run(study, ONE, number)
            folders.run(study, DDP, number, contention=0.04)
            run = folder.run_of(study, DDP, number)
            for path in run.glob("steps-rank*.parquet"):
                rows = pq.read_table(path).to_pylist()
                pq.write_table(
                    pa.Table.from_pylist([row | {"backward_s": part * row["backward_s"]} for row in rows]), path
                )
        document = result.write(study)
        return document["points"][1], document["verdict"]

    point, said = flagged(tmp_path / "all", (0.7, 0.7, 0.8))
    (check,) = [each for each in point["checks"] if each["apart"]]
    assert check["name"] == "computing" and 0.05 < check["differences"][0] < check["differences"][1]
    assert "timers disagree" in point["flags"]
    assert "Timers and shares are apart" in said and "ddp-2-fp32 (computing" in said
    point, said = flagged(tmp_path / "most", (0.7, 0.7, 1.2))
    assert "timers disagree" not in point["flags"] and "are apart" not in said
