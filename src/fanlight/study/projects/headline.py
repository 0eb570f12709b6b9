"""What became of each comparison in one sentence: theirs at its best, then ours at its best with its interval. Of layouts ours is
over one core (or one GPU), and over what needs no parallel layout at all: one process on all cores. Words only; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.study.layouts import intervals
from fanlight.study.projects.recipe import SCORES

Doc = Mapping[str, Any]
STANDINGS = {
    "gain": "", "no gain": ", no gain", "slow-down": ", a slow-down", "not told apart": ", not told apart from it",
}  # fmt: skip


def words(comparisons: Sequence[Doc]) -> list[str]:
    """A sentence per comparison of times or rates; scores stand in its table alone."""
    return [f"{each['title']}: {_theirs(each)}; {_ours(each)}." for each in comparisons if each["unit"] not in SCORES]


def times(ratio: float) -> str:
    """A speedup; of .002 all its digits."""
    return f"{ratio:.3f}×" if ratio < 0.1 else f"{ratio:.2f}×"


def range_of(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    low, high = (times(end).removesuffix("×") for end in interval)
    return f" ({low} … {high})"


def _theirs(each: Doc) -> str:
    """They told no intervals: a single figure is all there is."""
    found = [case for case in each["cases"] if case["reported_ratio"] is not None and case["case"] != each["base"]]
    if not found:
        return "they report no ratio"
    ranked = sorted(found, key=lambda case: case["reported_ratio"])
    least, best = ranked[0], ranked[-1]
    if each["unit"] == "s":
        stands = STANDINGS[intervals.standing(best["reported_ratio"], None)]
        return f"theirs with {best['case']} is {times(best['reported_ratio'])} of {each['base']}{stands}"
    begin = "" if least is best else f"from {times(least['reported_ratio'])} ({least['case']}) to "
    return f"theirs is {begin}{times(best['reported_ratio'])} ({best['case']})"


def _ours(each: Doc) -> str:
    if each["unit"] == "ratio":
        found = [case for case in each["cases"] if case["ratio"] is not None]
        return _span(found) if found else _nothing(each)
    found = [case for case in each["cases"] if case["ratio"] is not None and case["here"] != each["base_here"]]
    if not found:
        return _nothing(each)
    parallel = [case for case in found if case["layout"] not in (None, "serial")]
    best = max(parallel or found, key=lambda case: case["ratio"])
    over = _bases(best)
    if not over:
        return f"here {best['here']} is {_stands(best['ratio'], best['ratio_interval'], best['n'], each['base_here'])}"
    told = [_stands(base["value"], base["interval"], base["n"], name) for name, base in over.items()]
    return f"here {best['here']} is {', and '.join(told)}"


def _bases(case: Doc) -> dict[str, Doc]:
    """What a point is over, each baseline once and in words: no point is over itself."""
    found: dict[str, Doc] = {}
    for kind, base in case["over"].items():
        known = [other["point"] for other in found.values()]
        if base["point"] != case["here"] and base["point"] not in known:
            found[_baseline(kind, base["cores"])] = base
    return found


def _baseline(kind: str, cores: int) -> str:
    if kind == "one_device":
        return "one GPU"
    return {1: "one core", 2: "one process on both cores"}.get(cores, f"one process on all {cores} cores")


def _stands(value: float, interval: Sequence[float] | None, rounds: int, base: str) -> str:
    """A ratio and what may be said of it; of too few rounds that they are few."""
    few = "" if interval is not None else " (a single round)" if rounds == 1 else f" ({rounds} rounds)"
    return f"{times(value)} of {base}{range_of(interval)}{few}{STANDINGS[intervals.standing(value, interval)]}"


def _span(found: Sequence[Doc]) -> str:
    """Of ratios of different work, which have no best: the least and the greatest."""
    ranked = sorted(found, key=lambda case: case["ratio"])
    least, most = ranked[0], ranked[-1]
    ends = [_stands(case["ratio"], case["ratio_interval"], case["n"], "one core") for case in (least, most)]
    if least is most:
        return f"here {most['here']} is {ends[1]}"
    return f"here from {least['here']}, {ends[0]}, to {most['here']}, {ends[1]}"


def _nothing(each: Doc) -> str:
    reason = next((case["reason"] for case in each["cases"] if case["reason"]), "nothing to compare was measured")
    return f"here nothing: {reason}"
