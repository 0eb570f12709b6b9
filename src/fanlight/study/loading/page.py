"""The folder of a loading study: `study.json` (all), `rows.csv` (the table), `figures/`, `report.html` (one file that needs
no other). Every name in the page may be hostile: autoescape is on, and a policy in the page forbids scripts."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanlight.console import bytes_text, seconds_text

COLUMNS = (
    "what", "engine", "workers", "images_per_s", "low", "high", "speedup", "efficiency", "startup_s", "n",
    "pickled_bytes", "note",
)  # fmt: skip


def write(document: dict[str, Any], folder: Path) -> None:
    """Everything that the study leaves."""
    (folder / "study.json").write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")
    _table(document["rows"], folder / "rows.csv")
    (folder / "report.html").write_text(_page(document, folder), encoding="utf-8", errors="replace")


def _table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | dict(zip(("low", "high"), row["interval"])))


def _page(document: dict[str, Any], folder: Path) -> str:
    import jinja2

    from fanlight.study import figures

    by_what: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"]:
        by_what.setdefault(row["what"], []).append(row)
    drawings = {}
    for what, rows in by_what.items():
        drawing = figures.rates(what.capitalize(), rows)
        figures.save(folder / "figures", what.replace(" ", "-"), drawing)
        assert isinstance(drawing, str)
        drawings[what] = f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"seconds": seconds_text, "bytes": bytes_text}
    return environment.get_template("loading.html").render(
        study=document, by_what=by_what, figures=drawings, said=document["verdict"].splitlines()
    )
