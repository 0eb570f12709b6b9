"""What the four engines have in common: they start, take tasks, and close. Which differs is only where a task runs."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Literal

from fanlight.data import pending
from fanlight.data.engines.work import Outcome, Task

Promise = pending.Promise[Outcome]


class Engine:
    """Workers that do tasks. A context manager: it starts when first needed, and leaves nothing behind.

    `place` of its workers: `here`, in this process, so that results are arrays; `beside`, other processes of this
    machine, which write into files and shared memory; `away`, other machines, which return bytes."""

    name: str
    place: Literal["here", "beside", "away"] = "here"

    def __init__(self, workers: int):
        self.workers = workers
        self.start_s: float | None = None  # seconds from nothing to workers that have imported what they need

    def start(self) -> None:
        """Once; later calls do nothing."""
        if self.start_s is None:
            begin = time.perf_counter()
            try:
                self._start()
            except BaseException:
                self.close(at_once=True)
                raise
            self.start_s = time.perf_counter() - begin

    def submit(self, task: Task) -> Promise:
        """A task under way."""
        raise NotImplementedError

    def close(self, *, at_once: bool = False) -> None:
        """Ends the workers; `at_once`: in the middle of their tasks."""

    def _start(self) -> None:
        pass

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)


def done(outcome: Outcome) -> Future[Outcome]:
    """A promise that is kept."""
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future
