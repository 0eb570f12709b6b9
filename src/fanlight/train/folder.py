"""A run's folder: made, found, opened, and the refusals. Everything that outlives training is in it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.data import builtin, leftovers
from fanlight.data import manifest as manifests
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError, RunError, Stopped

VERSION = 1  # of run.json
DECIDED = (
    "model.name", "data.image_px", "data.canvas_px", "augment.crop_share", "augment.eval_share", "train.epochs",
    "train.batch_size", "train.precision", "execution.layout",
)  # fmt: skip
LOCK = ".lock"  # held by who trains the run
RUNS = Path("runs")  # where runs go when nothing else is said
WINDOW_BEFORE = 32  # caption.window of every run with captions that began before there was this key


def create(data: str, model: str, *, out: Path | None, parent: Path = RUNS) -> Path:
    """An empty run folder: `out`, or the next free `runs/<data>-<model>-<n>`, by the name that `data` was given, which may be
    a link's."""
    if out is not None:
        check_out(out)
        make(out)
        return out
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in os.path.basename(os.path.abspath(data)) or "data")
    short = model if len(model.split()) == 1 else f"{model.split()[0]}-line"  # a network by a line of text
    for number in range(1, 1_000_000):
        folder = parent / f"{stem}-{short}-{number}"
        try:
            make(folder, exist_ok=False)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def check_out(out: Path | None) -> None:
    """ConfigError where `out` cannot be a new run's folder, because something is there or nobody can look."""
    if out is None:
        return
    try:
        is_there, is_folder = out.exists(), out.is_dir()
        is_taken = is_folder and any(out.iterdir())
    except OSError as error:  # its name is too long, or its content not to be seen
        raise ConfigError(f"--out {out} cannot be looked into: {error.strerror}; name another") from None
    if is_there and not is_folder:
        raise ConfigError(f"--out {out} is a file, and a run is a folder; name another")
    if is_taken:
        raise ConfigError(
            f"--out {out} exists and is not empty; name another, or continue it with --resume {out} if it is a run"
        )


def make(folder: Path, *, exist_ok: bool = True) -> None:
    """Makes the folder or says why it cannot be. FileExistsError where it is there and may not be."""
    try:
        str(folder.absolute()).encode()
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except UnicodeEncodeError:
        raise RunError(f"the run folder's path {str(folder)!r} is not UTF-8; name another with --out") from None
    except FileExistsError as error:
        if folder.exists() and not exist_ok:
            raise
        raise RunError(
            f"cannot make the run folder {folder}: {error.filename} is in the way; name another with --out"
        ) from None
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror}; name another with --out") from None


def read_summary(run: Path) -> dict[str, Any]:
    """`run.json`. RunError where `run` is no run folder, or one of another version."""
    try:
        summary = json.loads((run / "run.json").read_text())
        if not isinstance(summary, dict):
            raise ValueError
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
    with open(part, "w") as file:
        file.write(json.dumps(summary, indent=1))
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave an empty file under the new name
    part.rename(run / "run.json")


def update_summary(run: Path, **facts: Any) -> dict[str, Any]:
    summary = {**read_summary(run), **facts}
    write_summary(run, summary)
    return summary


def read_config(run: Path) -> Config:
    """The config with every choice made. RunError where it is not whole."""
    config = configuration.read(run / "resolved.yaml")
    for key in DECIDED:
        section, name = key.split(".")
        if getattr(getattr(config, section), name) is None:
            raise RunError(
                f"{run / 'resolved.yaml'} lacks {key}, which every run has; put the file back, or train anew"
            )
    if config.caption.window is None and config.caption.longest is not None:
        config = config.with_value("caption.window", WINDOW_BEFORE)
    return config


