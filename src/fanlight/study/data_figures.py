"""Figures of a data set: sizes, and how bright and coloured its classes are. K classes, 3 channels, B bins."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fanlight.study.drawing import FAINT, INK, bars_of, clean, drawn, short

CHANNELS = {"red": "#D55E00", "green": "#009E73", "blue": "#0072B2"}
CLASSES_UP_TO = 24  # panels of histograms
COLUMNS = 6


def sizes(width_N: np.ndarray, height_N: np.ndarray) -> str | bytes:
    """How many images have which width and height, in pixels, both axes logarithmic."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    ax = figure.subplots()
    pairs, count = np.unique(np.stack([width_N, height_N]), axis=1, return_counts=True)
    area = 12 + 180 * count / count.max()
    ax.scatter(pairs[0], pairs[1], s=area, color="#0072B2", alpha=0.45, lw=0)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis, values in ((ax.xaxis, width_N), (ax.yaxis, height_N)):
        low, high = int(np.floor(np.log2(values.min()))), int(np.ceil(np.log2(values.max())))
        axis.set_ticks([2**power for power in range(low, max(high, low + 1) + 1)])
        axis.set_major_formatter(lambda value, _: f"{value:.0f}")
        axis.set_minor_locator(NullLocator())
    clean(ax, "Width and height in pixels; a larger dot is more images")
    ax.grid(axis="both", color=FAINT, lw=0.8)
    ax.set_xlabel("width", color=INK)
    ax.set_ylabel("height", color=INK)
    return drawn(figure, raster=len(count) > 3000)


def colours(share_KCB: np.ndarray, names: list[str]) -> str | bytes:
    """Share of a class's pixels by value, one panel per class (at least one), one line per channel."""
    shown = min(len(names), CLASSES_UP_TO)
    columns = min(shown, COLUMNS)
    rows = -(-shown // columns)
    figure = Figure(figsize=(1.9 * columns + 0.6, 1.45 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    value_B = (np.arange(share_KCB.shape[2]) + 0.5) * 256 / share_KCB.shape[2]
    for number, ax in enumerate(panels.flat):
        if number >= shown:
            ax.set_axis_off()
            continue
        for channel, (name, colour) in enumerate(CHANNELS.items()):
            ax.plot(value_B, share_KCB[number, channel], color=colour, lw=1.3, label=name)
        clean(ax, short(names[number], most=20))
        ax.set_yticks([])
        ax.set_xticks([0, 128, 255])
    panels[0, 0].set_ylim(0, float(np.clip(share_KCB.max() * 1.05, 0.01, 0.35)))
    return drawn(figure, raster=False)


def groups(size_G: np.ndarray) -> str | bytes:
    """How many groups of copies have how many images."""
    size, count = np.unique(size_G, return_counts=True)
    figure, ax = bars_of(4)
    ax.bar(range(len(size)), count, color="#0072B2", width=0.7)
    every = 1 + (len(size) - 1) // 20
    ax.set_xticks(range(0, len(size), every), [str(value) for value in size[::every]])
    clean(ax, "Groups of copies by their number of images")
    return drawn(figure, raster=False)
