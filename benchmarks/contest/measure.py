"""One command run as a user runs it, in a process of its own: wall seconds, processor seconds, peak memory, its output.

Memory is the sum over the process and its children of PSS (shared pages divided among those who share them), sampled;
where the system has no PSS, of RSS. Processor seconds are what the system counts for the process and the children that it
waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 1.0  # at least, between two samples of memory
SAMPLE_SHARE = 0.005  # of a core, at most: reading PSS walks every page, .1 s for some gigabytes
GRACE_S = 10.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Finished:
    """What a process left."""

    began: float  # seconds since 1970
    wall_s: float
    cpu_s: float
    peak_bytes: int
    code: int  # of exit; negative: the signal that ended it
    is_capped: bool  # ended because it ran past its time
    output: str
    errors: str


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cap_s: float | None = None,
    sample_s: float = SAMPLE_S,
    share: float = SAMPLE_SHARE,
) -> Finished:
    """Runs it to its end, or to `cap_s`. Its standard output and errors are kept as `log` with .out and .err."""
    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    ended = threading.Event()
    result: dict[str, float | int] = {}
    with out.open("wb") as out_file, err.open("wb") as err_file:
        began, begin = time.time(), time.perf_counter()
        process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdout=out_file,
            stderr=err_file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

        def wait() -> None:
            _, status, used = os.wait4(process.pid, 0)
            result["wall_s"] = time.perf_counter() - begin
            result["code"], result["cpu_s"] = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
            ended.set()

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        peak, is_capped = 0, False
        try:
            pause_s = sample_s
            while not ended.wait(pause_s):
                asked = time.perf_counter()
                peak = max(peak, tree_bytes(process.pid))
                pause_s = max(sample_s, (time.perf_counter() - asked) / share)
                if cap_s is not None and time.perf_counter() - begin > cap_s:
                    is_capped = True
                    _end(process.pid, ended)
        finally:
            if not ended.is_set():  # Ctrl-C here: nothing is left running
                _end(process.pid, ended)
        waiter.join()
    process.returncode = int(result["code"])
    return Finished(
        began, float(result["wall_s"]), float(result["cpu_s"]), peak, int(result["code"]), is_capped,
        out.read_text(errors="replace"), err.read_text(errors="replace"),
    )  # fmt: skip


def tree_bytes(pid: int) -> int:
    """Memory of the process and everything it started, shared pages once where the system says."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                full = process.memory_full_info()
                total += getattr(full, "pss", full.rss)
    return total


def _end(pid: int, ended: threading.Event) -> None:
    """Asks the process group to end, and ends it where it does not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, sign)
        if ended.wait(GRACE_S):
            return
