"""How much memory a run took, and whether an error means that memory or disk was not enough."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import torch

from fanlight.parallel.comm import World

_GUESS = "out of memory?"  # of a rank that was killed: by whom is not known
_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_cpu")


def ran_out(error: BaseException) -> bool:
    """Whether `error`, raised here or told by a rank, is memory that could not be had."""
    text = str(error).lower().replace(_GUESS, "")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in _WORDS)


def disk_is_full(error: BaseException) -> bool:
    """Whether `error`, raised here or told by a rank or by a library of another language, is a disk without room."""
    return os.strerror(errno.ENOSPC).lower() in str(error).lower()


def peak_over_ranks(world: World) -> int:
    """Bytes resident at the peak: each rank's own pages added up, pages shared between them (packs, libraries) once.

    Linux tells the peak of all pages and the current count of shared ones; on a machine that tells neither, 0.
    """
    status = _status()
    shared = status.get("RssFile", 0) + status.get("RssShmem", 0)
    own = max(0, status.get("VmHWM", 0) - shared)
    table_R2 = np.zeros((world.ranks, 2))
    table_R2[world.rank] = own, shared
    table_R2 = world.sum_host(table_R2)
    return int(table_R2[:, 0].sum() + table_R2[:, 1].max())


def _status() -> dict[str, int]:
    """`/proc/self/status` sizes in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in parts if len(words) == 3 and words[2] == "kB"}
