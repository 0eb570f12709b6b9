"""What this machine lets this process use: cores, memory, disk. Container quotas and affinity count, not the hardware
alone: a quota of 2 CPUs on a 64-core host is 2 cores. Imports no torch."""

import ctypes
import math
import os
import platform
import shutil
import sys
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER = 2**31 - 1  # bytes, the largest that mallopt takes


def cores_usable(*, cgroup: Path = CGROUP) -> int:
    """Cores that this process may really use: affinity, capped by the cgroup's CPU quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota_cores(cgroup)
    return max(1, min(affinity, math.ceil(quota) if quota else affinity))


def cores() -> list[int]:
    """Numbers of the cores that this process is bound to; none where the system does not bind."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def memory_available(*, cgroup: Path = CGROUP) -> int:
    """Bytes that can still be had before the system or the container's limit would refuse."""
    free = psutil.virtual_memory().available
    limit = _read_int(cgroup / "memory.max") or _read_int(cgroup / "memory" / "memory.limit_in_bytes")
    used = _read_int(cgroup / "memory.current") or _read_int(cgroup / "memory" / "memory.usage_in_bytes")
    if limit and used is not None and limit < 1 << 60:
        cache = _cgroup_cache(cgroup / "memory.stat") or _cgroup_cache(cgroup / "memory" / "memory.stat")
        free = min(free, max(0, limit - used + cache))
    return free


def python() -> str | None:
    """What starts a Python of its own with what this one has installed; None where nothing is known to, as in a program that
    was frozen into one file, whose executable would start the program again."""
    return None if getattr(sys, "frozen", False) else sys.executable or None


def disk_free(folder: Path) -> int:
    """Free bytes where `folder` is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def may_have_gpu() -> bool:
    """False where there is certainly no GPU for torch: saves asking it, which means importing it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    return sys.platform != "linux" or any(map(os.path.exists, drivers))


def cpu_name() -> str:
    """The processor's marketing name, or the architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Tells the C library to keep what this process frees for its next allocation of that size, not the system.

    A training step on a CPU frees and allocates the same large tensors again and again; handed back each time, every page
    is faulted in and zeroed anew: 11 % of a ResNet-18 step at 96 px (medians of 24 steps, alternating; bf16, 2 cores of an
    Intel Xeon with AMX). Only glibc has the switches; elsewhere nothing changes.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER)  # allocations above it would be mapped and unmapped one by one
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)  # free bytes at the heap's end above it would be given back
    except (OSError, AttributeError):
        return


def give_back_freed_memory() -> None:
    """Hands the system what the C library has kept; glibc only."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def describe() -> dict[str, object]:
    """Hardware and system, for `env.json`: no addresses, no user names."""
    return {
        "cpu": cpu_name(),
        "cores_usable": cores_usable(),
        "cores_online": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version.split()[0],
    }


def power(*, system: Path = Path("/sys")) -> dict[str, list[str]]:
    """How fast the processor may run now, as far as the system tells: governors, limits, turbo, mains or battery. Many
    containers and virtual machines tell nothing."""
    cpu = "devices/system/cpu"
    wanted = {
        f"{cpu}/cpu[0-9]*/cpufreq": ("scaling_governor", "energy_performance_preference", "scaling_max_freq"),
        f"{cpu}/intel_pstate": ("no_turbo", "max_perf_pct"),
        f"{cpu}/cpufreq": ("boost",),
        "class/power_supply/*": ("online",),
        "firmware/acpi": ("platform_profile",),
    }
    found: dict[str, set[str]] = {}
    for folder, names in wanted.items():
        for name in names:
            for path in system.glob(f"{folder}/{name}"):
                try:
                    found.setdefault(name, set()).add(path.read_text().strip())
                except OSError:
                    continue
    return {name: sorted(values) for name, values in sorted(found.items())}


def _quota_cores(cgroup: Path) -> float | None:
    try:  # version 2
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us = _read_int(cgroup / "cpu" / "cpu.cfs_quota_us")
    period_us = _read_int(cgroup / "cpu" / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and quota_us > 0 and period_us else None


def _cgroup_cache(stat: Path) -> int:
    """Bytes of file cache that the container is charged for and that the kernel would give back."""
    try:
        counts = dict(line.split() for line in stat.read_text().splitlines())
        return int(counts.get("total_inactive_file") or counts["inactive_file"])  # version 1: `total_` has children too
    except (OSError, KeyError, ValueError):
        return 0


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
