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
import itertools
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
INNER = ("runs", "parts")  # of a study of layouts, and of one of several parts: made first
BEFORE_PLAN = {*INNER, "basis.yaml", "manifest.parquet", ".lock"}  # what is written before study.json
TORN = ("study.json.part", "recipe.json.part", ".manifest.parquet.")  # how a file in the making is called
KEYS = (  # of study.json, without which nothing can be told
    "data", "asked", "rounds", "scaling", "target", "block_s", "repeats", "equal", "images", "machine", "versions", "command",
    "started", "fanlight",
)  # fmt: skip
PRUNED = ("checkpoints", "weights")  # of a run that is done or failed: as large as the model, times all runs


def create(data: str, *, out: Path | None, kind: str = "study", inner: str = "runs") -> Path:
    """A new folder, empty but for `inner`: `out`, or the next free runs/<data>-<kind>-<n>."""
    out = out or _next(Path(f"runs/{os.path.basename(os.path.abspath(data))}-{kind}"))
    check_free(out)
    try:
        (out / inner).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made: {error.strerror or error}; name another folder") from None
    return out


def _next(stem: Path) -> Path:
    """The first <stem>-<n> that is free, made: studies that begin at the same time have one each."""
    for number in itertools.count(1):
        path = Path(f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror or error}; name a folder with --out") from None
        return path
    raise AssertionError("unreachable")


def check_free(out: Path | None) -> None:
    """ConfigError where `out` is a file or a folder with something in it. Asked before what takes a minute is measured."""
    try:
        is_taken = out is not None and out.exists() and (not out.is_dir() or not _is_unbegun(out))
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise ConfigError(f"--out {out} cannot be used: {error.strerror or error}; name another folder") from None
    if is_taken and out is not None:
        raise ConfigError(f"--out {out} is there already; name a new folder{_or_resume(out)}")


def _is_unbegun(out: Path) -> bool:
    """Whether nothing would be lost: empty, or what a study left that was killed before its study.json was there."""
    names = {path.name for path in out.iterdir() if not path.name.startswith(TORN)}
    if not names:
        return True
    # Without the folder that is made first, a manifest or a config is somebody else's.
    begun = any(any((out / inner).glob("*")) for inner in INNER)
    return names <= BEFORE_PLAN and not names.isdisjoint(INNER) and not begun


def _or_resume(out: Path) -> str:
    plan = next((name for name in (PLAN, "recipe.json") if (out / name).exists()), None)
    return f", or continue the study with --resume {out}" if plan else ""


def read_plan(study: Path) -> dict[str, Any]:
    """study.json. RunError where `study` is no such folder, or the file is torn."""
    try:
        written = (study / PLAN).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise RunError(
            f"{study} is not a study's folder: it has no readable {PLAN}; begin with: fanlight study DATA"
        ) from None
    try:
        plan = json.loads(written)
        if (version := plan["version"]) == VERSION:
            points(plan)
            lacking = [key for key in KEYS if key not in plan]
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(
            study, str(error) if isinstance(error, ValueError) else "it lacks its version or points"
        ) from None
    if version != VERSION:
        raise RunError(
            f"{study / PLAN} has version {version!r}, this Fanlight reads {VERSION}; use the one that wrote it"
        )
    if lacking:
        raise _broken(study, f"it lacks {lacking[0]}")
    return plan


def _broken(study: Path, why: str) -> RunError:
    """What a study says whose plan is there and is of no use."""
    return RunError(
        f"{study / PLAN} cannot be read ({why}); put the file back from a copy, or begin another study with --out. What was "
        f"measured stays: fanlight runs {study}"
    )


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
    except (OSError, ValueError, KeyError, TypeError):
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
