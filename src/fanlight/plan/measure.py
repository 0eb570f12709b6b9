"""What this machine does, measured with the run's own steps, in less than a minute: the calibration of every prediction.

For one rank with all cores, and for one rank per core:

    steps        two batch sizes, every precision, with nothing sent (parallel/silence.py), all ranks at once: forward, backward,
                 optimizer, rest; and once with all ranks but the first asleep, which tells what neighbours cost each other
    pieces       how forward and backward divide over the network's blocks, on one rank
    collectives  all-reduces of three sizes and a gather, idle; the largest beside a pass (parallel/link.py)

Kept in the cache folder under the fingerprint of machine, versions, network and step: a second plan measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanlight import __version__, console, machine
from fanlight.config import Config, from_document
from fanlight.data import augment, cache
from fanlight.models import cut
from fanlight.parallel import link
from fanlight.parallel.comm import World
from fanlight.parallel.launch import Pool
from fanlight.parallel.silence import silent
from fanlight.plan import cost, counting
from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster, Device
from fanlight.plan.cost import Line
from fanlight.train import memory, precision, probe

JOB = "fanlight.plan.measure:rank_measured"
FOLDER = "plans"  # in the cache
PRELOAD = ("torch", "timm", "cv2", "fanlight.plan.measure")
REPEATS = 5  # steps of each kind that count; the first of a kind does not
QUICKEST = 2  # of them, whose mean is taken
FEWER = 4  # times fewer rows, for the second point of a line
ROWS_LEAST = 4  # of a rank's microbatch
CUTS = 40  # images whose cropping is timed


@dataclass(frozen=True)
class Steps:
    """Of one rank among as many as ran, in one number format."""

    forward: Line  # seconds by rows
    backward: Line
    optimizer_s: float
    rest_s: float  # of the loop and of preparing the batch on its device
    alone: float  # times as long as with the other ranks asleep
    spread: float  # standard deviation of a rank's step time, relative


@dataclass(frozen=True)
class Measured:
    """One machine, one network, one batch."""

    ranks: int
    threads: int
    steps: dict[str, Steps]  # by precision
    base_bytes: int  # of a rank's process without model and batch
    peak_bytes: int  # of a rank's process after steps of `peak_batch` images over all ranks, in fp32
    peak_batch: int
    overhead_s: float = 0.0
    latency_s: float = 0.0
    bytes_per_s: float = 1e30
    steals: float = 0.0

    def cluster(self, name: str) -> Cluster:
        """This machine as a cluster of one node, `ranks` ranks on it."""
        hop = cost.hop_of(self.latency_s, self.bytes_per_s, ranks=max(2, self.ranks))
        spread = statistics.fmean(steps.spread for steps in self.steps.values())
        neighbours = statistics.fmean(steps.alone for steps in self.steps.values())
        share = (neighbours - 1) / (self.ranks - 1) if self.ranks > 1 else 0.0
        device = Device("cpu", machine.cpu_name(), machine.memory_available(), speed=1.0)
        return Cluster(
            name, 1, self.ranks, device, hop, hop, spread=spread,
            contention=max(0.0, share), steals=self.steals, overhead_s=self.overhead_s, is_measured=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Everything that was measured here."""

    fingerprint: str
    took_s: float
    shares: dict[
        str, list[tuple[float, float, float]]
    ]  # by precision, of each block: forward, backward, conversion seconds
    by_ranks: dict[int, Measured]
    input_s: float  # of cropping one image, on one thread

    def nearest(self, ranks: int) -> Measured:
        """What was measured with that many ranks, or with the number nearest to it."""
        return self.by_ranks[min(self.by_ranks, key=lambda each: abs(each - ranks))]

    def blocks(self, counted: Sequence[Block], *, ranks: int, number_format: str) -> list[Block]:
        """The counted blocks with their seconds on one rank of `ranks`, as if it computed alone: what the pieces take in
        proportion, scaled to what whole steps take."""
        measured = self.by_ranks[ranks]
        steps, shares = measured.steps[number_format], self.shares[number_format]
        forward_s, backward_s = (sum(share[i] for share in shares) for i in (0, 1))
        slower = max(1.0, steps.alone)
        return [
            replace(
                block, forward=steps.forward * (share[0] / forward_s / slower),
                backward=steps.backward * (share[1] / backward_s / slower),
            )
            for block, share in zip(counted, shares)
        ]  # fmt: skip


