"""When each operation of a program happens: one heap loop. Imports no torch.

An operation begins when those it waits for have ended and it is first in line on each of its lanes; a lane of a rank does
one thing at a time, in the order of the program. A collective stands on the lanes of all its ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from fanlight.plan.operations import Op


@dataclass(frozen=True)
class Timeline:
    """Begin and end of every operation, in seconds."""

    ops: Sequence[Op]
    begins: Sequence[float]
    ends: Sequence[float]

    @property
    def step_s(self) -> float:
        return max(self.ends, default=0.0)

    def busy_s(self, rank: int, lane: str) -> float:
        """Seconds in which the lane of a rank is not idle."""
        return sum(
            end - begin
            for op, begin, end in zip(self.ops, self.begins, self.ends)
            if lane == op.lane and rank in op.ranks
        )

    def idle_s(self, rank: int, lane: str = "compute") -> float:
        return self.step_s - self.busy_s(rank, lane)


def simulate(ops: Sequence[Op]) -> Timeline:
    """Plays the program. ValueError where it waits for itself."""
    begins, ends = [0.0] * len(ops), [0.0] * len(ops)
    waiting = [len(op.after) for op in ops]
    ready_s = [0.0] * len(ops)
    followers: list[list[int]] = [[] for _ in ops]
    queues: dict[tuple[int, str], list[int]] = {}
    for index, op in enumerate(ops):
        for other in op.after:
            followers[other].append(index)
        for rank in op.ranks:
            queues.setdefault((rank, op.lane), []).append(index)
        waiting[index] += len(op.ranks)  # until it is first on each lane
    places = dict.fromkeys(queues, 0)
    heap: list[tuple[float, int]] = []

    def told(index: int, now: float) -> None:
        """One thing fewer that `index` waits for."""
        waiting[index] -= 1
        ready_s[index] = max(ready_s[index], now)
        if waiting[index] == 0:
            begins[index] = ready_s[index]
            ends[index] = ready_s[index] + ops[index].seconds
            heapq.heappush(heap, (ends[index], index))

    for queue in queues.values():
        told(queue[0], 0.0)
    done = 0
    while heap:
        now, index = heapq.heappop(heap)
        done += 1
        for follower in followers[index]:
            told(follower, now)
        for rank in ops[index].ranks:
            lane = (rank, ops[index].lane)
            places[lane] += 1
            if places[lane] < len(queues[lane]):
                told(queues[lane][places[lane]], now)
    if done < len(ops):
        raise ValueError("the program waits for itself: an operation can never begin")
    return Timeline(ops, begins, ends)
