"""Points of the engines: every operation, and whole packing, by engine and number of workers.

Before anything is timed, each engine's results are compared with the serial ones, byte for byte."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from fanlight import console
from fanlight.data import engines
from fanlight.data import pack as packs
from fanlight.data.engines import Engine, Job, Operation
from fanlight.errors import RunError
from fanlight.study.loading import sample as samples
from fanlight.study.loading.points import Point
from fanlight.study.loading.sample import Sample

WHAT = ("decode", "resize", "normalise", "standardise", "flip", "histogram")
PACK = "pack"


def opened(names: Sequence[str], workers: Sequence[int], stack: ExitStack) -> list[Engine]:
    """Every engine with every number of workers, started; serial once, and first."""
    found = []
    for name in ("serial", *(name for name in names if name != "serial")):
        for count in (1,) if name == "serial" else workers:
            engine = stack.enter_context(engines.of(name, workers=count))
            engine.start()
            found.append(engine)
    return found


def operation(what: str, sample: Sample) -> tuple[Operation, list[Job]]:
    """An operation of WHAT, and what it is done to."""
    chosen = Operation(what, sample.image_px if what == "resize" else 0)
    return chosen, sample.files if chosen.reads_files else sample.pixels


def points(sample: Sample, running: Sequence[Engine], *, folder: Path) -> list[Point]:
    """All of them, compared before. RunError where an engine's pixels differ."""
    found = []
    for what in WHAT:
        chosen, jobs = operation(what, sample)
        works = [partial(engines.results, engine, chosen, jobs) for engine in running]
        compare(what, [(engine.name, partial(_digest, work)) for engine, work in zip(running, works)])
        found += [_point(what, engine, partial(_exhaust, work)) for engine, work in zip(running, works)]
    compare(PACK, [(e.name, partial(_packed, sample, e, folder / f"{e.name}-{e.workers}")) for e in running])
    for engine in running:
        place = folder / f"{engine.name}-{engine.workers}"
        point = _point(PACK, engine, partial(_pack, sample, engine, place))
        point.before = partial(shutil.rmtree, place, ignore_errors=True)
        found.append(point)
    return found


def compare(what: str, digests: Iterable[tuple[str, Callable[[], str]]]) -> None:
    """RunError where one says something else than the first."""
    wanted = ""
    for name, digest in digests:
        found = digest()
        wanted = wanted or found
        if found != wanted:
            raise RunError(
                f"{what}: the results of {name} are not those of one core, so there is nothing to compare; "
                "are the workers' versions of Pillow and OpenCV the same as here?"
            )


def digest_of(arrays: Iterable[np.ndarray | None]) -> str:
    """Names results by all their bytes, in order."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(b"none" if array is None else np.ascontiguousarray(array).data)
    return total.hexdigest()


def _point(what: str, engine: Engine, work: Callable[[], int]) -> Point:
    return Point(what, engine.name, engine.workers, work, start_s=engine.start_s or 0.0)


def _digest(work: Callable[[], Iterable[engines.Result]]) -> str:
    return digest_of(result.pixels for result in work())


def _exhaust(work: Callable[[], Iterable[engines.Result]]) -> int:
    return sum(1 for _ in work())


def _pack(sample: Sample, engine: Engine, folder: Path) -> int:
    with console.quiet():
        packs.make(
            sample.manifest, canvas_px=sample.canvas_px, parent=folder, engine=engine, otherwise=samples.OTHERWISE
        )
    return len(sample)


def _packed(sample: Sample, engine: Engine, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    _pack(sample, engine, folder)
    return digest_of(np.fromfile(path, np.uint8) for path in sorted(folder.rglob("pixels-*.npy")))
