"""The study as lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fanlight.study.layouts import costs, verdict

HEAD = ("point", "images/s", "95 %", "speedup", "eff.", "accuracy")
SHORT = {
    "input": "input", "compute": "comp.", "contention": "cont.", "communication": "comm.", "straggler": "strag.",
    "bubble": "bubble", "optimizer": "optim.", "launch": "launch", "rest": "rest",
}  # fmt: skip


def lines(study: Mapping[str, Any]) -> list[str]:
    """A row per point; shares in percent of a step; speedup over one core, or one GPU, of the same precision."""
    has = costs.has(study["points"])
    more = {"j_per_image": "J/image"} if has["energy"] else {}
    more |= {"cost_epoch": "cost/epoch", "cost_1000": "cost/1000"} if has["cost"] else {}
    rows = [(*HEAD, *more.values(), *SHORT.values(), "unexpl.", "")]
    for point in study["points"]:
        if point["status"] != "measured":
            rows.append(
                (point["name"], *[""] * (len(HEAD) + len(more) + len(SHORT)), f"{point['status']}: {point['reason']}")
            )
            continue
        ends = "–".join(f"{end:,.1f}" for end in point["interval"] or ())
        figure = [f"{point['images_per_s']:,.1f}", ends or "one round"]
        figure += [
            _number(point["speedup"], "{:.2f}"),
            _number(point["efficiency"], "{:.2f}"),
            _number(point["accuracy"], "{:.3f}"),
        ]
        own = costs.cells(point)
        figure += [costs.amount(own[key]) for key in more]
        parts = [f"{100 * point['shares'][cause]:.0f}" for cause in SHORT]
        notes = [*point["flags"], *([verdict.time_to(point)] if point["to_accuracy"] else [])]
        rows.append((point["name"], *figure, *parts, f"{100 * point['unexplained']:.0f}", "; ".join(notes)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [_line(row, widths) for row in rows]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:])), row[-1]]
    return "  ".join(cells).rstrip()


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
