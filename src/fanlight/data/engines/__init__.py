"""Engines that prepare images: one interface, four places where the work is done, the same pixels from each.

with engines.of("processes", workers=4) as engine:
    for result in engines.results(engine, engines.Operation("canvas", 192), engines.jobs(manifest)):
        ...
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fanlight import machine
from fanlight.data.engines.engine import Engine
from fanlight.data.engines.flow import Result, results, write
from fanlight.data.engines.operations import Operation
from fanlight.data.engines.work import Job
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, near

NAMES = ("serial", "threads", "processes", "dask")
__all__ = ["NAMES", "Engine", "Job", "Operation", "Result", "jobs", "of", "results", "write"]


def of(name: str, *, workers: int | None = None, scheduler: str | None = None) -> Engine:
    """The engine of that name, not started yet. `workers` None: by usable cores; `scheduler`: of Dask, its address.

    ConfigError for an unknown name and for what does not go together."""
    if name not in NAMES:
        raise ConfigError(f"--engine {name!r} is unknown; choose {', '.join(NAMES)}.{near(name, NAMES)}")
    if scheduler and name != "dask":
        raise ConfigError(f"--scheduler {scheduler} is for --engine dask, not for {name}")
    if scheduler and workers:
        raise ConfigError(f"--workers {workers} is for this machine; the scheduler at {scheduler} has its own workers")
    if name == "serial":
        if workers not in (None, 1):
            raise ConfigError(f"--workers {workers}: the engine serial is one; use --engine threads or processes")
        from fanlight.data.engines.serial import Serial

        return Serial(1)
    workers = workers or machine.cores_usable()
    if name == "threads":
        from fanlight.data.engines.threads import Threads

        return Threads(workers)
    if machine.python() is None and not scheduler:
        raise ConfigError(
            f"--engine {name} starts Python again, and this program was frozen or does not know its own; use --engine threads"
        )
    if name == "processes":
        from fanlight.data.engines.processes import Processes

        return Processes(workers)
    from fanlight.data.engines.cluster import Dask

    return Dask(workers, address=scheduler)


def jobs(manifest: Manifest, rows: Sequence[int] | np.ndarray | None = None) -> list[Job]:
    """One job per row of the manifest; None: per usable row. Files must be what the manifest says."""
    chosen = manifest.rows() if rows is None else np.asarray(rows)
    paths, hashes, heights, widths, sizes = (
        manifest.column(name)[chosen] for name in ("path", "sha256", "height", "width", "bytes")
    )
    return [
        Job(str(manifest.root / path), int(height), int(width), int(size), str(sha256))
        for path, height, width, size, sha256 in zip(paths, heights, widths, sizes, hashes)
    ]
