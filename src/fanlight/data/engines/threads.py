"""Threads of this process. Decoding, resizing, hashing and writing let other threads run, so they are parallel; what
holds the interpreter between them is not. Nothing is copied, nothing is started: the default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fanlight.data.engines import work
from fanlight.data.engines.engine import Engine, Promise
from fanlight.data.engines.work import Task


class Threads(Engine):
    """A pool of threads."""

    name = "threads"

    def __init__(self, workers: int):
        super().__init__(workers)
        self._pool: ThreadPoolExecutor | None = None

    def _start(self) -> None:
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="engine")

    def submit(self, task: Task) -> Promise:
        assert self._pool is not None
        return self._pool.submit(work.run, task)

    def close(self, *, at_once: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=at_once)
        self._pool, self.start_s = None, None
