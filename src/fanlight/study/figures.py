"""Figures of a run, as SVG text or, where an SVG would be large or `raster` asks for it, PNG bytes. K classes."""

from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fanlight.study.drawing import (
    FAINT,
    INK,
    OTHER_COLOUR,
    SPLIT_COLOURS,
    bars_of,
    clean,
    colour_of,
    drawn,
    legend_above,
    name_rows,
    short,
    title_of,
)  # fmt: skip
from fanlight.study.runs import PARTS, steady, step_shares

PART_COLOURS = dict(
    zip((*PARTS, "rest"), ("#E69F00", "#F0E442", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#C8C8C8"))
)
COUNTS_UP_TO = 32  # classes; more and a confusion matrix has no room for numbers in its cells
NAMES_UP_TO = 60  # classes; more and every second, third … name is written
BARS_UP_TO = 40  # classes in a bar chart; of more, the first ones
RANKS_UP_TO = 16  # ranks in the throughput bars
CONFIDENCE_BARS = 20  # in the histogram below the reliability diagram
RATE_POINTS = 120  # groups of neighbouring steps in the throughput line


def curves(metrics: list[dict[str, Any]], *, raster: bool = False) -> str | bytes:
    """Loss, accuracy and learning rate per epoch. A resumed run repeats epochs: the last record counts."""
    figure = Figure(figsize=(10.5, 3.1), layout="constrained")
    axes = figure.subplots(1, 3)
    last = {(_series(record), record["epoch"]): record for record in metrics if "epoch" in record}
    names = list(dict.fromkeys(name for name, _ in last if name))
    for ax, key, title in zip(axes, ("loss", "accuracy", "lr"), ("Loss", "Accuracy", "Learning rate, end of epoch")):
        for name in names:
            points = sorted((e, r[key]) for (n, e), r in last.items() if n == name and r.get(key) is not None)
            if points:
                ax.plot(*zip(*points), label=name, color=colour_of(name), marker="o", ms=3.5, lw=1.8)
        clean(ax, title)
        ax.set_xlabel("epoch", color=INK)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[1].set_ylim(None, 1.0)
    axes[2].set_ylim(0, None)
    if names:
        axes[0].legend(frameon=False, labelcolor=INK)
    return drawn(figure, raster=raster)


def confusion(counts: list[list[int]], classes: list[str], *, raster: bool = False) -> str | bytes:
    """Counts in the cells, colour is the share of the true class (its row)."""
    counts_KK = np.asarray(counts)
    k = len(classes)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.6 + 0.4 * k, 4.2, 10.0))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    ax = figure.subplots()
    norm = PowerNorm(0.6, vmin=0, vmax=1)  # a few mistakes in a large class are still seen
    image = ax.imshow(shares_KK, cmap="Blues", norm=norm, interpolation="nearest")
    every = 1 + (k - 1) // NAMES_UP_TO
    size = float(np.clip(190 / k, 6.5, 10))
    names = [short(name) for name in classes[::every]]
    ax.set_xticks(range(0, k, every), names, rotation=90 if k > 6 else 30, ha="center" if k > 6 else "right")
    ax.set_yticks(range(0, k, every), names)
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set(fontsize=size, color=INK, parse_math=False, rotation_mode="default" if k > 6 else "anchor")
    if k <= COUNTS_UP_TO:
        for row, column in np.argwhere(counts_KK > 0):
            colour = "white" if norm(shares_KK[row, column]) > 0.6 else INK
            ax.text(column, row, str(counts_KK[row, column]), ha="center", va="center", color=colour, fontsize=size)
        lines = np.arange(0.5, k - 1)
        ax.hlines(lines, -0.5, k - 0.5, color=FAINT, lw=0.5)
        ax.vlines(lines, -0.5, k - 0.5, color=FAINT, lw=0.5)
    ax.set_xlabel("predicted", color=INK)
    ax.set_ylabel("true", color=INK)
    ax.tick_params(length=0)
    ax.spines[:].set_color(FAINT)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02, format=PercentFormatter(1.0))
    bar.set_label("share of the true class", color=INK)
    bar.outline.set_visible(False)
    return drawn(figure, raster=raster or k > COUNTS_UP_TO)


