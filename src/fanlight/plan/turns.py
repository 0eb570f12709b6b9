"""What one rank measures while all of them do the same, in windows of a few seconds between which other ranks have the machine.

B images of a batch over all ranks.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight.config import from_document
from fanlight.models import cut
from fanlight.parallel import link, norm
from fanlight.parallel.comm import World
from fanlight.parallel.silence import silent
from fanlight.plan import cost, counting, sharding
from fanlight.plan.calibration import Piece
from fanlight.plan.dividing import divided_s
from fanlight.train import memory, precision, probe

BEGIN, WINDOW = "fanlight.plan.turns:begun", "fanlight.plan.turns:window"
WINDOWS = 4
BUDGET_S = 13.0  # of one number of ranks' steps, in all windows and formats: large networks take fewer rows
TURNS_MOST = 8  # of a window: small networks take many in its time
FEWER = 4  # times fewer rows, for the second point of a line
ROWS_LEAST = 4  # of a rank's microbatch


@functools.lru_cache(maxsize=1)
def _bench(config: str, classes: int, world: World) -> probe.Bench:
    """Kept from one window to the next. Gradient buckets are fitted to the link, as a run does."""
    parsed = from_document(json.loads(config), where="a measurement")
    if parsed.execution.layout == "ddp" and parsed.execution.bucket_mb is None:
        parsed = parsed.with_value("execution.bucket_mb", link.measure(world).bucket_mb)
    return probe.Bench(parsed, classes=classes, world=world)


def forget() -> None:
    """The model of the last measurement."""
    _segments.cache_clear()
    _bench.cache_clear()


def begun(world: World, *, config: dict[str, Any], classes: int, formats: int) -> dict[str, Any]:
    """The model is built and has made its first steps, in fp32: what that held, and the two batch sizes that there is time for
    in so many number formats."""
    base_bytes = memory.held_here(world.device)
    bench = _bench(json.dumps(config), classes, world)
    parsed = from_document(config, where="a measurement")
    batch, microbatches, unit = parsed.train.batch_size or 1, parsed.train.microbatches, parsed.augment.row_unit
    least = world.ranks * microbatches * ROWS_LEAST
    first = max(least, min(2 * least, batch // FEWER))
    first_s = _silent_s(bench, world, first)
    found: dict[str, Any] = {"base_bytes": base_bytes, "peak_bytes": memory.peak_here(world.device)}
    found |= {"peak_batch": first // unit * unit, "gpu": "", "gpu_bytes": 0.0}
    if world.device.type == "cuda":
        about = torch.cuda.get_device_properties(world.device)
        found |= {"gpu": about.name, "gpu_bytes": float(about.total_memory)}
    step = cost.through((first, 2 * first), (first_s, _silent_s(bench, world, 2 * first)))
    sizes = [size // unit * unit for size in sizes_of(batch, least=least, step=step, turns=(1 + WINDOWS) * formats)]
    return {**found, "sizes": sizes, "rows": [size / world.ranks / microbatches for size in sizes]}


def sizes_of(batch: int, *, least: int, step: cost.Line, turns: int) -> list[int]:
    """Two batch sizes whose steps, `turns` times three of either, take about the budget or less: a
    quarter of the `batch` and all of it, or as much less as it takes, down to `least` and twice that. `step`: by images."""
    few = max(least, batch // FEWER)
    many = max(batch, 2 * few)
    if step.row_s and 3 * turns * (step.at(few) + step.at(many)) > BUDGET_S:
        most = int((BUDGET_S / turns / 3 - 2 * step.fixed_s) / (1 + 1 / FEWER) / step.row_s)
        many = max(2 * least, min(many, most))
        few = max(least, many // FEWER)
    return [few, many]


def _silent_s(bench: probe.Bench, world: World, size: int) -> float:
    """Seconds of the second of two silent fp32 steps, the mean over ranks."""
    bench.cut(size)
    with silent():
        took_s = [bench.parts_s(number_format="fp32")["total"] for _ in range(2)][-1]
    return float(world.sum_host(np.array([took_s]))[0]) / world.ranks


def window(
    world: World, *, config: dict[str, Any], classes: int, sizes: list[int], precisions: list[str], is_first: bool,
) -> dict[str, Any]:  # fmt: skip
    """Steps of both sizes, silent ones and real ones; what is sent; on one rank, how a step divides over the pieces. The first
    turn of the first window only warms up."""
    bench = _bench(json.dumps(config), classes, world)
    found: dict[str, Any] = {"steps": {}, "pieces": {}, "links": None, "sharding": None}
    for name in precisions:
        if is_first:
            _turn(bench, world, sizes, number_format=name)
        begin = time.perf_counter()
        turns: list[dict[str, Any]] = []
        while len(turns) < TURNS_MOST:
            if turns and world.any(time.perf_counter() - begin > BUDGET_S / WINDOWS / len(precisions)):
                break
            turns.append(_turn(bench, world, sizes, number_format=name))
        found["steps"][name] = turns
        if world.ranks == 1:
            found["pieces"][name] = _pieces(bench, name, rows=sizes[1])
    if world.ranks > 1:
        bench.cut(sizes[0])

        def compute() -> None:
            with silent():
                bench.parts_s(number_format=precisions[-1])

        found["links"] = asdict(link.sweep(world, compute=compute, repeats=1))
        if world.device.type == "cpu":
            found["sharding"] = asdict(sharding.measure(world))
    return found


def _turn(bench: probe.Bench, world: World, sizes: list[int], *, number_format: str) -> dict[str, Any]:
    """Parts of a step of each size with nothing sent and as ddp makes it; of the smaller with the other ranks asleep, too (the
    first rank's; None elsewhere); of the larger with norms that nobody shares, torch's own and quicker (None where there are
    none)."""
    found: dict[str, Any] = {"silent": [], "joined": [], "alone": None, "apart": None}
    for size in sizes:
        bench.cut(size)
        world.barrier()
        with silent():
            found["silent"].append(bench.parts_s(number_format=number_format))
        if world.ranks == 1:
            continue
        if size == sizes[1]:
            world.barrier()
            with silent(), norm.apart(bench.model) as are_shared:
                found["apart"] = bench.parts_s(number_format=number_format) if are_shared else None
        if size == sizes[0]:
            world.barrier()
            if world.is_first:
                with silent():
                    found["alone"] = bench.parts_s(number_format=number_format)
        world.barrier()
        found["joined"].append(bench.parts_s(number_format=number_format))
    return found


@functools.lru_cache(maxsize=1)
def _segments(bench: probe.Bench) -> list[tuple[str, nn.Module]]:
    """Its pieces, which take a while to find."""
    bench.ready(counting.ROWS)
    example = torch.zeros((counting.ROWS, 3, bench.image_px, bench.image_px), device=bench.device)
    return counting.segments(bench.model, example.to(memory_format=torch.channels_last))


def _pieces(bench: probe.Bench, number_format: str, *, rows: int) -> list[Piece]:
    """Of every piece between cuts, once. Gradients are thrown away."""
    model, device, px = bench.model, bench.device, bench.image_px
    x = torch.randn((min(rows, 16), 3, px, px), generator=torch.Generator().manual_seed(0))
    x = x.to(device, memory_format=torch.channels_last)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    found = []
    trains = False  # whether anything up to here does: before that there is no backward
    segments = _segments(bench)
    bench.ready(len(x))
    with cut.modes_kept([model]), precision.autocast(number_format, device):
        for _, segment in segments:
            segment.train()
            leaf = x.detach().requires_grad_(trains)
            with divided_s(segment) as spent:
                begin = now()
                y = segment(leaf)
                middle = now()
            if y.requires_grad:
                with torch.autocast(device.type, enabled=False):
                    y.backward(torch.ones_like(y))
            found.append(Piece(middle - begin, now() - middle, sum(spent) / (middle - begin)))
            trains = trains or any(p.requires_grad for p in segment.parameters())
            x = y.detach()
    model.zero_grad(set_to_none=True)
    return found
