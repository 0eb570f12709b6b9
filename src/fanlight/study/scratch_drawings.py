"""Figures of `fanlight scratch bench`, as SVG text: versions as a staircase, the roofline, speedup against threads and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fanlight.study.drawing import FAINT, INK, clean, drawn, name_rows
from fanlight.study.scratch_page import number

COLOURS = {  # by kind
    "loops": "#882255", "numpy": "#E69F00", "numba": "#0072B2", "triton": "#009E73", "torch": "#666666",
    "torch-compiled": "#999999", "torch-graph": "#BBBBBB",
}  # fmt: skip
MARKS = {"forward": "o", "backward": "s", "step": "D"}
STAIRS = (("convolution", "forward"), ("convolution", "backward"), ("pooling", "forward"), ("dense", "forward"),
          ("step", "step"))  # fmt: skip
THREADED = ("convolution", "pooling", "dense", "step", "epoch")
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#666666")
Doc = dict[str, Any]


def all_of(document: Doc) -> dict[str, tuple[str, str | bytes]]:
    """Name → what it shows, and the drawing; those that have something to show."""
    rows = [row for row in document["rows"] if row["ms"] is not None]
    found: dict[str, tuple[str, str | bytes]] = {}
    stairs = [
        (key, own) for key in STAIRS if len(own := [row for row in rows if (row["op"], row["direction"]) == key]) > 1
    ]
    if stairs:
        found["staircase"] = "Versions, each by its time", staircase(stairs)
    if any(row["flop"] and row["bytes"] and row["format"] == "fp32" for row in rows):
        found["roofline"] = "What was reached under what this machine can do", roofline(rows, document["limits"])
    own = [row for row in rows if row["kind"] == "numba" and row["op"] in THREADED]
    if len({row["threads"] for row in own}) > 1:
        found["threads"] = "Speedup against threads: Numba over itself on one", threads(own)
    if len({row["shape"] for row in rows if row["op"] == "batch"}) > 1:
        found["batch"] = "A training step against its batch", batches([row for row in rows if row["op"] == "batch"])
    return found


def staircase(stairs: Sequence[tuple[tuple[str, str], list[Doc]]]) -> str | bytes:
    """Milliseconds, logarithmic, a bar per version: slowest first, as they came to be."""
    heights = [1.0 + 0.3 * len(rows) for _, rows in stairs]
    figure = Figure(figsize=(8.0, sum(heights)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(stairs), 1, gridspec_kw={"height_ratios": heights}))
    for ax, ((op, direction), rows) in zip(axes, stairs):
        rows = sorted(rows, key=lambda row: -row["ms"])
        low = min(row["ms"] for row in rows) / 3
        ax.barh(range(len(rows)), [row["ms"] - low for row in rows], left=low, height=0.7,
                color=[COLOURS[row["kind"]] for row in rows])  # fmt: skip
        ax.set_xscale("log")
        ax.set_xlim(low, max(row["ms"] for row in rows) * 6)
        for at, row in enumerate(rows):
            words = f"{number(row['ms'])} ms" if row["ms"] < 1000 else f"{number(row['ms'] / 1000)} s"
            ax.text(
                row["ms"], at, f"  {words}{' (a part, scaled)' * row['is_part']}", va="center", fontsize=8.5, color=INK
            )
        clean(
            ax,
            f"{op}, {direction}: {rows[0]['shape']}" if op != direction else f"training step: {rows[0]['shape']}",
            grid="x",
        )
        name_rows(ax, [row["backend"] + f", {row['format']}" * (row["format"] != "fp32") for row in rows])
    return drawn(figure, raster=False)


def roofline(rows: Sequence[Doc], limits: Sequence[Doc]) -> str | bytes:
    """GFLOP/s against operations per byte that has to move; the roof is measured, for one thread and for all."""
    shown = [row for row in rows if row["flop"] and row["bytes"] and row["format"] == "fp32" and row["op"] != "batch"]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    ax = figure.subplots()
    intensity = [row["flop"] / row["bytes"] for row in shown]
    ends = np.geomspace(min(*intensity, 1.0) / 2, max(intensity) * 2, 100)
    roofs = [each for each in limits if each["number_format"] == "fp32"]
    for order, each in enumerate(roofs):
        top = np.minimum(each["bytes_per_s"] * ends, each["flop_per_s"]) / 1e9
        name = "GPU" if each["device"] == "cuda" else f"{each['threads']} thread{'s' * (each['threads'] != 1)}"
        ax.plot(ends, top, color=INK, lw=1.4, ls=("-", "--", ":", "-.")[order % 4])
        ax.annotate(name, (ends[-1], top[-1]), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
    seen = set()
    for row, x in zip(shown, intensity):
        mark = MARKS.get(row["direction"], "^")
        label = row["kind"] if row["kind"] not in seen else None
        seen.add(row["kind"])
        ax.plot(x, row["flop"] / row["ms"] / 1e6, mark, ms=6.5, color=COLOURS[row["kind"]], alpha=0.85, label=label)
    for op in dict.fromkeys(row["op"] for row in shown):
        at = next(x for row, x in zip(shown, intensity) if row["op"] == op)
        ax.annotate(op, (at, 0), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90,
                    ha="right", va="bottom", fontsize=8.5, color="#777777")  # fmt: skip
        ax.axvline(at, color=FAINT, lw=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations per byte of arguments and results", color=INK)
    clean(ax, "GFLOP/s of the plain definition; ● forward, ■ backward", grid="both")
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    return drawn(figure, raster=False)


def threads(own: Sequence[Doc]) -> str | bytes:
    """Numba on T threads over itself on one."""
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.subplots()
    most = max(row["threads"] for row in own)
    ax.plot([1, most], [1, most], color="#8C8C8C", lw=1.2, ls=(0, (1, 1.5)), label="ideal")
    for order, key in enumerate(dict.fromkeys((row["op"], row["direction"]) for row in own)):
        found = sorted((row for row in own if (row["op"], row["direction"]) == key), key=lambda row: row["threads"])
        if found[0]["threads"] != 1:
            continue
        ax.plot([row["threads"] for row in found], [found[0]["ms"] / row["ms"] for row in found], "o-", ms=5, lw=1.5,
                color=SERIES[order % len(SERIES)], label=key[0] if key[0] == key[1] else ", ".join(key))  # fmt: skip
    counts = sorted({row["threads"] for row in own})
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, None)
    ax.set_xlabel("threads", color=INK)
    clean(ax, "Times as fast as on one thread")
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return drawn(figure, raster=False)


def batches(rows: Sequence[Doc]) -> str | bytes:
    """Images per second, and how many times NumPy's, against the batch; PyTorch in its better layout."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    series: dict[tuple[str, str], dict[int, Doc]] = {}
    for row in rows:
        images = int(row["shape"].partition("×")[0])
        best = series.setdefault((row["kind"], row["device"]), {})
        if images not in best or row["ms"] < best[images]["ms"]:
            best[images] = row
    for (kind, device), found in series.items():
        counts = sorted(found)
        style: dict[str, Any] = {
            "color": COLOURS[kind],
            "marker": "o",
            "ms": 5,
            "lw": 1.5,
            "ls": "-" if device == "cpu" else "--",
        }
        left.plot(counts, [1e3 * count / found[count]["ms"] for count in counts], label=f"{kind}, {device}", **style)
        over = [count for count in counts if found[count]["vs_numpy"]]
        right.plot(over, [found[count]["vs_numpy"] for count in over], **style)
    for ax, title in ((left, "Images per second"), (right, "Times as fast as NumPy")):
        ax.set_xscale("log", base=2)
        ticks = sorted({count for found in series.values() for count in found})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("images of a batch", color=INK)
        ax.set_ylim(0, None)
        clean(ax, title)
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return drawn(figure, raster=False)