def check_same(run: Path, config: Config, *, kept: str, checkpoint: str) -> None:
    """RunError where the hash that a `checkpoint` kept of its config is not that of `config`, as it is, as it was before its
    microbatches were doubled for want of memory, or as it was written before there was caption.window."""
    while True:
        found = {config.hash()}
        if config.caption.window in (None, WINDOW_BEFORE):
            found.add(config.hash(without=("caption.window",)))
        if kept in found:
            return
        if config.train.microbatches % 2:
            break
        config = config.with_value("train.microbatches", config.train.microbatches // 2)
    raise RunError(
        f"{run / 'resolved.yaml'} was changed after {checkpoint} was saved, or a version of Fanlight with other keys saved it: "
        "continued, it would be another run; change it back, use the Fanlight named in env.json, or train anew"
    )


def read_manifest(run: Path) -> Manifest:
    """The manifest with every split assigned. RunError where it cannot be read."""
    try:
        return manifests.load(run / "manifest.parquet")
    except RunError as error:  # its way out is for a cache's manifest, and would lose the splits
        raise RunError(f"{str(error).rpartition(';')[0]}; put the file back, or train anew") from None


def check_unchanged(run: Path, manifest: Manifest) -> None:
    """RunError when a file of the run's data has other bytes now, or is gone: the run would not be the same run."""
    import hashlib

    name = manifest.source.removeprefix("built-in ")
    if name in builtin.NAMES:
        _write_again(run, manifest.root, name)
    row_of = {path: row for row, path in enumerate(manifest.column("path"))}
    differing = []
    for path in manifest.changed():
        row = row_of[path]
        if not manifest.ok[row]:
            continue
        try:
            same = hashlib.sha256(manifest.read(row)).hexdigest() == manifest.column("sha256")[row]
        except DataError:  # it is gone, or its archive is
            same = False
        if not same:
            differing.append(path)
    if differing:
        raise RunError(
            f"{len(differing)} file(s) of {manifest.root} changed since {run} began, first {differing[0]}; "
            "put them back, or begin anew"
        )


def _write_again(run: Path, root: Path, name: str) -> None:
    """A built-in data set that a cleared cache lacks; RunError where this Fanlight has another version of it, or cannot."""
    try:
        if root.exists():
            return
        if root.name == builtin.folder_name(name):
            builtin.write(name, cache=root.parent.parent)
            return
    except OSError as error:
        raise RunError(
            f"{root}, the built-in {name} of {run}, is not there and cannot be written again: {error.strerror or error}; make "
            "room or give the right to write there, or train again"
        ) from None
    raise RunError(
        f"{root}, the built-in {name} of {run}, is not there, and this Fanlight writes {builtin.folder_name(name)} only: put "
        "that folder back, evaluate on other images with --data, or train again"
    )


def latest_unfinished(data: str, *, out: Path | None = None, parent: Path = RUNS) -> Path | None:
    """For `--resume auto`: the newest run of `data` that has not finished; with `out` only that one, finished or not."""
    if out is not None:
        return out if (out / "run.json").exists() else None
    found = []
    for summary_path in parent.glob("*/run.json"):
        try:
            summary = read_summary(summary_path.parent)
            if summary["status"] != "finished" and same_data(summary["data"]["path"], data):
                found.append((summary["started"], summary_path.parent))
        except (RunError, KeyError, TypeError):  # of another version, or edited
            continue
    return max(found)[1] if found else None


def same_data(one: str, other: str) -> bool:
    """Whether two `data.path` name the same place or the same built-in set."""
    return one == other or os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Inside, no other process trains this run. RunError where one does.

    The lock is the system's and ends with the process that holds it, however that ends: the file `.lock` may stay."""
    try:
        file = open(run / LOCK, "a+")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise RunError(f"cannot write in the run folder {run}: {error.strerror}") from None
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"{run} is being trained by {file.read(200) or 'another process'}; wait for it to end, or stop it first"
            ) from None
        except (ImportError, OSError):  # a system or a network disk without such locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


@contextlib.contextmanager
def whole_or_gone(run: Path) -> Iterator[None]:
    """Around writing a new run's description: what could be neither resumed nor used again as `--out` does not stay."""
    try:
        yield
    except BaseException as error:
        _discard(run)
        if isinstance(error, OSError):
            raise RunError(
                f"cannot write the run folder {run}: {error.strerror or error}; name another with --out"
            ) from None
        raise


@contextlib.contextmanager
def discarded_when_refused(run: Path) -> Iterator[None]:
    """Around a new run's first start: a config that turns out not to work (ConfigError) leaves no folder behind."""
    try:
        yield
    except ConfigError:
        if not (run / "metrics.jsonl").exists() and not (run / "checkpoints").exists():
            _discard(run)
        raise


def _discard(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    if run.parent == RUNS:
        leftovers.remove([RUNS])


@contextlib.contextmanager
def put_back_when_refused(run: Path) -> Iterator[None]:
    """Around the start of a resumed run: changes that turn out not to work do not stay in its folder, where every later start
    would meet them; nor those of a start that failed before its first step, as on a checkpoint that cannot be read. What
    became of that start stays in run.json. Who stops the run keeps the changes."""
    done = _done(run)
    before = {path: path.read_bytes() for path in (run / "resolved.yaml", run / "run.json") if path.is_file()}
    try:
        yield
    except Exception as error:
        if _done(run) == done and not isinstance(error, Stopped):
            with contextlib.suppress(OSError, RunError):  # of a full disk, of a folder that is gone
                facts = {} if isinstance(error, ConfigError) else read_summary(run)
                for path, content in before.items():
                    part = path.with_name(f"{path.name}.part")
                    part.write_bytes(content)
                    part.rename(path)
                update_summary(run, **{key: facts[key] for key in ("status", "notes", "wall_s") if key in facts})
        raise


def _done(run: Path) -> tuple[list[Path], list[int]]:
    """What shows that steps were done: checkpoints, and the times of steps, which are written however training ends."""
    times = sorted(run.glob("steps-rank*.parquet"))
    return sorted((run / "checkpoints").glob("*")), [path.stat().st_mtime_ns for path in times]
