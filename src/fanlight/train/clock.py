"""Where a step's time goes: input, copy, forward, backward, communication, optimizer. Host time on CPUs, device events
on GPUs (read later, so that measuring never waits for the device)."""

from __future__ import annotations

import itertools
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fanlight.console import warn
from fanlight.parallel.heartbeat import Heartbeat

PARTS = ("input", "copy", "forward", "backward", "communication", "optimizer")
COLUMNS = (*(f"{part}_s" for part in PARTS), "total_s")
WARMUP_STEPS = 5  # of a run that has one epoch


class StepClock:
    """Segments of each optimizer step, in seconds. `mark(name)` ends the segment that began at the mark before.

    On a GPU a segment ends when the device is done with what was asked before the mark and the host has come to it, so
    `input` is the time that the device had nothing to do for want of a batch. Communication that overlaps the backward
    is part of it there. Each mark is a beat of `heartbeat`.
    """

    def __init__(self, device: torch.device, *, heartbeat: Heartbeat | None = None):
        self._heartbeat = heartbeat or Heartbeat()
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._pending: list[tuple[tuple[float, ...], list[tuple[str, Any]]]] = []  # GPU events that are not read yet
        self._facts: tuple[str, ...] = ()  # names of what `end` was given
        self._table = array("d")  # a row of plain numbers per step: 80 bytes, however long the run

    def __len__(self) -> int:
        return len(self._table) // len(self._names) if self._facts else 0

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self._facts, *COLUMNS)

    @property
    def rows(self) -> list[dict[str, float]]:
        """Every step that has been read."""
        return self.since(0)

    def since(self, first: int) -> list[dict[str, float]]:
        """Rows from number `first`."""
        if not self._facts:
            return []
        values = np.frombuffer(self._table).reshape(-1, len(self._names))[first:].tolist()
        return [dict(zip(self._names, row)) for row in values]

    def begin(self) -> None:
        """Starts a step: what follows until `arrived` is waiting for input."""
        self._marks = [("", self._now())]

    def arrived(self) -> None:
        """The batch is here."""
        self.mark("input")

    def mark(self, name: str) -> None:
        self._marks.append((name, self._now()))
        self._heartbeat.enter(f"after {name}")

    def split(self, name: str, *, at: float) -> bool:
        """Ends a host segment in the past, at perf_counter time `at`; False when that is not within it, and on GPUs."""
        if self._cuda or at <= self._marks[-1][1]:
            return False
        self._marks.append((name, at))
        return True

    def end(self, **facts: float) -> None:
        """Ends the step; `facts` (step, epoch, images) head its row."""
        self.mark("rest")
        self._facts = tuple(facts)
        self._pending.append((tuple(facts.values()), self._marks))
        while self._pending and (not self._cuda or self._pending[0][1][-1][1].query()):
            self._read(*self._pending.pop(0))

    def _read(self, facts: tuple[float, ...], marks: list[tuple[str, Any]]) -> None:
        seconds = dict.fromkeys((*PARTS, "rest"), 0.0)
        for (_, begin), (name, end) in itertools.pairwise(marks):
            seconds[name] += begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
        self._table.extend((*facts, *(seconds[part] for part in PARTS), sum(seconds.values())))

    def _now(self) -> Any:
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
            try:
                rows = [row for row in pq.read_table(path).to_pylist() if row["step"] < before] + rows
            except pa.ArrowInvalid as error:  # cut short, as by a power cut: times are worth less than the run
                warn(f"step times of earlier starts are lost: {path}", why=str(error), do="Nothing else is touched")
        part = path.with_suffix(".part")
        kinds = {name: pa.float64() if name in COLUMNS else pa.int64() for name in (rows[0] if rows else ())}
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), part)
        part.replace(path)


def steady(rows: list[dict[str, float]], *, warmup: int = WARMUP_STEPS) -> list[dict[str, float]]:
    """Rows after the warm-up: the first epoch's when there are later ones, else the first `warmup` steps."""
    if not rows:
        return []
    later = [row for row in rows if row["epoch"] > rows[0]["epoch"]]
    return later or rows[warmup:] or rows
