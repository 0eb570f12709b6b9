"""Where a step's time goes: input, copy, forward, backward, communication, optimizer. Host time on CPUs, device events
on GPUs (read later, so that measuring never waits for the device)."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

PARTS = ("input", "copy", "forward", "backward", "communication", "optimizer")


class StepClock:
    """Segments of each optimizer step, in seconds. `mark(name)` ends the segment that began at the mark before."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, object]] = []
        self._host_begin = time.perf_counter()
        self._pending: list[tuple[dict, list]] = []  # GPU steps whose events are not read yet
        self.rows: list[dict[str, float]] = []

    def begin(self) -> None:
        """Starts a step: what follows until `arrived` is waiting for input."""
        self._host_begin = time.perf_counter()

    def arrived(self) -> None:
        """The batch is here."""
        self._input_s = time.perf_counter() - self._host_begin
        self._marks = [("", self._now())]

    def mark(self, name: str) -> None:
        self._marks.append((name, self._now()))

    def split(self, name: str, *, at: float) -> bool:
        """Ends a host segment in the past, at perf_counter time `at`; False when that is not within it, and on GPUs."""
        if self._cuda or at <= self._marks[-1][1]:  # type: ignore[operator]
            return False
        self._marks.append((name, at))
        return True

    def end(self, **facts: float) -> None:
        """Ends the step; `facts` (step, epoch, images) head its row."""
        row = {**facts, "input_s": self._input_s, "total_s": time.perf_counter() - self._host_begin}
        self._pending.append((row, self._marks))
        while self._pending and (not self._cuda or self._pending[0][1][-1][1].query()):
            self._read(*self._pending.pop(0))

    def _read(self, row: dict, marks: list) -> None:
        seconds: dict[str, float] = defaultdict(float)
        for (_, begin), (name, end) in itertools.pairwise(marks):
            seconds[f"{name}_s"] += begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
        self.rows.append({**row, **{f"{part}_s": seconds[f"{part}_s"] for part in PARTS if part != "input"}})

    def _now(self) -> object:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> list[dict[str, float]]:
        """Every row, waiting for the device where needed."""
        if self._cuda:
            torch.cuda.synchronize()
        while self._pending:
            self._read(*self._pending.pop(0))
        return self.rows

    def save(self, path: Path, *, before: int) -> None:
        """Writes the rows, after those of steps below `before` that the file already holds from an earlier start."""
        rows = self.finish()
        if path.exists():
            rows = [row for row in pq.read_table(path).to_pylist() if row["step"] < before] + rows
        part = path.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist(rows), part)
        part.rename(path)


def steady(rows: list[dict[str, float]], *, warmup: int = 5) -> list[dict[str, float]]:
    """Rows after the warm-up: the first epoch's when there are later ones, else the first `warmup` steps."""
    if not rows:
        return []
    later = [row for row in rows if row["epoch"] > rows[0]["epoch"]]
    return later or rows[warmup:] or rows
