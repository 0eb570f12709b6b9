"""What ranks do where a cause is planted: a known delay in one place of the step, then the study's own training and probe.

Delays sleep: they cost what they say on any machine, however busy."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from fanlight.data import loader
from fanlight.parallel.comm import World
from fanlight.study.layouts import job
from fanlight.train.step import Sight, WholeStep

SLICES = 20  # of a delay, in each of which it is asked anew who else computes


def train(world: World, *, cause: str, delay_s: float, **arguments: Any) -> Any:
    with planted(cause, delay_s, world, Path(arguments["run"])):
        return job.rank_train(world, **arguments)


def probe(world: World, *, cause: str, delay_s: float, **arguments: Any) -> Any:
    with planted(cause, delay_s, world, Path(arguments["run"])):
        return job.rank_probe(world, **arguments)


@contextlib.contextmanager
def planted(cause: str, delay_s: float, world: World, run: Path) -> Iterator[None]:
    inner_rows, inner_call, inner_sum = loader._train_rows, WholeStep.__call__, dist.all_reduce
    inner_ready = Sight.ready

    def rows(*given: Any) -> Any:  # an input thread that takes so long for a batch
        time.sleep(delay_s)
        return inner_rows(*given)

    def call(self: Any, *given: Any, **options: Any) -> Any:  # a step that takes so long more, whatever its rows
        time.sleep(delay_s)
        return inner_call(self, *given, **options)

    def on_last(self: Any, *given: Any, **options: Any) -> Any:  # a rank that is slower than the others
        time.sleep(delay_s * (world.rank == world.ranks - 1))
        return inner_call(self, *given, **options)

    def shared(self: Any, *given: Any, **options: Any) -> Any:  # something of the machine that all who compute divide
        mine = run / f"busy-{world.rank}"
        mine.touch()
        rows = given[0].rows  # so that it is work, and not what a step costs anyway
        for _ in range(SLICES):
            time.sleep(delay_s * rows / SLICES * len(list(run.glob("busy-*"))))
        try:
            return inner_call(self, *given, **options)
        finally:
            mine.unlink()

    def told(self: Any, *given: Any, **options: Any) -> Any:  # hog.py, another program, is told who computes
        mine = run / f"busy-{world.rank}"
        mine.touch()
        try:
            return inner_call(self, *given, **options)
        finally:
            mine.unlink()

    def summed(tensor: torch.Tensor, *given: Any, **options: Any) -> Any:  # a link with so much latency
        if tensor.numel() > 64:  # gradients; not what the ledger and norms exchange
            time.sleep(delay_s)
        return inner_sum(tensor, *given, **options)

    def ready(self: Any, rows: Any, **options: Any) -> Any:  # a last stage that has so much more to do for each row
        time.sleep(delay_s * (world.rank == world.ranks - 1) * rows.size[0])
        return inner_ready(self, rows, **options)

    place, name, stand_in = {
        "loader": (loader, "_train_rows", rows), "launch": (WholeStep, "__call__", call),
        "rank": (WholeStep, "__call__", on_last), "bus": (WholeStep, "__call__", shared),
        "hog": (WholeStep, "__call__", told), "nothing": (WholeStep, "__call__", inner_call),
        "link": (dist, "all_reduce", summed), "cut": (Sight, "ready", ready),
    }[cause]  # fmt: skip
    with mock.patch.object(place, name, stand_in):
        yield
