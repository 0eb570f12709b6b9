"""Bytes go to the disk while the next ones are made. Waiting for all of them at the end was a tenth of packing."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO

STRETCH_BYTES = 8 << 20  # written before they are sent: fewer waits cost less


class Writeback:
    """Of one open file that this or other processes write to; on leaving it without an error, all bytes are on the disk.

    An OSError of the disk is raised by the next call: the system tells it to one of them alone.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._written = 0
        self._sent: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writeback")

    def wrote(self, count: int) -> None:
        """`count` bytes more have been written."""
        self._written += count
        if self._written >= STRETCH_BYTES and (self._sent is None or self._sent.done()):
            self._told()
            self._written = 0
            self._sent = self._thread.submit(os.fsync, self._file.fileno())

    def _told(self) -> None:
        if self._sent is not None:
            self._sent.result()

    def __enter__(self) -> Writeback:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)  # the file may be closed after this
        if error is None:
            self._told()
            os.fsync(self._file.fileno())