def class_counts(counts: dict[str, dict[str, int]], *, raster: bool = False) -> str | bytes:
    """`counts[split][class]` images, largest class first, splits stacked."""
    totals: dict[str, int] = {}
    for by_class in counts.values():
        for name, count in by_class.items():
            totals[name] = totals.get(name, 0) + count
    order = sorted(totals, key=lambda name: (-totals[name], name))[:BARS_UP_TO]
    figure, ax = bars_of(len(order))
    left = np.zeros(len(order))
    for split, by_class in counts.items():
        width = np.array([by_class.get(name, 0) for name in order])
        ax.barh(range(len(order)), width, left=left, label=split, color=colour_of(split), height=0.7)
        left += width
    clean(ax, title_of("Images per class", len(order), len(totals), "largest"), grid="x")
    name_rows(ax, order)
    legend_above(figure, columns=len(counts))
    return drawn(figure, raster=raster)


def f1_bars(per_class: list[dict[str, Any]], *, raster: bool = False) -> str | bytes:
    """F1 of each class as a bar, weakest first, precision and recall as marks."""
    scored = [row for row in per_class if row["count"]]
    rows = sorted(scored, key=lambda row: (row["f1"], row["class"]))[:BARS_UP_TO]
    figure, ax = bars_of(len(rows))
    at = range(len(rows))
    ax.barh(at, [row["f1"] for row in rows], color="#B9D7EA", height=0.7, label="F1")
    for key, marker, colour in (("precision", "D", "#D55E00"), ("recall", "o", "#0072B2")):
        values = [np.nan if row[key] is None else row[key] for row in rows]
        ax.plot(values, at, marker, color=colour, ms=5, label=key, clip_on=False)
    ax.set_xlim(0, 1)
    clean(ax, title_of("F1, precision, recall", len(rows), len(scored), "weakest"), grid="x")
    name_rows(ax, [f"{short(row['class'])} ({row['count']})" for row in rows])
    legend_above(figure, columns=3)
    return drawn(figure, raster=raster)


