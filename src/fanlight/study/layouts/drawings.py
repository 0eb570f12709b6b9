"""Figures of a study of layouts, as SVG text or PNG bytes. Points are those of points.json, all measured; of what is simulated
(`curves` alone) lines are dashed and marks hollow. A cause has one colour in all of them, and in the reports of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from fanlight.study.drawing import FAINT, INK, clean, drawn, short
from fanlight.study.figures import PART_COLOURS
from fanlight.study.layouts import intervals

CAUSE_COLOURS = {
    "compute": PART_COLOURS["backward"], "launch": "#332288", "optimizer": PART_COLOURS["optimizer"],
    "input": PART_COLOURS["input"], "contention": "#CC79A7", "communication": PART_COLOURS["communication"],
    "straggler": "#882255", "bubble": "#F0E442", "rest": PART_COLOURS["rest"], "unexplained": "#FFFFFF",
}  # fmt: skip
DARK = ("#0072B2", "#D55E00", "#009E73", "#882255", "#332288")  # white numbers stand on these
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#666666")
MARKS = "osD^vPX*"
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
)  # colours and marks come again with the next
LOG_FROM = 8  # cores: with more, the ideal is straight where both axes are logarithmic
ROWS_UP_TO = 40  # points in a figure
ROWS = {
    "speedups": "speedup",
    "shares": "shares",
    "memory": "peak_rss_bytes",
}  # figures with a row per point that has this
NAME_MOST = 34
LABEL_FROM = 0.045  # of a bar: its share is written in it
Doc = Mapping[str, Any]


def has_row(point: Doc, figure: str) -> bool:
    """Whether the figure could show the point, had it room."""
    return point.get(ROWS[figure]) is not None


def speedups(points: Sequence[Doc], *, raster: bool = False) -> str | bytes:
    """Speedup over one core, or one GPU, with its interval; a tick at what all its cores could give."""
    told = [point for point in points if has_row(point, "speedups")]
    rows = told[:ROWS_UP_TO]
    figure, ax = _rows(rows, extra=0.9)
    ideal = [point["cores"] for point in rows]
    ax.plot(ideal, range(len(rows)), "|", ms=13, mew=2.2, color="#B0B0B0", label="all that its cores could give")
    for at, point in enumerate(rows):
        _reach(ax, point, point.get("speedup_interval"), at)
        ax.plot(point["speedup"], at, "o", ms=7, color=INK)
    right = max([*ideal, *(_ends(point)[1] for point in rows)], default=1.0) * 1.02
    for at, point in enumerate(rows):
        ax.annotate(_against(point), (1.0, at), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                    va="center", fontsize=9, color=INK)  # fmt: skip
    ax.plot([], [], "o-", color=INK, ms=6, lw=1.2, label="speedup, 95 % interval")
    ax.axvline(1, color="#8C8C8C", lw=1, ls=":")
    ax.set_xlim(0, right)
    ax.set_xlabel("times one core, or one GPU", color=INK)
    _title(ax, "Speedup over one core (or one GPU) of the same number format", len(rows), len(told))
    _legend(figure, ax)
    return drawn(figure, raster=raster)


def curves(points: Sequence[Doc], *, raster: bool = False) -> str | bytes:
    """Speedup and efficiency against cores, a row per precision; every layout begins at one core. What is simulated is dashed and
    hollow, goes on from the measured point that it names, and has its band behind it."""
    kinds = list(dict.fromkeys((point["device"], point["precision"]) for point in points))
    figure = Figure(figsize=(10.0, 0.6 + 3.3 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), 2, squeeze=False)
    layouts = list(dict.fromkeys(point["layout"] for point in points if point.get("speedup") is not None))
    for (device, precision), (left, right) in zip(kinds, grid):
        mine = [
            p for p in points if (p["device"], p["precision"]) == (device, precision) and p.get("speedup") is not None
        ]
        most = max((point["cores"] for point in mine), default=1)
        ends = sorted({1, *(point["cores"] for point in mine)})
        left.plot(ends, ends, color="#8C8C8C", lw=1.2, ls=(0, (1, 1.5)), label="ideal")
        right.axhline(1, color="#8C8C8C", lw=1.2, ls=(0, (1, 1.5)))
        for name in layouts:
            own = sorted(
                (p for p in mine if p["layout"] == name and p["cores"] > 1), key=lambda p: (p["cores"], p["ranks"])
            )
            number = layouts.index(name)
            shift = 1 + 0.022 * (number - (len(layouts) - 1) / 2)
            style: dict[str, Any] = {
                "color": SERIES[number % len(SERIES)],
                "marker": MARKS[number % len(MARKS)],
                "ms": 5.5,
            }
            for ax, key in ((left, "speedup"), (right, "efficiency")):
                for source, line in (("measured", "-"), ("simulated", (0, (4, 2)))):
                    found = [p for p in own if p["source"] == source]
                    before = _before(own, found[0]) if found and source == "simulated" else []
                    if not found:
                        continue
                    x = [1.0] if not before else [before[0]["cores"] * shift]
                    y = [1.0] if not before else [before[0][key]]
                    x += [p["cores"] * shift for p in found]
                    y += [p[key] for p in found]
                    hollow = {"mfc": "white"} if source == "simulated" else {}
                    label = name if source == "measured" else f"{name}, simulated"
                    ax.plot(x, y, ls=line, lw=1.5, label=short(label, most=NAME_MOST), markevery=slice(1, None), **style,
                            **hollow)  # fmt: skip
                    _band(ax, key, before, found, x, colour=style["color"])
                    for point, at in zip(found, x[1:]):
                        if interval := point.get("speedup_interval"):
                            of = 1 if key == "speedup" else point["cores"]
                            ax.vlines(at, interval[0] / of, interval[1] / of, color=style["color"], lw=1.2)
        unit = "GPUs" if device == "cuda" else "cores"
        clean(left, f"{precision}: speedup over one {unit[:-1]}")
        clean(right, f"{precision}: efficiency, speedup per {unit[:-1]}")
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_xlim(0.9, most * 1.25)
            ax.set_xticks(ends, [str(end) for end in ends])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel(unit, color=INK)
            ax.set_ylim(0, None)
        if most >= LOG_FROM:
            low = min([1.0, *((point.get("speedup_band") or [point["speedup"]])[0] for point in mine)])
            left.set_yscale("log", base=2)
            left.set_ylim(0.85 * low, 1.2 * most)
            left.set_yticks(ends, [str(end) for end in ends])
            left.yaxis.set_minor_locator(NullLocator())
    handles: dict[str, Any] = {}
    for ax in grid[:, 0]:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, labelcolor=INK, fontsize=9
    )
    return drawn(figure, raster=raster)


def _before(own: Sequence[Doc], first: Doc) -> list[Doc]:
    """The measured point that a simulated one goes on from."""
    named = [p for p in own if p["name"] == first.get("goes_on_from")]
    return named or [p for p in own if p["source"] == "measured"][-1:]


def _band(ax: Axes, key: str, before: Sequence[Doc], found: Sequence[Doc], x: Sequence[float], *, colour: str) -> None:
    """Of simulated points, from the measured one on, behind everything else."""
    if not all(point.get(f"{key}_band") for point in found):
        return
    ends = [(before[0][key], before[0][key])] if before else [(1.0, 1.0)]
    ends += [tuple(point[f"{key}_band"]) for point in found]
    ax.fill_between(x, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.13, lw=0, zorder=0.5)


def shares(points: Sequence[Doc], *, raster: bool = False) -> str | bytes:
    """What a step's time is spent on, stacked; what differences found below 0 stands left of it, as noise does."""
    told = [point for point in points if has_row(point, "shares")]
    rows = told[:ROWS_UP_TO]
    figure, ax = _rows(rows, extra=1.5, notes=[f"{1e3 * point['step_s']:,.0f} ms" for point in rows])
    parts = [{**point["shares"], "unexplained": point.get("unexplained") or 0.0} for point in rows]
    right, left = np.zeros(len(rows)), np.zeros(len(rows))
    for cause, colour in CAUSE_COLOURS.items():
        width = np.array([part.get(cause, 0.0) for part in parts])
        start = np.where(width >= 0, right, left)
        style: dict[str, Any] = {"edgecolor": "white", "lw": 0.6}
        if cause == "unexplained":
            style = {"edgecolor": "#555555", "lw": 0.0, "hatch": "xxxx"}
        ax.barh(range(len(rows)), width, left=start, color=colour, label=cause, height=0.68, **style)
        for at in map(int, np.flatnonzero(np.abs(width) >= LABEL_FROM)):
            ink = "white" if colour in DARK else "#111111"
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"} if cause == "unexplained" else None
            ax.text(start[at] + width[at] / 2, at, f"{100 * width[at]:.0f}", ha="center", va="center", color=ink, fontsize=8.5,
                    bbox=box)  # fmt: skip
        right, left = right + np.maximum(width, 0), left + np.minimum(width, 0)
    ax.axvline(0, color="#8C8C8C", lw=0.8)
    ax.axvline(1, color="#8C8C8C", lw=0.8, ls=":")
    ax.set_xlim(min(0.0, float(left.min(initial=0)) * 1.05), max(1.0, float(right.max(initial=0)) * 1.02))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("of the time of a step", color=INK)
    _title(ax, "Where a step's time goes, in percent of it", len(rows), len(told))
    _legend(figure, ax, columns=5)
    return drawn(figure, raster=raster)


