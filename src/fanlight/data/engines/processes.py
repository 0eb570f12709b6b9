"""Processes of this machine that share no interpreter. Tasks go to them as JSON, pixels come back through shared memory or
go straight into the output file: no image is ever pickled.

Each is started from nothing (not forked), so that it has neither this process's threads nor its CUDA. It ends when its
standard input does, so none outlives this process, however that ends. A thread here waits for each of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fanlight import errors
from fanlight.data.engines.engine import Engine, Promise
from fanlight.data.engines.region import Region
from fanlight.data.engines.work import Outcome, Task
from fanlight.errors import DataError, RunError

BOOT = (
    "import json, sys\n"
    "plan = json.loads(sys.argv[1])\n"
    "sys.path[:] = plan['path']\n"
    "from fanlight.data.engines import child\n"
    "child.main(plan)\n"
)
CLOSE_S = 2.0  # for an idle worker to leave by itself
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # parallel over images, never inside one


class Processes(Engine):
    """`workers` processes, one task each at a time."""

    name = "processes"
    place = "beside"

    def __init__(self, workers: int):
        super().__init__(workers)
        self._children: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._board: Region | None = None  # which job of its task each worker is at

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def at(self, worker: int) -> int:
        """The number of the job in its task that a worker has begun, or −1."""
        assert self._board is not None
        return int(self._board.array((self.workers,), np.dtype(np.int64))[worker]) - 1

    def _start(self) -> None:
        self._board = Region(8 * self.workers)
        self._free = queue.SimpleQueue()
        for worker in range(self.workers):
            plan = {"path": sys.path, "board": self._board.path, "worker": worker, "workers": self.workers}
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", BOOT, json.dumps(plan)],  # no file of the working folder is a module
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | dict.fromkeys(ONE_THREAD, "1"),
                    process_group=0 if os.name == "posix" else None,  # a terminal's Ctrl-C reaches this process alone
                )
            )  # fmt: skip
        for worker, child in enumerate(self._children):
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RunError(f"a worker process {_end(child)} before it was ready; its last lines are above")
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="engine")

    def submit(self, task: Task) -> Promise:
        assert self._threads is not None
        return self._threads.submit(self._ask, task)

    def _ask(self, task: Task) -> Outcome:
        worker = self._free.get()
        child = self._children[worker]
        assert child.stdin is not None and child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which its silence says as well
                child.stdin.write(json.dumps(task).encode() + b"\n")
                child.stdin.flush()
            line = child.stdout.readline()
            if not line.endswith(b"\n"):
                raise self._died(worker, task)
        finally:
            self._free.put(worker)
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return Outcome({int(number): reason for number, reason in answer["failed"].items()})

    def _died(self, worker: int, task: Task) -> DataError:
        at = max(self.at(worker), 0)
        return DataError(
            f"a worker process {_end(self._children[worker])} while it prepared {task.jobs[at].path}: the file may be more "
            "than the memory or the decoder can take. Try fewer --workers, or leave the file out"
        )

    def close(self, *, at_once: bool = False) -> None:
        for child in self._children:
            if at_once:
                child.kill()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=at_once)
        for child in self._children:
            assert child.stdin is not None and child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stdout is not None
            child.stdout.close()
        if self._board is not None:
            self._board.close()
        self._children, self._threads, self._board, self.start_s = [], None, None, None


def _end(child: subprocess.Popen[bytes]) -> str:
    """How it ended, in words."""
    try:
        code = child.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        return "stopped answering"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
