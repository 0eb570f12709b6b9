"""How much memory a run took, and whether an error means that memory or disk was not enough."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import torch

from fanlight import machine
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


def forget_peak(device: torch.device) -> None:
    """From here on `peak_here`, and what a run reports, count anew; memory that nobody holds goes back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # other systems, and containers that do not allow it: the peak then stays
        Path("/proc/self/clear_refs").write_text("5")


def peak_here(device: torch.device) -> int:
    """Bytes at the peak: of torch's pool on a GPU, of this process on CPUs (0 where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _status().get("VmHWM", 0)


def held_here(device: torch.device) -> int:
    """Bytes that this process keeps from others now."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _status().get("VmRSS", 0)


def available(device: torch.device, *, local_ranks: int = 1) -> int:
    """Bytes that one rank can still take: its GPU's free memory, or its share of this machine's (cgroup-aware)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.memory_available() // local_ranks


def _status() -> dict[str, int]:
    """`/proc/self/status` sizes in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in parts if len(words) == 3 and words[2] == "kB"}
