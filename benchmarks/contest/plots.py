"""Records of a contest -> SVG: bars of time, curves of accuracy over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contest.contestants import FANLIGHT, FLOOR
from contest.rounds import Record
from contest.tables import grouped
from hardware import median_interval

SVG = {"svg.fonttype": "none", "svg.hashsalt": "fanlight"}  # text stays text, and the same numbers give the same file


def bars(records: Sequence[Record], path: Path, *, title: str) -> None:
    """Seconds from Enter to the end of validation, medians with 95 % intervals, fastest on top; the floor as a line."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = {name: median_interval([r["validated_s"] for r in mine]) for name, mine in grouped(records).items()}
    names = sorted(found, key=lambda name: -found[name][0])
    middles = np.array([found[name][0] for name in names])
    errors = np.array([[found[name][0] - found[name][1], found[name][2] - found[name][0]] for name in names]).T
    with plt.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(8, 0.8 + 0.34 * len(names)), layout="constrained")
        axes.barh(names, middles, xerr=errors, color=[_colour(name) for name in names], ecolor="#333333", height=0.7)
        if FLOOR in found:
            axes.axvline(found[FLOOR][0], color="#333333", linewidth=1, linestyle=":")
        axes.set(title=title, xlabel="seconds from Enter to the end of validation (median, 95 %)")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def curves(records: Sequence[Record], path: Path, *, title: str) -> None:
    """Validation accuracy over seconds from Enter, a line per run, a colour per contestant."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    runs = {name: mine for name, mine in grouped(records).items() if mine[0]["accuracy"] is not None}
    colours = dict(zip(runs, plt.get_cmap("tab20").colors * 2))
    with plt.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        for name, mine in runs.items():
            for index, record in enumerate(mine):
                seconds, accuracies = zip(*record["curve"])
                style = {"linewidth": 2.2, "color": "#d1495b"} if name == FANLIGHT else {"color": colours[name]}
                axes.plot(seconds, accuracies, alpha=0.85, label=name if index == 0 else None, **style)
        axes.set(title=title, xlabel="seconds from Enter", ylabel="validation accuracy")
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        if runs:
            axes.legend(fontsize=8)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _colour(name: str) -> str:
    if name == FLOOR:
        return "#bbbbbb"
    return "#d1495b" if name.startswith(FANLIGHT) else "#30638e"
