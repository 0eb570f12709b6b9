"""What the rows mean, in words: which engine pays and from how many images on, which does not and why. Every sentence
rests on something measured in the same study; where nothing measured explains a loss, it says so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from fanlight.console import bytes_text, count_text, seconds_text
from fanlight.data import engines
from fanlight.study.loading import loaders, naive, preparing
from fanlight.study.loading.points import ROUNDS_LEAST, SERIAL, Point

GOOD = 0.7  # of a core's rate per worker; less needs a reason
Row = dict[str, Any]


def explain(rows: Sequence[Row], points: Sequence[Point], *, cores: int) -> None:
    """Fills `note` of the rows that are less than GOOD efficient."""
    for row, point in zip(rows, points):
        if row["engine"] != SERIAL and row["efficiency"] < GOOD and row["what"] not in (loaders.FILES, loaders.PACK):
            row["note"] = _reason(row, point, serial=_serial(rows, row["what"]), cores=cores)


def words(rows: Sequence[Row], *, cores: int) -> list[str]:
    """The verdict: a sentence or two per kind of work."""
    said = []
    for what in (preparing.PACK, *preparing.WHAT):
        of_it = [row for row in rows if row["what"] == what]
        if of_it:
            said.append(_of_engines(what, of_it))
    said += [sentence for sentence in (_pickled(rows), _classes(rows)) if sentence]
    said += _of_loaders(rows)
    most = max(row["workers"] for row in rows)
    if most > cores:
        said.append(f"More workers than the {cores} usable cores cannot be faster; {most} were asked for.")
    return said


def break_even(row: Row, serial: Row) -> int | None:
    """From how many images on an engine, its start included, is done before one core is. None: never."""
    saved_s = 1 / serial["images_per_s"] - 1 / row["images_per_s"]
    return max(1, math.ceil(row["startup_s"] / saved_s)) if saved_s > 0 else None


def loader_ratios(points: Sequence[Point]) -> dict[str, Any]:
    """Fanlight's loader over its pack against DataLoader, at the same number of workers and best against best: medians of
    the rounds' ratios, with the least and the greatest."""
    found: dict[str, Any] = {}
    for name, what in (("over_files_as_written", loaders.FILES), ("over_pack", loaders.PACK)):
        ours = {p.workers: p for p in points if (p.what, p.engine) == (loaders.PACK, loaders.OURS)}
        theirs = {p.workers: p for p in points if (p.what, p.engine) == (what, loaders.THEIRS)}
        if ours and theirs:
            found[name] = {str(count): _ratios(ours[count], theirs[count]) for count in ours if count in theirs}
            found[name]["best"] = _ratios(_best(ours.values()), _best(theirs.values()))
    return found


def _ratios(one: Point, other: Point) -> dict[str, float]:
    ratios = [a / b for a, b in zip(one.rates, other.rates)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "n": len(ratios)}


def _best(points: Any) -> Point:
    return max(points, key=lambda point: statistics.median(point.rates))


def _serial(rows: Sequence[Row], what: str) -> Row:
    return next(row for row in rows if row["what"] == what and row["engine"] == SERIAL)


def _reason(row: Row, point: Point, *, serial: Row, cores: int) -> str:
    compute_us, took_us = 1e6 / serial["images_per_s"], 1e6 * row["workers"] / row["images_per_s"]
    if row["pickled_bytes"]:
        return (
            f"{bytes_text(row['pickled_bytes'])} pickled per image, there and back: {took_us:.0f} µs of a worker's time "
            f"per image, of which {compute_us:.0f} µs are the work"
        )
    if point.tasks and (point.tasks < 4 * row["workers"] or point.largest_task > 1 / row["workers"]):
        share = f"the largest has {point.largest_task:.0%} of the work"
        return f"{point.tasks} classes are {point.tasks} tasks for {row['workers']} workers, and {share}"
    if row["workers"] > cores:
        return f"{count_text(row['workers'], 'worker')} on {count_text(cores, 'usable core')}"
    if row["what"] != preparing.PACK and compute_us < 100:
        return f"{compute_us:.0f} µs of work per image; handing it over and back takes {max(took_us - compute_us, 0):.0f} µs more"
    return (
        f"{took_us:.0f} µs of a worker's time per image instead of {compute_us:.0f}: "
        "what is lost between them was not measured apart"
    )


