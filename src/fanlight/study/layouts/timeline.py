"""One usual step of every rank as bars of its timers, side by side. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fanlight.study.drawing import FAINT, INK, clean, drawn, short
from fanlight.study.figures import PART_COLOURS

POINTS_UP_TO, RANKS_UP_TO = 12, 8  # of a figure; of a point
LABEL_FROM = 0.07  # of the longest step: its part's milliseconds are written in it


def figure(steps: Mapping[str, Mapping[int, Mapping[str, float]]], *, raster: bool = False) -> str | bytes:
    """`steps[point][rank][part]`, in seconds. Parts stand in their order within a step; one that comes several times in a
    step, as in a pipeline, is drawn as its sum."""
    names = list(steps)[:POINTS_UP_TO]
    rows: list[tuple[float, str, Mapping[str, float]]] = []
    heads: list[tuple[float, str]] = []
    at = 0.0
    for name in names:
        ranks = sorted(steps[name])[:RANKS_UP_TO]
        more = "" if len(ranks) == len(steps[name]) else f", the first {len(ranks)} ranks"
        heads.append((at, short(name, most=40) + more))
        for rank in ranks:
            at += 1
            rows.append((at, f"rank {rank}", steps[name][rank]))
        at += 1.35
    drawing = Figure(figsize=(9.0, 1.5 + 0.25 * at), layout="constrained")
    ax = drawing.subplots()
    longest = max((sum(parts.values()) for *_, parts in rows), default=1.0)
    for part, colour in PART_COLOURS.items():
        left = [_before(parts, part) * 1e3 for *_, parts in rows]
        width = [parts[part] * 1e3 for *_, parts in rows]
        ax.barh(
            [row[0] for row in rows], width, left=left, color=colour, label=part, height=0.8, edgecolor="white", lw=0.5
        )
        ink = "white" if part in ("backward", "communication", "optimizer") else "#111111"
        for (place, *_), start, size in zip(rows, left, width):
            if size >= LABEL_FROM * longest * 1e3:
                ax.text(start + size / 2, place, f"{size:,.0f}", ha="center", va="center", color=ink, fontsize=8)
    for place, words in heads:
        ax.text(0, place + 0.1, words, va="center", fontsize=9.5, color=INK, fontweight="bold", parse_math=False)
    ax.set_yticks([row[0] for row in rows], [row[1] for row in rows])
    ax.set_ylim(at - 0.7, -0.6)
    ax.set_xlim(0, 1.01e3 * longest)
    ax.set_xlabel("milliseconds", color=INK)
    clean(ax, _title(names, list(steps)), grid="x")
    ax.spines["bottom"].set_color(FAINT)
    drawing.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False, labelcolor=INK, fontsize=9
    )
    return drawn(drawing, raster=raster)


def _before(parts: Mapping[str, float], part: str) -> float:
    order = list(PART_COLOURS)
    return sum(parts[each] for each in order[: order.index(part)])


def _title(shown: Sequence[str], there: Sequence[Any]) -> str:
    words = "One usual step of each rank"
    return words if len(shown) == len(there) else f"{words}: the first {len(shown)} of {len(there)} points"
