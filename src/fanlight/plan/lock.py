"""One plan measures a machine at a time: two would measure each other, and keep it. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fanlight import console
from fanlight.data import cache

LOCK = ".lock"  # in the cache's folder of plans; the system lets go of it when its process ends, however it ends


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, no other plan of this cache folder measures; it is waited for. Nothing where the folder cannot be written."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):  # systems without it measure at once
            import fcntl

            folder = cache.folder() / "plans"
            folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(folder / LOCK, "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.say("  waiting for another plan, which measures this machine …")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
