"""Dask: processes that it starts on this machine, or the workers of a scheduler that is running already.

Tasks name files by path. Workers of this machine write results into the file or shared memory they are given, others
return them as bytes. Dask's own messages are pickles; no file of ours is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fanlight.data.engines import work
from fanlight.data.engines.engine import Engine, Promise
from fanlight.data.engines.processes import ONE_THREAD
from fanlight.data.engines.work import Outcome, Task
from fanlight.errors import ConfigError, DataError, RunError

WAIT_S = 10  # for a scheduler to answer and to have a worker
CLOSE_S = 5  # for workers to leave by themselves
START_S = 60  # for the workers of this machine to import what they need
BOOT = (
    "import json, sys\n"
    "plan = json.loads(sys.argv[1])\n"
    "sys.path[:] = plan['path']\n"
    "from fanlight.data.engines import cluster_child\n"
    "cluster_child.main(plan)\n"
)


class Dask(Engine):
    """`workers` processes of this machine, or all workers of the scheduler at `address`."""

    name = "dask"

    def __init__(self, workers: int, *, address: str | None = None):
        if importlib.util.find_spec("distributed") is None:
            raise ConfigError("the engine dask needs Dask, which is not installed: pip install 'fanlight[cluster]'")
        super().__init__(workers)
        self.place = "away" if address else "beside"
        self._address = address
        self._holder: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        self._folder: str | None = None  # where its workers keep their own files
        self._threads: ThreadPoolExecutor | None = None  # wait for results, so that errors are turned into ours

    def _start(self) -> None:
        import distributed

        for name in ("distributed", "distributed.client"):  # it tells of every connection that is lost
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self._address:
            self._join(distributed)
        else:
            self._client = distributed.Client(self._started(), timeout=START_S)
            self._client.wait_for_workers(self.workers, timeout=START_S)
        self._client.run(_imported)
        self._threads = ThreadPoolExecutor(2 * self.workers, thread_name_prefix="engine")

    def _started(self) -> str:
        """The address of a scheduler with workers of this machine."""
        self._folder = tempfile.mkdtemp(prefix="fanlight-dask-")
        plan = {"path": sys.path, "workers": self.workers, "folder": self._folder, "close_s": CLOSE_S}
        self._holder = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, json.dumps(plan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(ONE_THREAD, "1"), process_group=0 if os.name == "posix" else None,
        )  # fmt: skip
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            raise RunError("the workers of Dask could not be started; the last lines above say why")
        return str(json.loads(line)["address"])

    def _join(self, distributed: Any) -> None:
        address = self._address
        try:
            self._client = distributed.Client(address, timeout=WAIT_S)
        except (OSError, TimeoutError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else "no answer"
            raise ConfigError(
                f"--scheduler {address}: no scheduler answers there within {WAIT_S} s ({why}); start one with "
                "`dask scheduler`, or leave --scheduler out to use this machine"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError:
            raise ConfigError(
                f"--scheduler {address} has no worker; start some with `dask worker {address}`, where Fanlight is installed "
                "and the images have the same paths"
            ) from None
        self.workers = sum(self._client.nthreads().values())

    def submit(self, task: Task) -> Promise:
        assert self._threads is not None
        asked = self._client.submit(work.run, task, pure=False)
        promise: Future[Outcome] = self._threads.submit(self._result, asked, task)
        return promise

    def _result(self, asked: Any, task: Task) -> Outcome:
        from distributed.scheduler import KilledWorker

        try:
            return asked.result()
        except KilledWorker:
            raise DataError(
                f"workers of Dask died while they prepared one of {len(task.jobs)} files, of which {task.jobs[0].path} is "
                "the first: it may be more than the memory or the decoder can take. --engine processes names the file"
            ) from None
        except DataError as error:
            if self._address:
                raise DataError(f"{error} (workers of --scheduler must see the files by the same paths)") from None
            raise
        finally:
            asked.release()

    def close(self, *, at_once: bool = False) -> None:
        holder = self._holder
        with contextlib.suppress(Exception):  # what is left to do for a cluster that is broken is to forget it
            if self._client is not None:
                self._client.close(timeout=CLOSE_S)
        if holder is not None and at_once:
            _kill(holder)
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=at_once)
        if holder is not None:
            assert holder.stdin is not None and holder.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                holder.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                holder.wait(2 * CLOSE_S)
            _kill(holder)
            holder.stdout.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._holder = self._client = self._threads = self._folder = None
        self.start_s = None


def _kill(holder: subprocess.Popen[bytes]) -> None:
    """The holder, and the workers that it started, which are its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(holder.pid, signal.SIGKILL) if hasattr(os, "killpg") else holder.kill()
    holder.wait()


def _imported() -> bool:
    """Makes a worker import what tasks need, so that it is part of the start."""
    return callable(work.run)
