"""The report of a study of layouts, from its folder alone: `report.html` (one file that needs no other), `report.md`,
`points.csv`, and `figures/` as SVG and PNG. No torch; every name in it may be hostile, and is escaped."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fanlight.study import pages
from fanlight.study.layouts import costs, crosscheck, intervals, markdown, simulated, told, verdict
from fanlight.study.layouts.told import Told

Doc = dict[str, Any]
CHECKED = (
    "In % of a step: by the timers of every rank, and by differences between real steps. Timers of input see the wait alone, and "
    "timers of waiting not what is exchanged within forward and backward: both are at most the share. Computing and the "
    "optimizer are at most what the timers say; of one process the optimizer is the same. Waiting is communication, straggler "
    "and bubble. What the optimizer takes longer among other ranks than alone is computing, by timers, as far as contention can "
    "be the cause, and waiting beyond that. Apart is what breaks a bound by more than 5 % of a step, and does in every round."
)
BEFORE = (
    "Medians of the rounds, in no rate and no speedup. Start is from a run's start to its first step; the first epoch has "
    "compiling and what is done once in it (of a run of one epoch: its first steps). Evaluations are in none of them."
)
MEANING = {
    "compute": "the forward and backward work itself", "launch": "what a step costs whatever its rows: calls, weights, gradients",
    "optimizer": "clipping and moving the weights", "input": "waiting for images, and the cores that prepare them",
    "contention": "the same work, slower beside other ranks: memory bandwidth, caches, clocks, cores",
    "communication": "exchange between ranks that no computing hides",
    "straggler": "waiting for the rank that is always slower", "bubble": "idle places of a pipeline's schedule",
    "rest": "the loop around it",
    "unexplained": "what the training run took and the probes did not find (or found too much of)",
}  # fmt: skip
CAPTIONS = {
    "speedups": "Over one core of the same number format, paired by rounds. The grey tick is a speedup equal to the cores used. "
    "Beside it: the same over one process on all cores, which is what a user has without any parallel layout.",
    "curves": "The dotted line is the ideal: speedup as many times as there are cores. Points at the same number of cores are "
    "drawn side by side.",
    "shares": "Found by differences of real steps with one thing changed. In white, crosshatched: what they do not explain. "
    "Left of 0 stands a difference that came out negative, which is noise; what it is too little, others are too much.",
    "epochs": "Training alone, without evaluation and start.",
    "accuracy": "Median seconds and mean accuracy of the evaluations over the rounds, which are seeds; the bar at the end is the "
    "least and the greatest of them. Seconds are from the first step on and have all evaluations in them up to the mark.",
    "memory": "Of the machine: pages of a rank's own, and its share of those that all ranks have together, at the peak.",
    "timeline": "The run's own timers in the last round, in the step whose slowest rank took its usual time. Parts are drawn in "
    "the order of a step; waiting for other ranks is part of backward and communication here, and of the optimizer where it "
    "clips gradients.",
}  # fmt: skip
GPU_MEMORY = (
    " Of points on GPUs, too, this is the processes' memory in the machine, not the GPU's own, which is not kept."
)
NAMED_MOST = 40  # points that a figure left out
COLUMNS = (
    "name", "layout", "ranks", "precision", "device", "threads", "cores", "status", "reason", "source", "n", "images_per_s",
    "images_per_s_low", "images_per_s_high", "step_s", "epoch_s", "speedup", "speedup_low", "speedup_high", "over_all_cores",
    "over_all_cores_low", "over_all_cores_high", "efficiency", "serial_fraction", "device_gain", "accuracy", "accuracy_gap",
    "accuracy_gap_low", "accuracy_gap_high", "accuracy_p", "to_accuracy_s", "start_s", "warmup_s", "peak_rss_bytes", "flags",
)  # fmt: skip


def write(study: Path) -> Path:
    """Writes the report into a study's folder; returns the page's path. RunError where it has no result."""
    found = told.read(study)
    rows = [_row(found, point) for point in found.study["points"]]
    _table(study / "points.csv", rows, found.study["causes"])
    drawn = _figures(found)
    groups: dict[str, list[Doc]] = {}
    for row in rows:
        if row["images_per_s"] is not None:
            groups.setdefault(row["precision"], []).append(row)
    captions = {name: CAPTIONS[name] + _not_drawn(found, name) for name in drawn}
    if "memory" in drawn and _has(found)["gpus"]:
        captions["memory"] += GPU_MEMORY
    if "curves" in drawn and (beyond := found.study.get("simulated")):
        captions["curves"] += "".join(f" {line}" for line in _about_simulated(beyond))
    page = {**contents(found), "rows": rows, "groups": groups, "captions": captions}
    (study / "report.md").write_text(markdown.text(**page), encoding="utf-8", errors="replace")
    html = pages.render("layouts.html", **page, figures={name: pages.uri(svg) for name, svg in drawn.items()})
    return pages.write(study / "report.html", html)


def contents(found: Told) -> Doc:
    """What the page and the Markdown say, without figures and rows."""
    study = found.study
    said = study["verdict"].splitlines()
    names = tuple(f"{point['name']}: " for point in study["points"])
    used = {flag for point in study["points"] for flag in point["flags"]}
    differs: dict[str, list[str]] = {}
    for point in found.measured:
        for key, (its, base) in (point.get("differs") or {}).items():
            if key not in ("execution.layout", "execution.ranks", "execution.threads"):
                differs.setdefault(f"{key}: {its} (baseline: {base})", []).append(point["name"])
    absent = {point["name"] for point in study["points"] if point["images_per_s"] is None}
    by_point = [line for line in said if line.startswith(names) and line.partition(": ")[0] not in absent]
    return {
        "study": study, "headline": [line for line in said if not line.startswith(names)], "by_point": by_point,
        "tiles": _tiles(found), "flags": {flag: words for flag, words in study["flags"].items() if flag in used},
        "differs": differs, "absent": verdict.absent(study["points"]),
        "meaning": MEANING, "has": _has(found), "rounds": len({row["round"] for row in found.rounds}),
        "wide": _widest(found), "colours": _colours(), "beyond": study.get("simulated"),
        "beyond_words": simulated.words(study["simulated"]) if study.get("simulated") else "",
        "costs": costs.words(study), "amount": costs.amount, "before_words": BEFORE,
        "checked": checked(found), "checked_words": CHECKED,
        "one_unit": "one core or GPU" if _has(found)["gpus"] else "one core",
    }  # fmt: skip


def checked(found: Told) -> list[tuple[str, list[crosscheck.Pair | None]]]:
    """By point: input, waiting, optimizer and computing by both ways; None of what it has not. Studies of an older Fanlight have
    them once `--resume` writes their result again."""
    made = []
    for point in found.measured:
        own = {each["name"]: crosscheck.Pair(**each) for each in point.get("checks") or ()}
        if own:
            made.append((point["name"], [own.get(name) for name in ("input", "waiting", "optimizer", "computing")]))
    return made


def _not_drawn(found: Told, figure: str) -> str:
    """Names of the points that a figure has no room for, in a sentence; nothing where all are in it."""
    from fanlight.study.layouts import drawings, timeline

    names, most = [], drawings.ROWS_UP_TO
    if figure in drawings.ROWS:
        names = [point["name"] for point in found.measured if drawings.has_row(point, figure)]
    elif figure == "epochs":
        names = [row["name"] for row in _epochs(found)]
    elif figure == "timeline":
        names, most = list(found.steps), timeline.POINTS_UP_TO
    left = names[most:]
    if not left:
        return ""
    more = "" if len(left) <= NAMED_MOST else f" and {len(left) - NAMED_MOST} more"
    return f" Left out: {', '.join(left[:NAMED_MOST])}{more}; the table has all."


def _about_simulated(beyond: Doc) -> list[str]:
    """What stands under a figure with simulated curves: what they assume, and how good they are."""
    if not beyond["points"]:
        return []
    return [
        "Dashed and hollow, with a band behind: simulated.",
        beyond["assumed"],
        beyond["band"],
        simulated.words(beyond),
    ]


def _colours() -> Mapping[str, str]:
    from fanlight.study.layouts import drawings

    return drawings.CAUSE_COLOURS


def _has(found: Told) -> dict[str, bool]:
    """Which columns have anything to say."""
    keys = ("device_gain", "to_accuracy", "accuracy", "serial_fraction")
    has = {key: any(point.get(key) is not None for point in found.measured) for key in keys}
    has["serial_fraction"] = any((p.get("serial_fraction") or {}).get("value") is not None for p in found.measured)
    has["gpus"] = any(point["device"] == "cuda" for point in found.measured)
    return has | costs.has(found.measured)


def _widest(found: Told) -> str:
    """The spread of speedups, in words."""
    ends = [(point["speedup_interval"], point["speedup"]) for point in found.measured if point.get("speedup_interval")]
    halves = [(high - low) / 2 / value for (low, high), value in ends if high > low]  # a baseline over itself has none
    if not halves:
        return "one round has no interval"
    median, most = statistics.median(halves), max(halves)
    return f"95 % intervals of speedups are ± {median:.1%} in the middle, ± {most:.1%} at the widest"


def _tiles(found: Told) -> list[tuple[str, str]]:
    study, measured = found.study, found.measured
    made: list[tuple[str, str]] = []
    for kind, what in (("one_core", "one core"), ("all_cores", "one process, all cores"), ("one_device", "one GPU")):
        bases = study["baselines"][kind]
        if bases:
            best = max(bases, key=lambda precision: bases[precision]["images_per_s"])
            if kind != "all_cores" or bases[best]["cores"] > 1:
                made.append((f"{bases[best]['images_per_s']:,.0f}", f"images/s, {what}, {best}"))
    for over, what in (("all_cores", "one process on all cores"), ("one_device", "one GPU")):
        if (fastest := verdict.best(measured, over=over)) is not None:
            made.append((f"{fastest['over'][over]['value']:.2f}×", f"of {what}, at best: {fastest['name']}"))
    gains = [point for point in measured if point.get("device_gain") is not None]
    if gains:
        most = max(gains, key=lambda point: point["device_gain"])
        made.append(
            (f"{most['device_gain']:.1f}×", f"gain of one GPU over all cores of the same machine, {most['precision']}")
        )
    there = len(study["points"])
    return [*made, (f"{len(measured)} of {there}", f"point{'s' * (there != 1)} could be measured here")]


def _row(found: Told, point: Doc) -> Doc:
    """A point as the tables have it."""
    rated = point["images_per_s"] is not None
    over = (point.get("over") or {}).get("all_cores") or {}
    made: Doc = {
        **dict.fromkeys(COLUMNS),
        "to_accuracy": None,
        **point,
        **costs.cells(point),
        "epoch_s": found.epoch_s(point) if rated else None,
        "over_all_cores": over.get("value"),
    }
    ends = {
        "images_per_s": point["interval"], "speedup": point.get("speedup_interval"),
        "over_all_cores": over.get("interval"), "accuracy_gap": point.get("accuracy_gap_interval"),
    }  # fmt: skip
    for key, interval in ends.items():
        made[f"{key}_low"], made[f"{key}_high"] = interval or (None, None)
    made["serial"] = (point.get("serial_fraction") or {}).get("value")
    made["to_accuracy_s"] = (point.get("to_accuracy") or {}).get("median_s")
    names = {kind: each["point"] for kind, each in (point.get("over") or {}).items()}
    made["serial_base"] = point["name"] in (
        names.get("one_core"),
        names.get("one_device"),
    )  # over itself: 1, of no interval
    made["all_base"] = point["name"] == names.get("all_cores")
    made["standing"] = (
        intervals.standing(over["value"], over["interval"])
        if over and point["layout"] != "serial" and not verdict.is_part(point, over)
        else ""
    )
    return made


def _table(path: Path, rows: list[Doc], causes: list[str]) -> None:
    timers = dict.fromkeys(name for row in rows for name in row.get("timers") or {})
    columns = (
        *COLUMNS, *costs.columns(costs.has(rows)), *(f"share_{cause}" for cause in causes), "unexplained",
        *(f"timer_{name}" for name in timers),
    )  # fmt: skip
    with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            parts = {f"share_{cause}": share for cause, share in (row.get("shares") or {}).items()}
            parts |= {f"timer_{name}": share for name, share in (row.get("timers") or {}).items()}
            writer.writerow({**row, **parts, "serial_fraction": row["serial"], "flags": "; ".join(row["flags"])})


def _figures(found: Told) -> dict[str, str]:
    """SVG text of every figure that there are numbers for; each is saved in figures/, as PNG too."""
    from fanlight.study import drawing
    from fanlight.study.layouts import drawings, timeline

    points = found.measured
    make: dict[str, Callable[..., str | bytes]] = {}
    if any(drawings.has_row(point, "speedups") for point in points):
        make["speedups"] = partial(drawings.speedups, points)
    if any(point.get("speedup") is not None and point["cores"] > 1 for point in points):
        further = (found.study.get("simulated") or {"points": []})["points"]
        make["curves"] = partial(drawings.curves, [*points, *further])
    if any(drawings.has_row(point, "shares") for point in points):
        make["shares"] = partial(drawings.shares, points)
    if found.steps:
        make["timeline"] = partial(timeline.figure, found.steps)
    if rows := _epochs(found):
        make["epochs"] = partial(drawings.epochs, rows)
    if series := _curves(found):
        make["accuracy"] = partial(drawings.accuracies, series)
    if any(drawings.has_row(point, "memory") for point in points):
        make["memory"] = partial(drawings.memory, points)
    svgs: dict[str, str] = {}
    for name, draw in make.items():
        drawing.save(found.folder / "figures", name, draw(raster=True))
        svg = draw()
        assert isinstance(svg, str)
        drawing.save(found.folder / "figures", name, svg)
        svgs[name] = svg
    return svgs


def _epochs(found: Told) -> list[Doc]:
    images, rows = found.train_images, []
    for point in found.measured if images else ():
        assert images is not None
        own = found.rounds_of(point["name"])
        first = [row["warmup_s"] for row in own if row["warmup_steps"] >= max(1, images // row["batch_size"])]
        low, high = point["interval"] or (None, None)
        rows.append({
            "name": point["name"], "epoch_s": found.epoch_s(point),
            "interval": low and high and [images / high, images / low],
            "first_s": statistics.median(first) if first else None,
        })  # fmt: skip
    return rows


def _curves(found: Told) -> dict[str, dict[str, Doc]]:
    """By precision and point: the evaluations over the rounds; of runs without any in between, their end alone."""
    made: dict[str, dict[str, Doc]] = {}
    for point in found.measured:
        own = [row for row in found.rounds_of(point["name"]) if row["accuracy"] is not None]
        curves = [row["curve"] or [[row["train_s"], row["accuracy"]]] for row in own]
        count = min(map(len, curves), default=0)
        if not count:
            continue
        last = [curve[-1][1] for curve in curves]
        name = point["name"].removesuffix(f"-{point['precision']}")  # so that it looks alike in every precision
        made.setdefault(point["precision"], {})[name] = {
            "seconds": [statistics.median(curve[at][0] for curve in curves) for at in range(count)],
            "accuracy": [statistics.fmean(curve[at][1] for curve in curves) for at in range(count)],
            "range": [min(last), max(last)] if len(last) > 1 else None,
        }  # fmt: skip
    return made
