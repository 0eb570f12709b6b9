"""What ranks do where a cause is planted: a known delay in one place of the step, then the study's own training and probe.

Delays sleep: they cost what they say on any machine, however busy."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from fanlight.data import loader
from fanlight.parallel.comm import World
from fanlight.study.layouts import job
from fanlight.study.layouts.probe import Bench
from fanlight.train import build, folder
from fanlight.train.step import Sight, WholeStep

BYTES = 64 << 20  # twice the largest cache
SLICES = 20  # of a delay, in each of which it is asked anew who else computes


def train(world: World, *, cause: str, delay_s: float, **arguments: Any) -> Any:
    with planted(cause, delay_s, world, Path(arguments["run"])):
        return job.rank_train(world, **arguments)


def probe(world: World, *, cause: str, delay_s: float, **arguments: Any) -> Any:
    with planted(cause, delay_s, world, Path(arguments["run"])):
        return in_turns(world, **arguments) if cause == "tiny" else job.rank_probe(world, **arguments)


def in_turns(world: World, *, run: str, block_s: float, repeats: int) -> list[dict[str, Any]]:
    """The study's own probe of a run whose batches are tiny, in turns with a bare loop: `bare.json` in the run's folder has
    the loop's seconds of a forward and backward of as many rows as its own steps have, by turn: a machine's pace changes."""
    bench, loop = Bench(world, Path(run)), Bare(Path(run))
    found: list[dict[str, Any]] = []
    of_turns = []
    for turn in range(repeats):
        rows = bench.measure(block_s=block_s, repeats=1, turn=turn)
        found += [{**row, "repetition": turn} for row in rows]
        of_turns.append([loop(batch, times=15) for batch in (bench.rows, bench.few_rows)])
    (Path(run) / "bare.json").write_text(json.dumps(of_turns))
    return found


class Bare:
    """Forward and backward of a run's network on a batch of bytes that is in memory, with its loss and hits, by the shortest
    loop there is."""

    def __init__(self, run: Path):
        config, manifest = folder.read_config(run), folder.read_manifest(run)
        self._px = config.data.image_px or 0
        self._form = torch.channels_last if config.execution.channels_last else torch.contiguous_format
        self._model = build.create_model(config, manifest, resumed=True).model.to(memory_format=self._form)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0)

    def __call__(self, batch: int, *, times: int) -> float:
        """Median seconds."""
        images, y = (
            torch.zeros((batch, self._px, self._px, 3), dtype=torch.uint8),
            torch.zeros(batch, dtype=torch.int64),
        )
        found = []
        for _ in range(times):
            begin = time.perf_counter()
            x = images.permute(0, 3, 1, 2).float().mul_(1 / 255).add_(-0.5).contiguous(memory_format=self._form)
            logits = self._model(x)
            loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
            torch.stack([loss.detach().double(), (logits.argmax(1) == y).sum().double()])
            loss.div(batch).backward()
            found.append(time.perf_counter() - begin)
            self._optimizer.step()  # off the clock; but it takes the weights out of the caches that a forward begins with
            self._model.zero_grad()
        return float(np.median(found))


class Copier:
    """Copies memory that no cache holds."""

    def __init__(self) -> None:
        self._source, self._target = np.ones(BYTES, np.uint8), np.ones(BYTES, np.uint8)

    def __call__(self, times: int) -> float:
        """Seconds of so many copies."""
        begin = time.perf_counter()
        for _ in range(times):
            self._target[:] = self._source
        return time.perf_counter() - begin


def copies(world: World, *, times: int, turns: int) -> dict[str, float]:
    """Median seconds of the copies on this rank while the others wait, and while all copy: a loop by hand, for comparison
    with what a study says of steps that copy."""
    copier = Copier()
    found: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(turns):
        for rank in range(world.ranks):
            world.barrier()
            if rank == world.rank:
                found["alone"].append(copier(times))
        world.barrier()
        found["together"].append(copier(times))
    return {name: float(np.median(values)) for name, values in found.items()}


def exchange(world: World, *, numbers: int, norms: int, pause_s: float, turns: int) -> float:
    """Median seconds in which the ranks sum so many fp32 numbers after what so many norms gather in the forward and sum in the
    backward: a loop by hand, beside what a study says of a step's. It rests in between as long as a step computes: the bucket
    fills again."""
    tensor, small, found = torch.ones(numbers), torch.ones(64), []
    every = [torch.empty_like(small) for _ in range(world.ranks)]
    for _ in range(turns):
        time.sleep(pause_s)
        world.barrier()
        begin = time.perf_counter()
        for _ in range(norms):
            dist.all_gather(every, small)
        for _ in range(norms):
            dist.all_reduce(small)
        dist.all_reduce(tensor)
        found.append(time.perf_counter() - begin)
    return float(np.median(found))


@contextlib.contextmanager
def planted(cause: str, delay_s: float, world: World, run: Path) -> Iterator[None]:
    inner_rows, inner_call, inner_sum = loader._train_rows, WholeStep.__call__, dist.all_reduce
    inner_ready, inner_loss, copier = Sight.ready, Sight.loss, Copier() if cause == "memory" else None

    def rows(*given: Any) -> Any:  # an input thread that takes so long for a batch
        time.sleep(delay_s)
        return inner_rows(*given)

    def call(self: Any, *given: Any, **options: Any) -> Any:  # a step that takes so long more, whatever its rows
        time.sleep(delay_s)
        return inner_call(self, *given, **options)

    def on_last(self: Any, *given: Any, **options: Any) -> Any:  # a rank that is slower than the others
        time.sleep(delay_s * (world.rank == world.ranks - 1))
        return inner_call(self, *given, **options)

    def shared(self: Any, outputs: Any, rows: Any) -> Any:  # something of the machine that all who compute divide
        mine = run / f"busy-{world.rank}"
        mine.touch()
        for _ in range(SLICES):
            time.sleep(delay_s * rows.size[0] / SLICES * len(list(run.glob("busy-*"))))
        try:
            return inner_loss(self, outputs, rows)
        finally:
            mine.unlink()

    def copied(self: Any, *given: Any, **options: Any) -> Any:  # delay_s: how often a row's share of memory is copied
        assert copier is not None
        copier(round(delay_s) * given[0].rows)
        return inner_call(self, *given, **options)

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
        "rank": (WholeStep, "__call__", on_last), "bus": (Sight, "loss", shared),
        "memory": (WholeStep, "__call__", copied),
        "hog": (WholeStep, "__call__", told), "tiny": (WholeStep, "__call__", inner_call),
        "link": (dist, "all_reduce", summed), "cut": (Sight, "ready", ready),
    }[cause]  # fmt: skip
    with mock.patch.object(place, name, stand_in):
        yield