def calibrate(config: Config, *, classes: int, precisions: Sequence[str], anew: bool = False) -> Calibration:
    """Of the resolved serial `config` on this machine's CPUs, from the cache where it was measured before. About a minute."""
    cores = machine.cores_usable()
    mark = fingerprint(config, classes=classes, precisions=precisions, cores=cores)
    path = cache.folder() / FOLDER / f"{mark}.json"
    if not anew and (found := _read(path)):
        console.say(f"  this machine was measured before: {path.name} (in the cache folder)")
        return found
    begin = time.perf_counter()
    console.say("  measuring this machine: steps, blocks, links (less than a minute) …")
    by_ranks = {}
    shares: dict[str, list[tuple[float, float, float]]] = {}
    for ranks in dict.fromkeys((1, cores)):
        threads = max(1, cores // ranks)
        with Pool(ranks, threads=threads, preload=PRELOAD) as pool:
            several: dict[str, object] = {
                "execution.ranks": ranks,
                "execution.threads": threads,
                "execution.layout": "ddp" if ranks > 1 else "serial",
            }
            answers = pool.run(
                JOB,
                config=config.with_values(several).document(),
                classes=classes,
                precisions=list(precisions),
                pieces=ranks == 1,
            )
        by_ranks[ranks] = _of(answers, ranks=ranks, threads=threads)
        shares |= {name: [tuple(each) for each in rows] for name, rows in answers[0]["pieces"].items()}
    found = Calibration(mark, time.perf_counter() - begin, shares, by_ranks, _input_s(config))
    _write(path, found)
    return found


def fingerprint(config: Config, *, classes: int, precisions: Sequence[str], cores: int) -> str:
    """Of everything that the measurements depend on."""
    whole = config.document()
    about = {name: whole[name] for name in ("model", "augment", "optim")}
    about |= {
        "train": {key: whole["train"][key] for key in ("batch_size", "microbatches", "ema")},
        "px": whole["data"]["image_px"],
    }
    about |= {"machine": machine.describe(), "cores": machine.cores(), "usable": cores, "classes": classes}
    about |= {"torch": str(torch.__version__), "fanlight": __version__, "precisions": list(precisions)}
    about |= {"channels_last": config.execution.channels_last}
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]


