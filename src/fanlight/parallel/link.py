"""What sending costs between the ranks of a group: latency and bandwidth of real all-reduces, and what follows from them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from fanlight.parallel.comm import World

SMALL_BYTES, LARGE_BYTES = 4 << 10, 4 << 20
REPEATS = 5
OVERHEAD = 0.1  # most of a bucket's time that may be latency
BUCKET_LEAST_MB, BUCKET_MOST_MB = 1.0, 25.0  # torch's own first and further buckets


@dataclass(frozen=True)
class Link:
    """An all-reduce of n bytes takes about latency_s + n / bytes_per_s."""

    latency_s: float
    bytes_per_s: float

    @property
    def bucket_mb(self) -> float:
        """Of gradient buckets, in MB (2²⁰ bytes): as small as it can be, so that sending begins early in the backward, while
        latency stays a tenth of the bucket's time."""
        wanted = self.latency_s * self.bytes_per_s * (1 / OVERHEAD - 1) / (1 << 20)
        return round(min(BUCKET_MOST_MB, max(BUCKET_LEAST_MB, wanted)), 1)


def measure(world: World) -> Link:
    """Of the group that sums gradients. Collective; every rank gets rank 0's numbers. About 50 ms on one machine."""
    times = {}
    for size in (SMALL_BYTES, LARGE_BYTES):
        buffer = torch.zeros(size // 4, device=world.device)
        took_s = []
        for _ in range(REPEATS + 1):
            begin = _now(world.device)
            dist.all_reduce(buffer, group=world.group)
            took_s.append(_now(world.device) - begin)
        times[size] = median(took_s[1:])  # the first opens connections
    latency_s = times[SMALL_BYTES]
    rate = (LARGE_BYTES - SMALL_BYTES) / max(times[LARGE_BYTES] - latency_s, 1e-9)
    told = world.tell({"latency_s": latency_s, "bytes_per_s": rate})
    return Link(**told)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