def _of_engines(what: str, rows: Sequence[Row]) -> str:
    serial = next(row for row in rows if row["engine"] == SERIAL)
    others = [row for row in rows if row["engine"] in engines.NAMES and row is not serial]
    each_us = 1e6 / serial["images_per_s"]
    head = f"{what.capitalize()}: one core does {serial['images_per_s']:,.0f} images/s ({each_us:,.0f} µs each)"
    if (rounds := serial["n"]) < ROUNDS_LEAST:
        return (
            f"{head}; {count_text(rounds, 'round')} cannot tell which engine pays, --rounds {ROUNDS_LEAST} or more can."
        )
    paying = [row for row in others if row["speedup_interval"][0] > 1]
    if not paying:
        return f"{head}; no engine is faster in every round, so none pays here."
    best = max(paying, key=lambda row: row["images_per_s"])
    said = f"{head}; fastest is {_name(best)}, {best['speedup']:.2f} times that"
    least = {row["engine"]: row for row in sorted(paying, key=lambda row: row["images_per_s"])}
    starts = [
        f"{name} from {break_even(row, serial):,} ({seconds_text(row['startup_s'])})" for name, row in least.items()
    ]
    return f"{said}. Start included, they pay from so many images on: {', '.join(starts)}."


def _pickled(rows: Sequence[Row]) -> str:
    pickled = [row for row in rows if row["pickled_bytes"]]
    if not pickled:
        return ""
    slower = [row for row in pickled if row["speedup"] < 1]
    worst = min(pickled, key=lambda row: row["speedup"])
    serial = _serial(rows, worst["what"])
    return (
        f"Pools that pickle whole arrays are slower than one core in {len(slower)} of {len(pickled)} rows. The worst, "
        f"{_name(worst)} for {worst['what']}, reaches {worst['speedup']:.2f} times one core: it pickles "
        f"{bytes_text(worst['pickled_bytes'])} per image, there and back, for {1e6 / serial['images_per_s']:,.0f} µs of work."
    )


def _classes(rows: Sequence[Row]) -> str:
    noted = [row for row in rows if row["engine"] == naive.CLASSES]
    if not noted:
        return ""
    row = max(noted, key=lambda row: (row["what"] == "decode", row["workers"]))
    same = [r for r in rows if (r["what"], r["engine"], r["workers"]) == (row["what"], "processes", row["workers"])]
    beside = f"; equal-cost tasks in as many processes reach {same[0]['speedup']:.2f}" if same else ""
    why = f" ({row['note']})" if row["note"] else ""
    return f"One task per class, {row['what']}, {row['workers']} workers: {row['speedup']:.2f} times one core{why}{beside}."


def _of_loaders(rows: Sequence[Row]) -> list[str]:
    def best(what: str, engine: str) -> Row | None:
        found = [row for row in rows if (row["what"], row["engine"]) == (what, engine)]
        return max(found, key=lambda row: row["images_per_s"], default=None)

    ours, theirs = best(loaders.PACK, loaders.OURS), best(loaders.FILES, loaders.THEIRS)
    packed = best(loaders.PACK, loaders.THEIRS)
    if ours is None or theirs is None or packed is None:
        return []
    ratio, over_pack = ours["images_per_s"] / theirs["images_per_s"], ours["images_per_s"] / packed["images_per_s"]
    return [
        f"Batches: {_name(ours)} over the pack gives {ours['images_per_s']:,.0f} images/s; {_name(theirs)} over files as its "
        f"users write it {theirs['images_per_s']:,.0f} ({ratio:.1f} times less); {_name(packed)} over the same pack "
        f"{packed['images_per_s']:,.0f} (the first is {over_pack:.2f} times that). Each at its best number of workers."
    ]


def _name(row: Row) -> str:
    return f"{row['engine']} with {row['workers']} worker{'s' * (row['workers'] != 1)}"
