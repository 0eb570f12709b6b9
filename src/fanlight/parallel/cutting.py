"""Which gradients travel together: pure arithmetic on sizes, in the order in which a backward brings them. No torch.

Every parameter is in one bucket, and buckets are stretches of the order.
"""

from __future__ import annotations

from collections.abc import Sequence

BUCKET_BYTES = 25 << 20  # as DistributedDataParallel: below, latency counts; above, there is less to overlap with
SMALL_BYTES, LARGE_BYTES = 4 << 10, 4 << 20  # of the all-reduces that tell what a link is like
OVERHEAD = 0.1  # most of a bucket's time that may be latency
BUCKET_LEAST_MB, BUCKET_MOST_MB = 1.0, 25.0  # torch's own first and further buckets


def fitted_mb(latency_s: float, bytes_per_s: float) -> float:
    """Of gradient buckets, in MB (2²⁰ bytes), where an all-reduce of n bytes takes latency_s + n / bytes_per_s: as small as they
    can be, so that sending begins early in the backward, while latency stays a tenth of a bucket's time."""
    wanted = latency_s * bytes_per_s * (1 / OVERHEAD - 1) / (1 << 20)
    return round(min(BUCKET_MOST_MB, max(BUCKET_LEAST_MB, wanted)), 1)


def within(sizes: Sequence[float], *, limit: float) -> list[list[int]]:
    """Buckets of at most `limit` bytes, but for parameters that are larger by themselves: those of buckets.py."""
    found: list[list[int]] = []
    size = limit
    for index, each in enumerate(sizes):
        if size + each > limit:
            found.append([])
            size = 0
        found[-1].append(index)
        size += each
    return found


def filled(sizes: Sequence[float], *, limits: Sequence[float]) -> list[list[int]]:
    """Buckets that are sent as soon as they hold their limit or more: those of torch's reducer, whose first limits are of its
    first buckets and whose last is of all further ones."""
    found: list[list[int]] = [[]]
    size, at = 0.0, 0
    for index, each in enumerate(sizes):
        found[-1].append(index)
        size += each
        if size >= limits[at]:
            found.append([])
            size, at = 0.0, min(at + 1, len(limits) - 1)
    return [bucket for bucket in found if bucket]
