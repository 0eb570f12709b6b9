"""The folder of a loading study: `study.json` (all), `rows.csv` (the table), `figures/`, `report.html` (one file that needs
no other). Every name in the page may be hostile: autoescape is on, and a policy in the page forbids scripts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanlight.study import pages
from fanlight.study.layouts import folder as folders

COLUMNS = (
    "what", "engine", "workers", "images_per_s", "low", "high", "speedup", "efficiency", "startup_s", "n",
    "pickled_bytes", "note",
)  # fmt: skip


def write(document: dict[str, Any], folder: Path) -> None:
    """Everything that the study leaves."""
    folders.write(folder / "study.json", document)
    _table(document["rows"], folder / "rows.csv")
    (folder / "report.html").write_text(_page(document, folder), encoding="utf-8", errors="replace")


def _table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | dict(zip(("low", "high"), row["interval"])))


def _page(document: dict[str, Any], folder: Path) -> str:
    from fanlight.study import drawing, figures

    by_what: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"]:
        by_what.setdefault(row["what"], []).append(row)
    made = {what: figures.rates(what.capitalize(), rows) for what, rows in by_what.items()}
    for what, drawn in made.items():
        drawing.save(folder / "figures", what.replace(" ", "-"), drawn)
    return pages.render(
        "loading.html", study=document, by_what=by_what, said=document["verdict"].splitlines(),
        figures={what: pages.uri(drawn) for what, drawn in made.items()},
    )  # fmt: skip
