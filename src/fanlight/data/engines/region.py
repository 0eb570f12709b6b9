"""Memory that processes of one machine share by a path. On Linux it has no name in any folder and ends with its last
user, however that one ends; elsewhere it is a temporary file, removed when closed."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from typing import Any

import numpy as np


class Region:
    """`size` bytes, zero at first and taken from the system when they are written."""

    def __init__(self, size: int):
        self._file: int | None
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("fanlight", os.MFD_CLOEXEC)
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        else:
            self._file, self.path = tempfile.mkstemp(prefix="fanlight-")
        os.ftruncate(self._file, max(size, 1))
        self._map = mmap.mmap(self._file, max(size, 1))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int = 0) -> np.ndarray:
        """A view, as long as nothing else is written there."""
        return np.frombuffer(self._map, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)

    def close(self) -> None:
        """Gives the memory back when the last view of it is gone."""
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        if not self.path.startswith("/proc/"):
            os.unlink(self.path)
        with contextlib.suppress(BufferError):  # a view is in use still: the map goes with it
            self._map.close()
