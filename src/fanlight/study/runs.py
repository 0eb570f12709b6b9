"""Run folders: reading one whole, finding many. A run that was killed lacks files and ends in half a line; what can be
read is read, and `missing` says what could not and why. No torch; pyarrow is imported when a table is read."""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.console import seconds_text
from fanlight.errors import RunError, shown

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1  # of run.json
PARTS = ("input", "copy", "forward", "backward", "communication", "optimizer")  # of a step; the rest is `rest`
WARMUP_STEPS = 5  # left out where a run has one epoch only; else the whole first epoch is
SILENT_S = 600.0  # a "running" run that has written nothing for so long was probably killed
SEARCH_DEPTH = 3  # folders below the one asked for


@dataclass(frozen=True)
class RunFolder:
    """What a run folder says. Files that are not there are None or empty."""

    folder: Path
    summary: dict[str, Any]  # run.json
    environment: dict[str, Any]  # env.json
    resolved: dict[str, Any]  # resolved.yaml
    metrics: list[dict[str, Any]]  # metrics.jsonl
    steps: dict[int, "pa.Table"]  # rank -> steps-rank*.parquet
    manifest: "pa.Table | None"
    predictions: "pa.Table | None"
    missing: dict[str, str] = field(default_factory=dict)  # file -> why it could not be read


def read(folder: Path) -> RunFolder:
    """A run folder. RunError where it is none, or where a newer Fanlight wrote it."""
    summary = _summary(folder)
    missing: dict[str, str] = {}
    paths = {int(path.stem.removeprefix("steps-rank")): path for path in folder.glob("steps-rank[0-9]*.parquet")}
    tables = {rank: _parquet(paths[rank], missing) for rank in sorted(paths)}
    if not paths:
        missing["steps-rank0.parquet"] = "not there"
    return RunFolder(
        folder=folder,
        summary=summary,
        environment=_mapping(folder / "env.json", missing),
        resolved=_mapping(folder / "resolved.yaml", missing),
        metrics=_lines(folder / "metrics.jsonl", missing),
        steps={rank: table for rank, table in tables.items() if table is not None and len(table)},
        manifest=_parquet(folder / "manifest.parquet", missing),
        predictions=_parquet(folder / "predictions.parquet", missing),
        missing=missing,
    )


def steady(steps: "pa.Table") -> tuple["pa.Table", str]:
    """The rows after the warm-up, and in words what was left out."""
    import numpy as np

    epochs = steps["epoch"].to_numpy()
    if epochs.min() != epochs.max():
        return steps.filter(np.asarray(epochs > epochs.min())), "first epoch left out"
    if len(steps) > WARMUP_STEPS:
        return steps.slice(WARMUP_STEPS), f"first {WARMUP_STEPS} steps left out"
    return steps, f"all {len(steps)} steps, warm-up included"


def step_shares(steps: "pa.Table") -> dict[str, float]:
    """Share of a steady step that each part takes; with `rest` they sum to 1."""
    rows, _ = steady(steps)
    total_s = float(rows["total_s"].to_numpy().sum())
    parts = {part: float(rows[f"{part}_s"].to_numpy().sum()) for part in PARTS}
    total_s = max(total_s, sum(parts.values())) or 1.0
    shares = {part: part_s / total_s for part, part_s in parts.items()}
    return shares | {"rest": 1.0 - sum(shares.values())}


def headline_split(metrics: dict[str, Any]) -> str | None:
    """The split whose score stands for the run: test before val before any other."""
    return next((split for split in ("test", "val", *metrics) if split in metrics), None)


def find(folder: Path) -> list[dict[str, Any]]:
    """Every run in and below `folder`, newest first. A broken one has status `unreadable` and the reason."""
    if not folder.is_dir():
        raise RunError(f"no folder {folder}; name the folder that holds the runs, or make a run: `fanlight train DATA`")
    found = [_listed(run) for run in _run_folders(folder, depth=SEARCH_DEPTH)]
    return sorted(found, key=lambda run: (-_moment(run), run["folder"]))


