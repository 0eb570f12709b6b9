"""What all figures share: colours, clean axes, names that fit, SVG text or PNG bytes.

matplotlib's object interface only: no pyplot, no window. Colours are Okabe and Ito's, which colour-blind readers tell
apart. Text stays text in an SVG, so that class names in any script are drawn by the reader's fonts."""

import io
import warnings
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SPLIT_COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}
OTHER_COLOUR = "#CC79A7"
INK, FAINT = "#333333", "#E4E4E4"


def save(folder: Path, name: str, drawing: str | bytes) -> Path:
    """Writes `folder/name.svg` or `.png`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{'svg' if isinstance(drawing, str) else 'png'}"
    path.write_bytes(drawing.encode() if isinstance(drawing, str) else drawing)
    return path


def colour_of(split: str) -> str:
    return SPLIT_COLOURS.get(split, OTHER_COLOUR)


def bars_of(rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.0, 1.5 + 0.26 * max(rows, 2)), layout="constrained")
    return figure, figure.subplots()


def name_rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), [short(name, most=32) for name in names])
    for text in ax.get_yticklabels():
        text.set(parse_math=False, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)


def clean(ax: Axes, title: str, *, grid: str = "y") -> None:
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)
    ax.grid(axis=grid, color=FAINT, lw=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK, labelsize=9, length=0)


def legend_above(figure: Figure, *, columns: int) -> None:
    figure.legend(loc="outside upper right", ncols=columns, frameon=False, labelcolor=INK, fontsize=9)


def title_of(what: str, shown: int, there: int, which: str) -> str:
    return what if shown == there else f"{what}: the {which} {shown} of {there}"


def short(name: str, *, most: int = 24) -> str:
    name = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )  # XML has no others
    return name if len(name) <= most else f"{name[: most - 1]}…"


def drawn(figure: Figure, *, raster: bool) -> str | bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fanlight"}), warnings.catch_warnings():
        # Class names may be in a script that matplotlib's font lacks. It only measures them; the browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        if raster:
            figure.savefig(buffer, format="png", dpi=130)
            return buffer.getvalue()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()
