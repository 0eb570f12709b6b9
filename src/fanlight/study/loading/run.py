"""`fanlight study DATA --of loading`: which way of preparing images in parallel pays, on these images and this machine.

Measured by engine and number of workers: each operation alone, whole packing, the usual naive ways as rows of their own,
and whole input pipelines. One process, turns in rounds, medians with the least and the greatest.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from fanlight import __version__, console, machine
from fanlight.config import Config
from fanlight.data import checkup, engines, leftovers
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, near, unwritable
from fanlight.study.loading import loaders, naive, points, preparing, verdict
from fanlight.study.loading import sample as samples

BLOCK_S = 0.4  # of work at least per point and round, so that five rounds are two seconds
VERSION = 1  # of study.json
BUSY = 0.15  # of all cores, used by others: more, and the figures are theirs as well
WORKERS_MOST = 1024  # of one machine: more is a slip of the pen, and would end in its memory
LINE = "{:<23} {:<24} {:>7}  {:>9} {:>19}  {:>7} {:>6}  {:>7}  {}"


def study(
    data: str, *, workers: Sequence[int] = (), names: Sequence[str] = (), image_px: int | None = None,
    limit: int | None = None, rounds: int | None = None, block_s: float = BLOCK_S, out: Path | None = None, command: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The JSON object of `study --of loading`, after its folder is written. Empty `workers`: 1, 2, 4 … usable cores; empty
    `names`: all engines that are installed; `rounds` None: points.ROUNDS. ConfigError for what cannot be measured."""
    started, begin = datetime.now().astimezone().isoformat(timespec="seconds"), time.perf_counter()
    check(workers=workers, names=names)
    rounds = rounds or points.ROUNDS
    cores = machine.cores_usable()
    counts, chosen = _counts(workers, cores), _engines(names)
    config, manifest = _decided(data, image_px)
    with _new_folder(out, data) as folder:
        busy = _busy()
        try:
            taken = samples.take(
                manifest, image_px=config.data.image_px or 0, canvas_px=config.data.canvas_px or 0, limit=limit,
                folder=folder / "scratch" / "sample",
            )  # fmt: skip
            console.say(f"Measured on {len(taken)} of {len(manifest.rows())} images, {rounds} rounds; a few minutes")
            measured = _measured(taken, chosen, counts, rounds=rounds, block_s=block_s, folder=folder / "scratch")
        finally:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
        rows = points.rows(measured)
        verdict.explain(rows, measured, cores=cores)
        said = verdict.words(rows, cores=cores)
        if busy > BUSY:
            said.insert(
                0, f"Other programs used {busy:.0%} of the cores when this began: take every figure as preliminary."
            )
        document = {
            "study": str(folder), "version": VERSION, "of": "loading", "data": str(data), "fanlight": __version__,
            "images": len(taken), "images_there": len(manifest.rows()), "image_px": taken.image_px,
            "canvas_px": taken.canvas_px, "rounds": rounds, "block_s": block_s, "rows": rows,
            "loader": verdict.loader_ratios(measured), "verdict": "\n".join(said), "machine": machine.describe(),
            "busy_before": busy,
            "versions": _versions(), "command": command, "started": started, "wall_s": time.perf_counter() - begin,
        }  # fmt: skip
        from fanlight.study.loading import page

        try:
            page.write(document, folder)
        except OSError as error:
            _print(document)  # what was measured is said even where it cannot be kept
            raise unwritable(error, f"--out {error.filename or folder}", otherwise="name another folder") from None
    _print(document)
    console.say(f"Study: {folder}/report.html")
    return document


def _measured(
    taken: samples.Sample, names: Sequence[str], counts: Sequence[int], *, rounds: int, block_s: float, folder: Path
) -> list[points.Point]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # equal for all: parallel over images, never inside one
    try:
        with ExitStack() as stack:
            whole = preparing.points(taken, preparing.opened(names, counts, stack), folder=folder)
            whole += naive.points(taken, naive.opened(counts, stack))
            _rounds(whole, "Preparing", rounds=rounds, block_s=block_s)
        with ExitStack() as stack:  # after the engines have closed: DataLoader forks, and a fork has no threads
            loading = loaders.points(taken, counts, stack)
            _rounds(loading, "Loading", rounds=rounds, block_s=block_s)
    finally:
        torch.set_num_threads(threads)
    return whole + loading