def table(found: list[dict[str, Any]], *, folder: Path) -> str:
    """What `fanlight runs` prints."""
    if not found:
        return f"No runs in {folder}. `fanlight train DATA` makes one."
    header = ("run", "status", "model", "data", "accuracy", "wall", "started")
    rows = [header, *(_cells(run) for run in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    broken = [f"{run['folder']}: {run['reason']}" for run in found if run["reason"]]
    return "\n".join(lines + [""] * bool(broken) + broken)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{folder} is not a run folder: run.json: {error.strerror}. "
            "`fanlight runs FOLDER` lists the runs in a folder; `fanlight train DATA` makes one"
        ) from None
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); if a run was killed while writing it, resume that run") from None
    if not isinstance(summary, dict):
        raise RunError(f"{path} should hold one object, got {type(summary).__name__}; train again")
    for key in ("metrics", "data"):
        if not isinstance(summary.get(key) or {}, dict):
            raise RunError(f"{path}: {key} should be an object, got {summary[key]!r}; train again")
    if summary.get("version", VERSION) != VERSION:
        raise RunError(
            f"{path} has version {summary['version']!r}, this Fanlight reads {VERSION}; use the Fanlight that wrote it"
        )
    return summary


def _mapping(path: Path, missing: dict[str, str]) -> dict[str, Any]:
    """A JSON or YAML object; YAML's safe loader reads both."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing[path.name] = "not there"
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        missing[path.name] = _first_line(error)
        return {}
    if not isinstance(document, dict):
        missing[path.name] = f"should hold an object, got {type(document).__name__}"
        return {}
    return document


def _lines(path: Path, missing: dict[str, str]) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file. Half a line, where a run was killed, is left out and counted."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        missing[path.name] = error.strerror or str(error)
        return []
    records, torn = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            torn += 1
    if torn:
        missing[path.name] = f"{torn} of {len(records) + torn} lines cannot be read, as after a kill; the others are"
    return records


def _parquet(path: Path, missing: dict[str, str]) -> "pa.Table | None":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()  # read_table would take `a=b` in a folder's name for a column
    except FileNotFoundError:
        missing[path.name] = "not there"
    except (OSError, pa.ArrowException) as error:
        missing[path.name] = _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_folders(folder: Path, *, depth: int) -> list[Path]:
    if any(os.path.isfile(folder / name) for name in ("run.json", "resolved.yaml")):
        return [folder]
    if depth == 0:
        return []
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    return [run for path in below for run in _run_folders(path, depth=depth - 1)]


def _listed(folder: Path) -> dict[str, Any]:
    listed: dict[str, Any] = dict.fromkeys(("model", "data", "accuracy", "split", "wall_s", "started", "reason"))
    listed |= {"name": folder.name, "folder": str(folder), "status": "unreadable", "silent_s": _silent_s(folder)}
    try:
        summary = _summary(folder)
    except RunError as error:
        return listed | {"reason": str(error)}
    metrics = summary.get("metrics") or {}
    split = headline_split(metrics)
    return listed | {
        "name": summary.get("run") or folder.name,
        "status": summary.get("status", "unknown"),
        "model": summary.get("model"),
        "data": (summary.get("data") or {}).get("path"),
        "accuracy": metrics[split].get("accuracy") if split else None,
        "split": split,
        "wall_s": summary.get("wall_s"),
        "started": summary.get("started"),
    }


def _silent_s(folder: Path) -> float:
    """Seconds since the folder's newest file at top level was written."""
    written = [0.0]
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # renamed meanwhile by a run that writes
            written.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(written))


def _moment(run: dict[str, Any]) -> float:
    """When it started, in seconds of the epoch; where it does not say, when it was last written."""
    try:
        return datetime.fromisoformat(str(run["started"])).timestamp()
    except ValueError:
        return time.time() - run["silent_s"]


def status_text(run: dict[str, Any]) -> str:
    """`running` is believed only of a run that still writes."""
    if run["status"] == "running" and run["silent_s"] > SILENT_S:
        return f"running? silent for {seconds_text(run['silent_s'])}"
    return str(run["status"])


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    accuracy = "" if run["accuracy"] is None else f"{run['accuracy']:.3f} {run['split']}"
    return (
        str(run["name"]),
        status_text(run),
        shown(str(run["model"] or "")),
        Path(str(run["data"] or "")).name,
        accuracy,
        "" if run["wall_s"] is None else seconds_text(run["wall_s"]),
        str(run["started"] or "")[:16].replace("T", " "),
    )
