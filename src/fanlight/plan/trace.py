"""A simulated step as a Chrome trace: chrome://tracing and Perfetto read it. A process per rank, a thread per lane."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from fanlight.errors import ConfigError, unwritable
from fanlight.plan.simulate import Timeline

BEGIN = b'{"traceEvents"'  # of every file that `document` makes
LANES = ("input", "compute", "communication")


def document(timeline: Timeline, *, title: str) -> dict[str, Any]:
    """Times in microseconds. Everything in it is marked simulated."""
    ranks = sorted({rank for op in timeline.ops for rank in op.ranks})
    events: list[dict[str, Any]] = []
    for rank in ranks:
        events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank} (simulated)"}})
        for number, lane in enumerate(LANES):
            events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": lane}})
    for op, begin, end in zip(timeline.ops, timeline.begins, timeline.ends):
        for rank in op.ranks:
            events.append({
                "ph": "X", "name": op.name, "cat": op.lane, "pid": rank, "tid": LANES.index(op.lane),
                "ts": begin * 1e6, "dur": (end - begin) * 1e6,
            })  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"title": title, "source": "simulated"}}


def check(path: Path) -> None:
    """ConfigError where no file could be written there: before a plan is made, not after it."""
    if path.is_symlink() and not path.exists():
        raise ConfigError(
            f"--trace {path} is a link to {os.readlink(path)}, which is not there; name another file, or delete it"
        )
    if path.is_dir():
        raise ConfigError(f"--trace {path} is a folder; name a file in it, such as {path / 'step.json'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--trace {path}: there is no folder {path.parent}; make it, or name another file")
    if path.is_file() and path.stat().st_size and not _is_trace(path):  # it may be the only copy of something
        raise ConfigError(f"--trace {path} is there already and is no trace; name another file, or delete it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"--trace {path} may not be written; name another file")


def _is_trace(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(BEGIN)) == BEGIN
    return False


def write(path: Path, timeline: Timeline, *, title: str) -> None:
    try:
        path.write_text(json.dumps(document(timeline, title=title)), encoding="utf-8")
    except OSError as error:
        raise unwritable(error, f"--trace {path}", otherwise="name another file") from None