def rank_measured(
    world: World, *, config: dict[str, Any], classes: int, precisions: list[str], pieces: bool
) -> dict[str, Any]:
    """What one rank measures while all of them do the same."""
    base_bytes = memory.held_here(world.device)
    parsed = from_document(config, where="a measurement")
    bench = probe.Bench(parsed, classes=classes, world=world)
    whole = parsed.train.batch_size or 1
    least = world.ranks * parsed.train.microbatches * ROWS_LEAST
    few = max(least, whole // FEWER)
    sizes = (few, whole if whole >= 2 * few else 2 * few)
    bench.cut(few)
    with silent():
        for _ in range(2):
            bench.parts_s(number_format="fp32")
    held = {"base_bytes": base_bytes, "peak_bytes": memory.peak_here(world.device), "peak_batch": few}
    found: dict[str, Any] = {**held, "rows": [size / world.ranks for size in sizes], "steps": {}}
    for name in precisions:
        times: list[list[dict[str, float]]] = [[] for _ in sizes]
        alone: list[dict[str, float]] = []
        for turn in range(1 + REPEATS):  # in turns, so that what else the machine does falls on all of them
            for index, size in enumerate(sizes):
                bench.cut(size)
                world.barrier()
                with silent():
                    row = bench.parts_s(number_format=name)
                times[index] += [row] if turn else []
            world.barrier()
            if world.is_first and world.ranks > 1:
                with silent():
                    row = bench.parts_s(number_format=name)
                alone += [row] if turn else []
            world.barrier()
        found["steps"][name] = {"times": times, "alone": alone}
    if world.ranks > 1:
        bench.cut(few)

        def compute() -> None:
            with silent():
                bench.parts_s(number_format=precisions[-1])

        found["links"] = asdict(link.sweep(world, compute=lambda: compute()))
    found["pieces"] = {name: _pieces(bench, name, rows=whole) for name in precisions} if pieces else {}
    return found


def _pieces(bench: probe.Bench, number_format: str, *, rows: int) -> list[tuple[float, float, float]]:
    """Forward, backward and conversion seconds of every piece between cuts: the fastest of a few."""
    model, device = bench.model, torch.device("cpu")
    px = bench.image_px
    x = torch.randn((min(rows, 16), 3, px, px), generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    found = []
    bench.ready(2)
    segments = counting.segments(model, x[:2])
    bench.ready(len(x))
    with cut.modes_kept([model]), precision.autocast(number_format, device):
        for index, (_, segment) in enumerate(segments):
            segment.train()
            forward, backward = [], []
            for _ in range(3):
                leaf = x.detach().requires_grad_(index > 0)
                begin = time.perf_counter()
                y = segment(leaf)
                middle = time.perf_counter()
                with torch.autocast("cpu", enabled=False):
                    y.backward(torch.ones_like(y))
                forward.append(middle - begin)
                backward.append(time.perf_counter() - middle)
            found.append((min(forward), min(backward), 0.0))
            x = y.detach()
    return found


def _of(answers: list[dict[str, Any]], *, ranks: int, threads: int) -> Measured:
    """The ranks' answers together."""
    steps = {name: _steps([a["steps"][name] for a in answers], rows=answers[0]["rows"]) for name in answers[0]["steps"]}
    base, peak = (round(statistics.fmean(a[key] for a in answers)) for key in ("base_bytes", "peak_bytes"))
    held = (base, peak, int(answers[0]["peak_batch"]))
    if ranks == 1:
        return Measured(ranks, threads, steps, *held)
    told = link.Sending(
        **{**answers[0]["links"], "all_reduce_s": {int(k): v for k, v in answers[0]["links"]["all_reduce_s"].items()}}
    )
    overhead_s, latency_s, rate = cost.collective(told.all_reduce_s, told.gather_s)
    return Measured(ranks, threads, steps, *held, overhead_s, latency_s, rate, told.steals)


def _steps(each: list[dict[str, Any]], *, rows: Sequence[float]) -> Steps:
    """Means over ranks of their quicker steps, since what else runs on a machine only adds; the scatter of a rank's own."""

    def quick(times: list[dict[str, float]], *parts: str) -> float:
        return statistics.fmean(sorted(sum(row[part] for part in parts) for row in times)[:QUICKEST])

    few, many = ([rank["times"][i] for rank in each] for i in (0, 1))
    lines = []
    for part in ("forward", "backward"):
        at = [statistics.fmean(quick(times, part) for times in ranks) for ranks in (few, many)]
        lines.append(cost.through((rows[0], rows[1]), (at[0], at[1])))
    optimizer_s = statistics.fmean(quick(times, "optimizer") for ranks in (few, many) for times in ranks)
    rest_s = statistics.fmean(quick(times, "copy", "rest") for ranks in (few, many) for times in ranks)
    slower = [
        quick(times, "forward", "backward") / quick(rank["alone"], "forward", "backward")
        for times, rank in zip(many, each) if rank["alone"]
    ]  # fmt: skip
    alone = (
        min(max(1.0, *slower), float(len(each))) if slower else 1.0
    )  # one core for all would be as many times slower
    scatter = [statistics.stdev(row["total"] for row in times) / quick(times, "total") for times in many]
    return Steps(lines[0], lines[1], optimizer_s, rest_s, alone, min(scatter))


def _input_s(config: Config) -> float:
    """Seconds of cropping one canvas to the model's square, on one thread."""
    side, px = config.data.canvas_px or 0, config.data.image_px or 0
    canvas, out = np.zeros((side, side, 3), np.uint8), np.empty((px, px, 3), np.uint8)
    places = np.zeros(CUTS, np.int64)
    sides = np.full(CUTS, side, np.int64)
    boxes = augment.Boxes(left=places, top=places, width=sides, height=sides, mirror=np.arange(CUTS) % 2 == 0)
    begin = time.perf_counter()
    for index in range(CUTS):
        augment.cut(canvas, boxes, index, out=out)
    return (time.perf_counter() - begin) / CUTS


def _write(path: Path, found: Calibration) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(found)), encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> Calibration | None:
    """What was kept; None where there is nothing that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        by_ranks = {}
        for ranks, each in told["by_ranks"].items():
            steps = {
                name: Steps(**{**one, "forward": Line(**one["forward"]), "backward": Line(**one["backward"])})
                for name, one in each["steps"].items()
            }
            by_ranks[int(ranks)] = Measured(**{**each, "steps": steps})
        shares = {name: [(a, b, c) for a, b, c in rows] for name, rows in told["shares"].items()}
        return Calibration(told["fingerprint"], told["took_s"], shares, by_ranks, told["input_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
