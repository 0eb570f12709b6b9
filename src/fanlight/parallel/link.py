"""What sending costs between the ranks of a group: latency and bandwidth of real all-reduces, and what follows from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from fanlight.parallel import cutting
from fanlight.parallel.comm import World
from fanlight.parallel.cutting import LARGE_BYTES, SMALL_BYTES

SIZES = (SMALL_BYTES, LARGE_BYTES)  # of a sweep: a line through them
REPEATS = 5
OFTEN = 8  # times as often, small messages: one takes several times as long as the next on cores that fall asleep


@dataclass(frozen=True)
class Link:
    """An all-reduce of n bytes takes about latency_s + n / bytes_per_s."""

    latency_s: float
    bytes_per_s: float

    @property
    def bucket_mb(self) -> float:
        """Of gradient buckets, in MB (2²⁰ bytes)."""
        return cutting.fitted_mb(self.latency_s, self.bytes_per_s)


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


@dataclass(frozen=True)
class Sending:
    """What collectives of a group were measured to take, in seconds."""

    all_reduce_s: dict[int, float]  # by bytes
    gather_s: float  # of a number from every rank
    beside_s: float  # of computing while an all-reduce is under way, until both are done
    alone_s: float  # of the same computing alone
    sent_s: float  # of the same all-reduce alone

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Sending:
        """From a document, whose keys are text."""
        return cls(**{**told, "all_reduce_s": {int(size): value for size, value in told["all_reduce_s"].items()}})

    @property
    def steals(self) -> float:
        """Of a second in which both could go on, what they take from each other: 0 where the shorter hides wholly, 1 where it
        does not at all. (On a slow link sending takes longer than the computing beside it, and that is no theft.)"""
        lost_s = self.beside_s - max(self.alone_s, self.sent_s)
        return min(1.5, max(0.0, lost_s / min(self.alone_s, self.sent_s)))


def sweep(
    world: World, *, compute: Callable[[], None], sizes: Sequence[int] = SIZES, repeats: int = REPEATS
) -> Sending:  # fmt: skip
    """All-reduces of `sizes` bytes with nothing else to do, and the largest of them beside `compute`, which is started when it
    is on its way; each `repeats` times, messages of SMALL_BYTES or less OFTEN as often. Of the group that sums gradients.
    Collective; every rank gets rank 0's numbers."""
    reduced = {}
    for size in sizes:
        buffer = torch.zeros(size // 4, device=world.device)
        times = repeats if size > SMALL_BYTES else OFTEN * repeats
        reduced[size] = _median(lambda buffer=buffer: dist.all_reduce(buffer, group=world.group), world, times)  # type: ignore[misc]
    small = torch.zeros(1, device=world.device)
    every = [torch.zeros_like(small) for _ in range(world.ranks)]
    gather_s = _median(lambda: dist.all_gather(every, small, group=world.group), world, OFTEN * repeats)
    buffer = torch.zeros(max(sizes) // 4, device=world.device)

    def both() -> None:
        work = dist.all_reduce(buffer, group=world.group, async_op=True)
        compute()
        work.wait()

    alone_s, beside_s = _median(compute, world, repeats), _median(both, world, repeats)
    told = world.tell({"reduced": list(reduced.values()), "rest": [gather_s, beside_s, alone_s, reduced[max(sizes)]]})
    return Sending(dict(zip(sizes, told["reduced"])), *told["rest"])


def _median(what: Callable[[], object], world: World, repeats: int) -> float:
    """Seconds of it, the ranks beginning together; the first time is left out."""
    took_s = []
    for _ in range(repeats + 1):
        world.barrier()
        begin = _now(world.device)
        what()
        took_s.append(_now(world.device) - begin)
    return median(took_s[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
