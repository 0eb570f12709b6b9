"""Ctrl-C and SIGTERM ask a run to stop after its current step; a second Ctrl-C does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Wish:
    """Whether someone asked to stop."""

    asked = False


@contextmanager
def listening() -> Iterator[Wish]:
    """Inside, the first SIGINT or SIGTERM sets the wish; a second SIGINT raises KeyboardInterrupt at once."""
    wish = Wish()

    def ask(number: int, _: object) -> None:
        if wish.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.asked = True

    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set handlers
        yield wish
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
