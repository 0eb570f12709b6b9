"""What a study's folder tells its report: points.json, the table of rounds, and one usual step of every rank. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight.errors import RunError
from fanlight.study import runs
from fanlight.study.layouts import folder

Doc = dict[str, Any]
NEEDED = {"baselines", "causes", "equal", "fits", "flags", "machine", "verdict"}  # of points.json
TIMELINE_RANKS = 16  # of a point; the others look alike


@dataclass(frozen=True)
class Told:
    """A study as its folder has it."""

    folder: Path
    study: Doc  # points.json
    rounds: list[Doc]  # rounds.parquet; columns of JSON text as what they are
    train_images: int | None  # of an epoch
    steps: dict[str, dict[int, Doc]]  # point -> rank -> parts in seconds of one usual step

    @property
    def measured(self) -> list[Doc]:
        """Points that have a rate; what is simulated is under another key of the study."""
        return [point for point in self.study["points"] if point["images_per_s"] is not None]

    def rounds_of(self, name: str) -> list[Doc]:
        return [row for row in self.rounds if row["point"] == name]

    def epoch_s(self, point: Doc) -> float | None:
        """Seconds of training of a steady epoch."""
        return None if self.train_images is None else self.train_images / point["images_per_s"]


def read(study: Path) -> Told:
    """RunError where there is no study, or one without a result."""
    folder.read_plan(study)
    try:
        document = json.loads((study / folder.POINTS).read_text(encoding="utf-8"))
        measured = [point["name"] for point in document["points"] if point["status"] == "measured"]
        if lacking := NEEDED - document.keys():
            raise KeyError(lacking)
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{study} has no readable {folder.POINTS}, which a study writes after every round; go on with: "
            f"fanlight study --resume {study}"
        ) from None
    newest = {name: path for name in measured if (path := _newest(study, name)) is not None}
    steps = {name: found for name, path in newest.items() if (found := _steps(path))}
    return Told(study, document, _rounds(study / "rounds.parquet"), _train_images(newest.values()), steps)


def _rounds(path: Path) -> list[Doc]:
    rows = _rows(path)
    return [
        {key: json.loads(v) if isinstance(v, str) and v[:1] in ("{", "[") else v for key, v in row.items()}
        for row in rows
    ]


def _newest(study: Path, name: str) -> Path | None:
    """The run of a point's last round."""
    found = [path.parent for path in (study / "runs").glob(f"*/{folder.PROBE}")
             if path.parent.name.rpartition("-")[0] == name]  # fmt: skip
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _train_images(found: Any) -> int | None:
    for path in found:
        try:
            return int(json.loads((path / "run.json").read_text(encoding="utf-8"))["data"]["splits"]["train"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _steps(run: Path) -> dict[int, Doc]:
    """Parts of the step, after the warm-up, in which the slowest rank took its usual time."""
    paths = sorted(run.glob("steps-rank[0-9]*.parquet"), key=lambda path: int(path.stem.removeprefix("steps-rank")))
    tables = {}
    for path in paths[:TIMELINE_RANKS]:
        rows = _rows(path)
        first = min((row["epoch"] for row in rows), default=0)
        later = [row for row in rows if row["epoch"] > first] or rows[runs.WARMUP_STEPS :] or rows
        tables[int(path.stem.removeprefix("steps-rank"))] = {row["step"]: row for row in later}
    both = set.intersection(*(set(table) for table in tables.values())) if tables else set()
    if not both:
        return {}
    order = sorted(both, key=lambda step: max(table[step]["total_s"] for table in tables.values()))
    usual = order[len(order) // 2]
    return {
        rank: {part: row[f"{part}_s"] for part in runs.PARTS}
        | {"rest": max(0.0, row["total_s"] - sum(row[f"{part}_s"] for part in runs.PARTS))}
        for rank, table in tables.items() for row in [table[usual]]
    }  # fmt: skip


def _rows(path: Path) -> list[Doc]:
    """Of a table that may be missing or torn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (OSError, pa.ArrowException):
        return []