def _rounds(measured: Sequence[points.Point], title: str, *, rounds: int, block_s: float) -> None:
    with console.Progress(title, total=len(measured) * (rounds + 1), unit="turns") as bar:
        points.measure(measured, rounds=rounds, block_s=block_s, tick=bar.advance)


def check(*, workers: Sequence[int], names: Sequence[str]) -> None:
    """ConfigError for numbers and engines that cannot be on any machine."""
    if bad := [count for count in workers if not 1 <= count <= WORKERS_MOST]:
        raise ConfigError(f"--workers {bad[0]}: numbers from 1 to {WORKERS_MOST}, with commas between, such as 1,2,4")
    for name in names:
        if name not in engines.NAMES:
            raise ConfigError(
                f"--engines {name!r} is unknown; choose {', '.join(engines.NAMES)}.{near(name, engines.NAMES)}"
            )


def _counts(workers: Sequence[int], cores: int) -> tuple[int, ...]:
    powers = {2**n for n in range(cores.bit_length()) if 2**n <= cores}
    return tuple(sorted(set(workers) or powers | {cores}))


def _engines(names: Sequence[str]) -> list[str]:
    found = []
    for name in names or engines.NAMES:
        try:
            engines.of(name)
        except ConfigError as error:
            if names:
                raise
            console.warn(f"no rows for {name}", why=str(error), do="Install it, or name the others with --engines")
            continue
        found.append(name)
    return found


def _decided(data: str, image_px: int | None) -> tuple[Config, Manifest]:
    """Sizes as training would have them."""
    from fanlight.train import checks, resolve

    config = Config().with_values({"data.path": data, "data.image_px": image_px})
    checks.check(config)
    manifest = checkup.up_to_date(data, decode=False)
    choices = resolve.Choices(config)
    resolve.sizes(choices, manifest)
    return choices.config, manifest


@contextmanager
def _new_folder(out: Path | None, data: str) -> Iterator[Path]:
    """The study's folder, made; where it does not come to its end, nothing of it stays."""
    if out is None:
        stem = f"runs/{os.path.basename(os.path.abspath(data))}-loading"
        out = next(path for n in range(1, 10_000) if not (path := Path(f"{stem}-{n}")).exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already; name a new folder")
    new = leftovers.missing(out)
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error, f"--out {out}", otherwise="name another folder") from None
        yield out
    except BaseException:
        for path in out.iterdir() if out.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        leftovers.remove(new)
        raise


def _busy() -> float:
    """Share of all cores that other programs use, over a second in which this one sleeps."""
    import psutil

    busy = psutil.cpu_percent(interval=1.0) / 100
    if busy > BUSY:
        console.warn(
            f"other programs use {busy:.0%} of the cores",
            why="What is measured beside them is not what this machine can do",
            do="End them and measure again, or take the figures as preliminary",
        )
    return busy


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("numpy", "pillow", "opencv-python-headless", "torch", "torchvision", "dask", "distributed"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _print(document: dict[str, Any]) -> None:
    console.say(
        LINE.format("what", "engine", "workers", "images/s", "least–greatest", "speedup", "eff.", "start", "").rstrip()
    )
    for row in document["rows"]:
        low, high = row["interval"]
        line = LINE.format(
            row["what"], row["engine"], row["workers"], f"{row['images_per_s']:,.0f}", f"{low:,.0f}–{high:,.0f}",
            f"{row['speedup']:.2f}", f"{row['efficiency']:.2f}", console.seconds_text(row["startup_s"]), row["note"],
        )  # fmt: skip
        console.say(line.rstrip())
    console.say()
    console.say(document["verdict"])
