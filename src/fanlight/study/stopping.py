"""Who stops a study is told how it goes on, at whatever moment: what ranks do not heed, and what is done between their jobs,
would otherwise end without a word, or as if nothing were left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from fanlight.errors import Stopped


@contextlib.contextmanager
def saying(study: Path) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM are raised as Stopped, which names the command that continues `study`. An ignored SIGTERM
    stays ignored; only the main thread is told of it. What is forked inside ends by SIGTERM as ever."""
    owner = os.getpid()

    def ask(number: int, _: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    is_heard = threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN
    if is_heard:
        signal.signal(signal.SIGTERM, ask)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped; continue with: fanlight study --resume {study}") from None
    finally:
        if is_heard:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