def reliability(series: dict[str, tuple[list[dict[str, Any]], np.ndarray]], *, raster: bool = False) -> str | bytes:
    """`series[name]` is what calibration.bins gives, and the confidences themselves. Above: how often images are right
    against how sure the network says it is, with 95 % intervals and the number of images; below: how many are how sure."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="#9A9A9A", lw=1, ls="--", label="exact")
    for (name, (bins, confidence_N)), colour in zip(series.items(), (OTHER_COLOUR, SPLIT_COLOURS["train"])):
        x, y = ([row[key] for row in bins] for key in ("confidence", "accuracy"))
        reach = np.abs(np.array([row["interval"] for row in bins]).reshape(-1, 2).T - np.array(y)).clip(0)
        above.errorbar(x, y, reach, label=name, color=colour, marker="o", ms=4, lw=1.4, elinewidth=0.8, alpha=0.85)
        below.hist(confidence_N, bins=CONFIDENCE_BARS, range=(0, 1), histtype="step", color=colour, lw=1.6)
    for row in bins:  # of the last series: every bin's number of images, where there is room
        above.annotate(str(row["count"]), (row["confidence"], row["interval"][0]), (0, -3), textcoords="offset points",
                       ha="center", va="top", fontsize=7, color=INK)  # fmt: skip
    above.set_xlim(0, 1.01)
    above.set_ylim(-0.06, 1.03)
    clean(above, "Right, against the probability that was told")
    clean(below, "Images")
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    below.set_xlabel("probability of the named class", color=INK)
    above.legend(frameon=False, labelcolor=INK, fontsize=9, loc="lower right")
    return drawn(figure, raster=raster)


def throughput(steps: dict[int, pa.Table], *, raster: bool = False) -> str | bytes:
    """Left: shares of a steady step by part, one bar per rank. Right: img/s of all ranks together, step by step."""
    ranks = sorted(steps)[:RANKS_UP_TO]
    figure = Figure(figsize=(10.5, 2.4 + 0.3 * len(ranks)), layout="constrained")
    bars, line = figure.subplots(1, 2, width_ratios=(3, 2))
    left = np.zeros(len(ranks))
    shares = [step_shares(steps[rank]) for rank in ranks]
    for part, colour in PART_COLOURS.items():
        width = np.array([share[part] for share in shares])
        bars.barh(range(len(ranks)), width, left=left, color=colour, label=part, height=0.6)
        for at in np.flatnonzero(width >= 0.06):
            ink = "white" if part in ("backward", "communication", "optimizer") else INK
            bars.text(left[at] + width[at] / 2, at, f"{width[at]:.0%}", ha="center", va="center", color=ink, fontsize=8)
        left += width
    bars.set_xlim(0, 1)
    bars.xaxis.set_major_formatter(PercentFormatter(1.0))
    clean(bars, title_of(f"A step by part ({steady(steps[ranks[0]])[1]})", len(ranks), len(steps), "first"), grid="x")
    name_rows(bars, [f"rank {rank}" for rank in ranks])
    bars.legend(*bars.get_legend_handles_labels(), frameon=False, labelcolor=INK, ncols=4, fontsize=8.5,
                loc="upper center", bbox_to_anchor=(0.5, -0.3 / (0.6 + 0.3 * len(ranks))))  # fmt: skip
    step, images_per_s = _rate(steps)
    parts = [part for part in np.array_split(np.arange(len(step)), RATE_POINTS) if len(part)]
    middle = [step[part].mean() for part in parts]
    low, median, high = ([np.quantile(images_per_s[part], quantile) for part in parts] for quantile in (0.1, 0.5, 0.9))
    line.fill_between(middle, low, high, color="#B9D7EA", lw=0)
    line.plot(middle, median, color="#0072B2", lw=1.6)
    line.set_ylim(0, None)
    clean(line, "Images per second: median, 10–90 % of steps")
    line.set_xlabel("step", color=INK)
    return drawn(figure, raster=raster)


def rates(title: str, rows: list[dict[str, Any]], *, raster: bool = False) -> str | bytes:
    """Images per second of each engine and number of workers as bars, with the least and the greatest of the rounds."""
    rows = rows[:BARS_UP_TO]
    figure, ax = bars_of(len(rows))
    middle = np.array([row["images_per_s"] for row in rows])
    reach = np.abs(np.array([row["interval"] for row in rows]).T - middle)
    names = list(dict.fromkeys(row["engine"] for row in rows))
    palette = ("#9A9A9A", *SPLIT_COLOURS.values(), OTHER_COLOUR, "#56B4E9", "#D55E00", "#F0E442")
    colours = [palette[names.index(row["engine"]) % len(palette)] for row in rows]
    ax.barh(range(len(rows)), middle, xerr=reach, color=colours, height=0.7, error_kw={"ecolor": INK, "lw": 1})
    for at, row in enumerate(rows):
        ax.annotate(f"{row['speedup']:.2f}×", (row["interval"][1], at), (4, 0), textcoords="offset points",
                    va="center", fontsize=8, color=INK)  # fmt: skip
    ax.margins(x=0.12)
    ax.set_xlim(0, None)
    clean(ax, f"{title}: images per second", grid="x")
    name_rows(ax, [f"{row['engine']} · {row['workers']}" for row in rows])
    return drawn(figure, raster=raster)


def _rate(steps: dict[int, pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """Every step, and img/s in it: images of the ranks that had it over the slowest one's time."""
    every = reduce(np.union1d, [table["step"].to_numpy() for table in steps.values()])
    images, slowest_s = np.zeros(len(every)), np.full(len(every), 1e-9)
    for table in steps.values():
        step = table["step"].to_numpy()
        order = np.argsort(step, kind="stable")  # a resumed run repeats steps: the last of them counts
        own = np.unique(step)
        at = order[np.searchsorted(step, own, side="right", sorter=order) - 1]
        place = np.searchsorted(every, own)
        images[place] += table["images"].to_numpy()[at]
        slowest_s[place] = np.maximum(slowest_s[place], table["total_s"].to_numpy()[at])
    return every, images / slowest_s


def _series(record: dict[str, Any]) -> str | None:
    if record.get("kind") == "train":
        return "train"
    return record.get("split") if record.get("kind") == "evaluate" else None
