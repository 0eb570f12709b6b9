"""Ends what ranks do when a study's time is over, whatever they are at: a run that was begun in good time may take longer than
anybody guessed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from fanlight.errors import FanlightError, Stopped


class TimeOver(Exception):
    """The time limit ended what was under way."""


class Closable(Protocol):
    """What a Pool is to this file."""

    def close(self) -> None: ...


@contextlib.contextmanager
def until(end_s: float | None, pool: Closable) -> Iterator[None]:
    """Inside, the ranks of `pool` are ended at `end_s` (of time.monotonic(); None: never), and what they then fail with is
    raised as TimeOver. The pool is closed afterwards; a request to stop stays one."""
    if end_s is None:
        yield
        return
    is_over = threading.Event()

    def close() -> None:
        is_over.set()
        pool.close()

    left_s = max(0.0, end_s - time.monotonic())
    timer = threading.Timer(min(left_s, threading.TIMEOUT_MAX), close)  # no thread can wait longer: centuries
    timer.daemon = True
    timer.start()
    try:
        yield
    except Stopped:
        raise
    except (FanlightError, OSError, RuntimeError) as error:
        if is_over.is_set():
            raise TimeOver from error
        raise
    finally:
        timer.cancel()
        timer.join()  # a pool that is being closed must not be taken for the next run