def epochs(rows: Sequence[Doc], *, raster: bool = False) -> str | bytes:
    """`rows`: name, epoch_s, interval, first_s (or None). Bars of steady epochs; a mark at the first one."""
    shown = rows[:ROWS_UP_TO]
    figure, ax = _rows(shown, extra=0.9)
    _bars(ax, [row["epoch_s"] for row in shown])
    for at, row in enumerate(shown):
        _reach(ax, row, row["interval"], at)
    first = [np.nan if row["first_s"] is None else row["first_s"] for row in shown]
    if not np.isnan(first).all():
        ax.plot(first, range(len(shown)), "D", color="#D55E00", mfc="white", ms=5, label="first epoch, warm-up and all")
    ax.plot([], [], "s", color="#8FB8D4", ms=8, label="steady epoch, 95 % interval")
    ax.set_xlim(0, None)
    ax.margins(x=0.06)
    ax.set_xlabel("seconds", color=INK)
    _title(ax, "Training time of an epoch", len(shown), len(rows))
    _legend(figure, ax)
    return drawn(figure, raster=raster)


def memory(points: Sequence[Doc], *, raster: bool = False) -> str | bytes:
    """Resident bytes at the peak, over ranks."""
    told = [point for point in points if has_row(point, "memory")]
    rows = told[:ROWS_UP_TO]
    figure, ax = _rows(rows, extra=0.5)
    each = [point["peak_rss_bytes"] / point["ranks"] / 1e9 for point in rows]
    _bars(ax, each)
    for at, (point, size) in enumerate(zip(rows, each)):
        said = f"{size:.2f}" if point["ranks"] == 1 else f"{size:.2f} × {point['ranks']} ranks"
        ax.annotate(said, (size, at), (5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK,
                    bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"})  # fmt: skip
    ax.set_xlim(0, 1.35 * max(each, default=1.0))
    ax.set_xlabel("GB", color=INK)
    _title(ax, "Memory per rank at its peak", len(rows), len(told))
    return drawn(figure, raster=raster)


def accuracies(series: Mapping[str, Mapping[str, Doc]], *, raster: bool = False) -> str | bytes:
    """`series[precision][point]`: seconds and accuracy of each evaluation, their range over seeds at the end."""
    figure = Figure(figsize=(10.0, 0.4 + 3.4 * len(series)), layout="constrained")
    panels = figure.subplots(len(series), 1, squeeze=False)[:, 0]
    names = list(dict.fromkeys(name for found in series.values() for name in found))
    handles: dict[str, Any] = {}
    for ax, (precision, found) in zip(panels, series.items()):
        for name, row in found.items():
            number = names.index(name)
            line, *_ = ax.plot(
                row["seconds"], row["accuracy"], color=SERIES[number % len(SERIES)], marker=MARKS[number % len(MARKS)],
                ls=LINES[number // len(SERIES) % len(LINES)], markevery=[-1], lw=1.4, ms=5,
            )  # fmt: skip
            if row["range"]:
                ax.vlines(row["seconds"][-1], *row["range"], color=line.get_color(), lw=1.2)
            handles.setdefault(short(name, most=NAME_MOST), line)
        clean(ax, f"{precision}: accuracy against seconds of training", grid="both")
        ax.set_xlabel("seconds", color=INK)
        ax.set_xlim(0, None)
        ax.yaxis.set_major_locator(MaxNLocator(6))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, labelcolor=INK, fontsize=9,
                  ncols=1 + len(handles) // 24)  # fmt: skip
    return drawn(figure, raster=raster)


def _rows(rows: Sequence[Doc], *, extra: float, notes: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """A row per point, with its name."""
    figure = Figure(figsize=(9.0, 1.0 + extra + 0.3 * max(len(rows), 2)), layout="constrained")
    ax = figure.subplots()
    names = [short(row["name"], most=NAME_MOST) for row in rows]
    said = [f"{name}  ·  {note}" for name, note in zip(names, notes)] if notes else names
    ax.set_yticks(range(len(rows)), said)
    for text in ax.get_yticklabels():
        text.set(parse_math=False, color=INK)
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    return figure, ax


def _bars(ax: Axes, values: Sequence[float]) -> None:
    ax.barh(range(len(values)), values, color="#8FB8D4", height=0.66, edgecolor="#8FB8D4", lw=1.2)


def _reach(ax: Axes, point: Doc, interval: Sequence[float] | None, at: int) -> None:
    if interval is not None:
        ax.hlines(at, interval[0], interval[1], color=INK, lw=1.3)


def _ends(point: Doc) -> tuple[float, float]:
    low, high = point.get("speedup_interval") or (point["speedup"], point["speedup"])
    return low, min(high, 1.5 * max(point["speedup"], point["cores"]))  # few rounds may have wide intervals


def _against(point: Doc) -> str:
    """Its speedup in words, and over all cores in one process."""
    over = (point.get("over") or {}).get("all_cores")
    said = f"{point['speedup']:.2f}×"
    if over is None or over["point"] == point["name"] or over["cores"] == 1 or point["layout"] == "serial":
        return said
    standing = intervals.standing(over["value"], over["interval"])
    more = f", {standing}" if standing in ("slow-down", "not told apart") else ""
    return f"{said}  ·  {over['value']:.2f}× of all cores{more}"  # SVG joins blanks


def _title(ax: Axes, words: str, shown: int, there: int) -> None:
    clean(ax, words if shown == there or there == 0 else f"{words}: the first {shown} of {there}", grid="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_color(FAINT)


def _legend(figure: Figure, ax: Axes, *, columns: int = 2) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK,
                  fontsize=9)  # fmt: skip
