"""The figure and the table of `fanlight scratch curves`, from its curves.json alone. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fanlight.errors import RunError, unwritable
from fanlight.study import drawing
from fanlight.study.drawing import FAINT, INK, clean, drawn
from fanlight.study.layouts.markdown import plain
from fanlight.study.scratch_drawings import COLOURS

FLOOR = 1e-9  # below it float32 tells nothing apart, and a logarithm needs a number
Doc = dict[str, Any]


def write(place: Path) -> Path:
    """curves.svg and curves.md; the path of the latter. RunError where there is no result."""
    try:
        document = json.loads((place / "curves.json").read_text(encoding="utf-8"))
        version = document["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{place} has no readable curves.json; begin anew with: fanlight scratch curves") from None
    if version != 1:
        raise RunError(
            f"{place / 'curves.json'} has version {version!r}, this Fanlight reads 1; use the one that wrote it"
        )
    try:
        (place / "curves.svg").write_bytes(_bytes(figure(document)))
        (place / "curves.md").write_text(markdown(document), encoding="utf-8", errors="replace")
    except OSError as error:
        raise unwritable(error, f"the figure in {place}", otherwise="name another folder by --out") from None
    return place / "curves.md"


def _bytes(picture: str | bytes) -> bytes:
    return picture.encode() if isinstance(picture, str) else picture


def figure(document: Doc) -> str | bytes:
    """Losses, one curve on the other, the first the widest; and how far each is from NumPy in float64, with the tolerance."""
    rows = [row for row in document["rows"] if row["losses"]]
    canvas = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = canvas.subplots(1, 2)
    exact, steps = np.array(document["exact"]), np.arange(1, len(document["exact"]) + 1)
    left.plot(steps, exact, color=FAINT, lw=2.5 + 2.0 * len(rows), label="numpy, float64", solid_capstyle="round")
    for order, row in enumerate(rows):
        colour = COLOURS[row["backend"].partition(",")[0]]
        left.plot(steps, row["losses"], color=colour, lw=1.0 + 1.8 * (len(rows) - 1 - order), label=row["backend"])
        off = np.maximum(np.abs(np.array(row["losses"]) - exact) / np.abs(exact), FLOOR)
        right.plot(steps, off, color=colour, lw=1.3)
    right.axhline(document["tolerance"], color=INK, lw=1.2, ls="--")
    right.annotate(
        "tolerance", (steps[0], document["tolerance"]), (2, 4), textcoords="offset points", fontsize=8.5, color=INK
    )
    right.set_yscale("log")
    clean(left, "Loss from one start")
    clean(right, "|loss − float64's| / float64's")
    for ax in (left, right):
        ax.set_xlabel("step", color=INK)
    drawing.legend_above(canvas, columns=len(rows) + 1)
    return drawn(canvas, raster=False)


def markdown(document: Doc) -> str:
    facts = document["machine"]
    lines = [
        "# Losses of all backends from one start", "",
        plain(f"{facts['cpu']}, {facts['cores_usable']} usable cores; {document['started'][:10]}"), "",
        f"`{document['command']}`", "",
        f"`{document['net']}` on digits of 8 × 8 px, {document['steps']} steps of {document['batch_size']} images, SGD with "
        f"Nesterov momentum {document['momentum']:g} at {document['lr']:g}, float32. Off: the largest |loss − exact| / exact "
        f"over the steps, exact being NumPy in float64; at most {document['tolerance']:g} is right.", "",
        "| backend | first loss | last loss | off | |", "|---|--:|--:|--:|---|",
    ]  # fmt: skip
    exact = document["exact"]
    lines.append(f"| numpy, float64 | {exact[0]:.6f} | {exact[-1]:.6f} | | exact |")
    for row in document["rows"]:
        if not row["losses"]:
            lines.append(f"| {plain(row['backend'])} | | | | {plain(row['reason'])} |")
            continue
        word = "right" if row["passed"] else "wrong"
        lines.append(
            f"| {plain(row['backend'])} | {row['losses'][0]:.6f} | {row['losses'][-1]:.6f} | {row['error']:.1e} | {word} |"
        )
    return "\n".join(lines) + "\n"
