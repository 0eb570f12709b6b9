"""`fanlight scratch bench`: every subject with all its contestants, right before fast, to a folder:

bench.json   the result, as `--json` prints it        bench.md   its tables
report.html  the page, with figures/                  (study.scratch writes both from bench.json)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanlight import __version__, console, machine
from fanlight.errors import ConfigError, near, unwritable
from fanlight.scratch.bench import contestants, limits, measured, networks, reported, subjects
from fanlight.scratch.bench.contestants import BACKENDS, FORMATS, Field
from fanlight.scratch.bench.limits import Limit

RESULT = "bench.json"
VERSION = 1
ROUNDS, QUICK_ROUNDS = 15, 3
BUSY = 0.5  # processes that want to run, on the average of the last minute
NOT_QUICK = ("torch-compiled",)  # compiling takes longer than all else
Doc = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the user set; empty or None: the default."""

    ops: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("fp32",)
    rounds: int | None = None
    threads: int | None = None
    quick: bool = False
    time_limit_s: float | None = None


def bench(asked: Asked, *, out: Path | None, command: str) -> Doc:
    """Measures, writes bench.json and returns it. ConfigError for what cannot be asked."""
    has_gpu = torch.cuda.is_available()
    ops, backends = _checked(asked, has_gpu=has_gpu)
    rounds = asked.rounds if asked.rounds is not None else QUICK_ROUNDS if asked.quick else ROUNDS
    threads = asked.threads or machine.cores_usable()
    place = _folder(out)
    machine.keep_freed_memory()  # what allocates anew at each call, as PyTorch does, would ask the system for every page
    document: Doc = {
        "version": VERSION, "bench": str(place), "command": command, "machine": machine.describe(), "quick": asked.quick,
        "gpu": torch.cuda.get_device_name(0) if has_gpu else None, "rounds": rounds, "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"torch": torch.__version__, "numpy": np.__version__}, "fanlight": __version__,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip
    if (document["load"] or 0) > BUSY:
        console.warn(
            f"this machine is busy: {document['load']:.1f} processes want its {machine.cores_usable()} cores",
            why="What others compute is in every time here, and more of it in those of many threads",
            do="Run it again when nothing else does",
        )  # fmt: skip
    begin = time.monotonic()
    with torch.no_grad():
        console.say(f"Limits of this machine, on {', '.join(map(str, contestants.thread_counts(threads)))} threads …")
        found = limits.of_cpu(contestants.thread_counts(threads))
        for each in found:
            console.say(f"  {each.threads} threads: a copy {each.bytes_per_s / 1e9:.1f} GB/s, a product "
                        f"{each.flop_per_s / 1e9:.0f} GFLOP/s")  # fmt: skip
        rows: list[Doc] = []
        left: list[str] = []
        for number_format in asked.formats or ("fp32",):
            if has_gpu:
                found.append(limits.of_gpu(number_format))
            field = Field(backends, threads, has_gpu, number_format)
            for title, work in _questions(ops, field, found, rounds=rounds):
                if asked.time_limit_s is not None and time.monotonic() - begin > asked.time_limit_s:
                    left.append(f"{title}, {number_format}")
                    continue
                made = work()
                rows += made
                _say(made)
    document |= {
        "limits": [asdict(each) for each in found], "rows": rows, "left_out": left, "beside": reported.beside(rows),
        "measured_s": time.monotonic() - begin,
    }  # fmt: skip
    _write(place / RESULT, document)
    return document


def _checked(asked: Asked, *, has_gpu: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Groups and backends, or ConfigError."""
    for given, names, option in (
        (asked.ops, subjects.NAMES, "--ops"),
        (asked.backends, BACKENDS, "--backends"),
        (asked.formats, tuple(FORMATS), "--formats"),
    ):
        for word in given:
            if word not in names:
                raise ConfigError(
                    f"{option} {word!r} does not exist; use some of {', '.join(names)}.{near(word, names)}"
                )
    if asked.rounds is not None and asked.rounds < 1:
        raise ConfigError(f"--rounds {asked.rounds} measures nothing; use 1 or more, at least 3 for a spread")
    cores = machine.cores_usable()
    if asked.threads is not None and not 1 <= asked.threads <= cores:
        raise ConfigError(f"--threads {asked.threads}: this process may use {cores} cores; use 1 to {cores}")
    without = contestants.without_triton()
    on_gpu = {"triton"} if without is not None else set()
    on_gpu |= set() if has_gpu else {"torch-graph"}
    if asked.backends and set(asked.backends) <= on_gpu:
        why = without or "torch sees no GPU"
        raise ConfigError(
            f"--backends {','.join(asked.backends)} leaves nothing to measure here: {why}. Add numpy, numba or torch"
        )
    if not has_gpu and asked.formats and "fp32" not in asked.formats:
        raise ConfigError(f"--formats {','.join(asked.formats)} are timed on GPUs, and torch sees none; use fp32")
    left = NOT_QUICK if asked.quick else ()
    ops = asked.ops or subjects.DEFAULT
    backends = asked.backends or tuple(name for name in BACKENDS if name not in left)
    if not any(
        contestants.answers(backend, op, number_format=number_format, has_gpu=has_gpu)
        for backend in backends for op in ops for number_format in asked.formats or ("fp32",)
    ):  # fmt: skip
        raise ConfigError(
            f"--backends {','.join(backends)} have nothing to answer in --ops {','.join(ops)}, --formats "
            f"{','.join(asked.formats)}: loops take part in no batch, torch-compiled and torch-graph in no epoch, and CPUs "
            "compute in fp32. Add numpy, numba or torch, other --ops, or --formats fp32"
        )
    return ops, backends


def _folder(out: Path | None) -> Path:
    if out is None:
        out = next(path for n in range(1, 10_000) if not (path := Path(f"runs/scratch-bench-{n}")).exists())
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"--out {out} is there already; name a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error, f"--out {out}", otherwise="name another folder") from None
    return out


def _write(path: Path, document: Doc) -> None:
    try:
        path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise unwritable(error, f"{path}", otherwise="name another folder by --out") from None


def _questions(
    ops: Sequence[str], field: Field, found: Sequence[Limit], *, rounds: int
) -> Iterator[tuple[str, Callable[[], list[Doc]]]]:
    """A title and the rows of each question, to be measured when asked for."""
    for name in ops:
        how: dict[str, Any] = {"number_format": field.number_format, "has_gpu": field.has_gpu}
        if not any(contestants.answers(backend, name, **how) for backend in field.backends):
            continue
        if name == "epoch":
            yield "epoch", lambda: measured.of_epoch(field, rounds=min(rounds, 3))
        elif name in ("step", "batch"):
            for batch in (networks.BATCH,) if name == "step" else networks.BATCHES:
                step = networks.StepSubject(name, batch)
                yield f"{name}, {step.shape}", partial(measured.of_step, step, field, found, rounds=rounds)
        else:
            for each in subjects.GROUPS[name]:
                title = f"{each.op}, {each.direction}: {each.shape}"
                yield title, partial(measured.of_operator, each, field, found, rounds=rounds)


def _say(rows: list[Doc]) -> None:
    first = rows[0]
    console.say(f"{first['op']}, {first['direction']}, {first['shape']}")
    for row in rows:
        if row["ms"] is None:
            console.say(f"  {row['backend']}: {row['reason']}")
        else:
            ratio = f", {row['vs_numpy']:.3g} × NumPy" if row["vs_numpy"] else ""
            console.say(f"  {row['backend']}: {row['ms']:.3g} ms{ratio}")
