"""A study's folder. Nothing in it needs torch to be read:

    study.json      what was asked, the grid, what all points have in common, machine and versions
                    and every start of the study (sessions.py)
    points.json     the result: baselines, points, verdict
    rounds.parquet  a row per point and round        blocks.parquet  a row per block of the probes and rank
    runs/<point>-<round>/   a training run, with probe.json, or failure.json and failure.log where it failed

A run counts when its probe.json is there (in later rounds one without blocks), which is written last: a study that was
killed goes on with the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fanlight.errors import ConfigError, RunError
from fanlight.study.layouts.grid import Point

VERSION = 1  # of study.json and points.json
PLAN, POINTS, PROBE, FAILURE, LOG = "study.json", "points.json", "probe.json", "failure.json", "failure.log"
PLAIN_LIST = re.compile(r"\[\n((?: *[^ \[{\]}].*\n)+) *\]")  # of numbers and words; JSON has no line's end in a word
BEFORE_PLAN = {"runs", "basis.yaml", "manifest.parquet"}  # what is written before study.json
PRUNED = ("checkpoints", "weights")  # of a run that is done or failed: as large as the model, times all runs


def create(data: str, *, out: Path | None, kind: str = "study", inner: str = "runs") -> Path:
    """A new folder, empty but for `inner`: `out`, or the next free runs/<data>-<kind>-<n>."""
    if out is None:
        stem = f"runs/{os.path.basename(os.path.abspath(data))}-{kind}"
        out = next(path for n in range(1, 10_000) if not (path := Path(f"{stem}-{n}")).exists())
    check_free(out)
    try:
        (out / inner).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made: {error.strerror or error}; name another folder") from None
    return out


def check_free(out: Path | None) -> None:
    """ConfigError where `out` is a file or a folder with something in it. Asked before what takes a minute is measured."""
    try:
        is_taken = out is not None and out.exists() and (not out.is_dir() or not _is_unbegun(out))
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise ConfigError(f"--out {out} cannot be used: {error.strerror or error}; name another folder") from None
    if is_taken:
        raise ConfigError(f"--out {out} is there already; name a new folder, or continue a study with --resume {out}")


def _is_unbegun(out: Path) -> bool:
    """Whether nothing would be lost: empty, or what a study left that was killed before its study.json was there."""
    names = {path.name for path in out.iterdir()}
    return names <= BEFORE_PLAN and not any((out / "runs").glob("*"))


def read_plan(study: Path) -> dict[str, Any]:
    """study.json. RunError where `study` is no such folder."""
    try:
        plan = json.loads((study / PLAN).read_text(encoding="utf-8"))
        found = plan["version"], plan["points"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{study} is not a study's folder: it has no readable {PLAN}; begin with: fanlight study DATA"
        ) from None
    if found[0] != VERSION:
        raise RunError(
            f"{study / PLAN} has version {found[0]!r}, this Fanlight reads {VERSION}; use the one that wrote it"
        )
    return plan


def points(plan: Mapping[str, Any]) -> list[Point]:
    return [Point(**each) for each in plan["points"]]


def write(path: Path, document: Any) -> None:
    """JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text(document))
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def text(document: Any) -> str:
    """JSON, a key per line, a list of numbers and words on one. ValueError for a number that JSON has not."""
    written = json.dumps(document, indent=1, allow_nan=False)
    return PLAIN_LIST.sub(lambda found: f"[{' '.join(line.strip() for line in found[1].splitlines())}]", written)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of plain columns; what is no number and no text becomes JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [
        {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in row.items()}
        for row in rows
    ]
    part = path.with_name(f"{path.name}.part")
    names = dict.fromkeys(key for row in plain for key in row)
    pq.write_table(pa.table({name: [row.get(name) for row in plain] for name in names}), part)
    part.rename(path)


def run_of(study: Path, point: Point, number: int) -> Path:
    return study / "runs" / f"{point.name}-{number}"


def is_done(run: Path) -> bool:
    """Whether there is nothing left to do: measured, or failed for a reason that is written down."""
    return (run / PROBE).exists() or (run / FAILURE).exists()


def failure(run: Path) -> str | None:
    try:
        return json.loads((run / FAILURE).read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError):
        return None


def fail(run: Path, reason: str, *, log: str = "") -> None:
    """The run cannot be measured. `log`: where it happened, line by line, for who looks for the cause."""
    run.mkdir(parents=True, exist_ok=True)
    _prune(run)
    with contextlib.suppress(OSError):  # without it the reason still counts
        (run / LOG).write_text(log, encoding="utf-8")
    write(run / FAILURE, {"reason": reason})


def discard(run: Path) -> None:
    """What a killed study left of a run: its times would be of two starts."""
    shutil.rmtree(run, ignore_errors=True)


def put_aside(run: Path) -> Path:
    """What is left of a finished run that cannot be read, under a name that is no run's: who knows why may still want it."""
    aside = run.with_name(f".torn-{run.name}")
    discard(aside)
    return run.rename(aside)


def finish(run: Path, probe: Mapping[str, Any]) -> None:
    """The run is measured."""
    _prune(run)
    write(run / PROBE, probe)


def _prune(run: Path) -> None:
    for name in PRUNED:
        shutil.rmtree(run / name, ignore_errors=True)
