"""Ranks that work for a plan, started once: what calibrates and what confirms take turns on them. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from fanlight.parallel.launch import Pool

PRELOAD = ("torch", "timm", "cv2", "fanlight.plan.turns", "fanlight.plan.confirm")


class Pools:
    """By number of ranks and threads, of one device's kind. All of them end with the context."""

    def __init__(self, device: str):
        self._device = device
        self._pools: dict[tuple[int, int], Pool] = {}
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def has(self, ranks: int, threads: int) -> bool:
        """Whether they are there, and take jobs."""
        pool = self._pools.get((ranks, threads))
        return pool is not None and pool.is_open

    def of(self, ranks: int, threads: int) -> Pool:
        """These ranks: started where they are not there, or were lost to a failure."""
        if not self.has(ranks, threads):
            pool = Pool(ranks, device=self._device, threads=threads, preload=PRELOAD)
            self._pools[ranks, threads] = self._ends.enter_context(pool)
        return self._pools[ranks, threads]

    def keep(self, wanted: Iterable[tuple[int, int]]) -> None:
        """Ends the others: idle ranks hold memory, on GPUs much of it."""
        for key in set(self._pools) - set(wanted):
            self._pools.pop(key).close()
