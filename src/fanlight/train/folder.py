"""A run's folder: made, found, opened, and the refusals. Everything that outlives training is in it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.data import builtin
from fanlight.data import manifest as manifests
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, RunError

VERSION = 1  # of run.json
RUNS = Path("runs")  # where runs go when nothing else is said


def create(data: str, model: str, *, out: Path | None, parent: Path = RUNS) -> Path:
    """An empty run folder: `out`, or the next free `runs/<data>-<model>-<n>`."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"--out {out} exists and is not empty; name another, or continue it with --resume {out}")
        make(out)
        return out
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(data).resolve().name or "data")
    for number in range(1, 1_000_000):
        folder = parent / f"{stem}-{model}-{number}"
        try:
            make(folder, exist_ok=False)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def make(folder: Path, *, exist_ok: bool = True) -> None:
    """Makes the folder or says why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror}; name another with --out") from None


def read_summary(run: Path) -> dict[str, Any]:
    """`run.json`. RunError where `run` is no run folder, or one of another version."""
    try:
        summary = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        raise RunError(f"{run} is not a run folder: it has no readable run.json; `fanlight runs` lists them") from None
    if summary.get("version") != VERSION:
        raise RunError(
            f"{run} was written by another version of Fanlight (run version {summary.get('version')!r}, this one reads "
            f"{VERSION}); use the Fanlight named in its env.json, or train again"
        )
    return summary


def write_summary(run: Path, summary: Mapping[str, Any]) -> None:
    """`run.json`, whole or not at all."""
    part = run / "run.json.part"
    part.write_text(json.dumps(summary, indent=1))
    part.rename(run / "run.json")


def update_summary(run: Path, **facts: Any) -> dict[str, Any]:
    summary = {**read_summary(run), **facts}
    write_summary(run, summary)
    return summary


def read_config(run: Path) -> Config:
    """The config with every choice made."""
    return configuration.read(run / "resolved.yaml")


def read_manifest(run: Path) -> Manifest:
    return manifests.load(run / "manifest.parquet")


def check_unchanged(run: Path, manifest: Manifest) -> None:
    """RunError when a file of the run's data has other bytes now, or is gone: the run would not be the same run."""
    import hashlib

    name = manifest.source.removeprefix("built-in ")
    if name in builtin.NAMES and not manifest.root.exists():  # a cleared cache
        builtin.write(name, cache=manifest.root.parent.parent)
    row_of = {path: row for row, path in enumerate(manifest.column("path"))}
    differing = []
    for path in manifest.changed():
        row = row_of[path]
        if not manifest.ok[row]:
            continue
        file = manifest.root / path
        same = file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == manifest.column("sha256")[row]
        if not same:
            differing.append(path)
    if differing:
        raise RunError(
            f"{len(differing)} file(s) of {manifest.root} changed since {run} began, first {differing[0]}; "
            "put them back, or train anew"
        )


def latest_unfinished(data: str, *, out: Path | None = None, parent: Path = RUNS) -> Path | None:
    """For `--resume auto`: the newest run of `data` that has not finished; with `out` only that one, finished or not."""
    if out is not None:
        return out if (out / "run.json").exists() else None
    found = []
    for summary_path in parent.glob("*/run.json"):
        try:
            summary = read_summary(summary_path.parent)
        except RunError:
            continue
        if summary["status"] != "finished" and same_data(summary["data"]["path"], data):
            found.append((summary["started"], summary_path.parent))
    return max(found)[1] if found else None


def same_data(one: str, other: str) -> bool:
    """Whether two `data.path` name the same place or the same built-in set."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


@contextlib.contextmanager
def discarded_when_refused(run: Path) -> Iterator[None]:
    """Around a new run's first start: a config that turns out not to work (ConfigError) leaves no folder behind."""
    try:
        yield
    except ConfigError:
        if not (run / "metrics.jsonl").exists() and not (run / "checkpoints").exists():
            shutil.rmtree(run, ignore_errors=True)
        raise
