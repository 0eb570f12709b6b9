"""Dask: processes that it starts on this machine, or the workers of a scheduler that is running already.

Tasks name files by path. Workers of this machine write results into the file or shared memory they are given, others
return them as bytes. Dask's own messages are pickles; no file of ours is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fanlight.data.engines import work
from fanlight.data.engines.engine import Engine, Promise
from fanlight.data.engines.work import Outcome, Task
from fanlight.errors import ConfigError, DataError

WAIT_S = 10  # for a scheduler to answer and to have a worker
START_S = 60  # for the workers of this machine to import what they need


class Dask(Engine):
    """`workers` processes of this machine, or all workers of the scheduler at `address`."""

    name = "dask"

    def __init__(self, workers: int, *, address: str | None = None):
        if importlib.util.find_spec("distributed") is None:
            raise ConfigError("the engine dask needs Dask, which is not installed: pip install 'fanlight[cluster]'")
        super().__init__(workers)
        self.place = "away" if address else "beside"
        self._address = address
        self._cluster: Any = None
        self._client: Any = None
        self._folder: str | None = None  # where its workers keep their own files
        self._threads: ThreadPoolExecutor | None = None  # wait for results, so that errors are turned into ours

    def _start(self) -> None:
        import distributed

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it tells of every worker that is closed
        if self._address:
            self._join(distributed)
        else:
            self._folder = tempfile.mkdtemp(prefix="fanlight-dask-")
            self._cluster = distributed.LocalCluster(
                n_workers=self.workers, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0,
                local_directory=self._folder, silence_logs=logging.CRITICAL,
            )  # fmt: skip
            self._client = distributed.Client(self._cluster)
            self._client.wait_for_workers(self.workers, timeout=START_S)
        self._client.run(_imported)
        self._threads = ThreadPoolExecutor(2 * self.workers, thread_name_prefix="engine")

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
        with contextlib.suppress(Exception):  # what is left to do for a cluster that is broken is to forget it
            if self._client is not None:
                self._client.close(timeout=WAIT_S)
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=at_once)
        with contextlib.suppress(Exception):
            if self._cluster is not None:
                self._cluster.close(timeout=WAIT_S)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._cluster = self._client = self._threads = self._folder = None
        self.start_s = None


def _imported() -> bool:
    """Makes a worker import what tasks need, so that it is part of the start."""
    return callable(work.run)
