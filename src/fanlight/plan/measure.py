"""What this machine does, measured with the run's own steps, in less than a minute: the calibration of every prediction.

For one rank with all cores or one GPU, for one rank per core or GPU, and for the numbers of ranks between that are asked about:

    steps        two batch sizes, every precision, with nothing sent (parallel/silence.py), all ranks at once: forward, backward,
                 optimizer, rest; and once with all ranks but the first asleep, which tells what neighbours cost each other
    pieces       how forward and backward divide over the network's blocks, on one rank
    collectives  all-reduces of three sizes and a gather, idle; the largest beside a pass (parallel/link.py)

Kept in the cache folder under the fingerprint of machine, its power state, versions, network and step: a second plan measures
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
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
from fanlight.plan import calibration, cost, counting
from fanlight.plan.calibration import Calibration, Measured, Piece, Steps
from fanlight.plan.dividing import divided_s
from fanlight.train import devices, memory, precision, probe

JOB = "fanlight.plan.measure:rank_measured"
FOLDER = "plans"  # in the cache
PRELOAD = ("torch", "timm", "cv2", "fanlight.plan.measure")
FORM = 4  # of what is kept: a file of another is measured anew
BUDGET_S = 16.0  # of the steps of one number of ranks, in all number formats: large networks are measured on fewer rows
REPEATS, REPEATS_LEAST = 5, 3  # steps of each kind that count; the first of a kind does not
FEWER = 4  # times fewer rows, for the second point of a line
ROWS_LEAST = 4  # of a rank's microbatch
DECIDES = ("OMP_", "KMP_", "GOMP_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_", "MALLOC_", "LD_PRELOAD")  # environment
CUTS = 40  # images whose cropping is timed


def calibrate(
    config: Config, *, classes: int, precisions: Sequence[str], ranks: Sequence[int] = (), anew: bool = False
) -> Calibration:  # fmt: skip
    """Of the resolved serial `config` on the device that it names, from the cache where it was measured before. About a minute.
    `ranks`: numbers of them that are asked about; those that this machine has cores, or GPUs, for are measured, too."""
    device, cores = config.execution.device or "cpu", machine.cores_usable()
    most = places(device)
    mark = fingerprint(config, classes=classes, precisions=precisions, cores=cores)
    path = cache.folder() / FOLDER / f"{mark}.json"
    kept = None if anew else calibration.read(path)
    known = {} if kept is None else kept.by_ranks
    wanted = [each for each in dict.fromkeys((1, *sorted(ranks), most)) if each <= most and each not in known]
    if kept is not None and not wanted:
        console.say(f"  this machine was measured before: {path.name} (in the cache folder)")
        return kept
    begin = time.perf_counter()
    console.say("  measuring this machine: steps, blocks, links (less than a minute) …")
    by_ranks = dict(known)
    shares = {} if kept is None else dict(kept.shares)
    for count in wanted:
        threads = threads_of(config, ranks=count, cores=cores)
        with Pool(count, device=device, threads=threads, preload=PRELOAD) as pool:
            several: dict[str, object] = {
                "execution.ranks": count, "execution.threads": threads, "execution.recompute": False,
                "execution.layout": "ddp" if count > 1 else "serial",
            }  # fmt: skip
            answers = pool.run(
                JOB,
                config=config.with_values(several).document(),
                classes=classes,
                precisions=list(precisions),
                pieces=count == 1,
            )
        by_ranks[count] = _of(answers, ranks=count, threads=threads)
        shares |= {name: [Piece(*each) for each in rows] for name, rows in answers[0]["pieces"].items()}
    took_s = time.perf_counter() - begin + (kept.took_s if kept else 0.0)
    found = Calibration(
        mark, took_s, shares, dict(sorted(by_ranks.items())), kept.input_s if kept else _input_s(config)
    )
    calibration.write(path, found)
    return found


def places(device: str) -> int:
    """How many ranks compute at the same time on this machine: one on each GPU, or core."""
    return devices.gpus_visible() if device == "cuda" else machine.cores_usable()


def threads_of(config: Config, *, ranks: int, cores: int) -> int:
    """Of each of `ranks` ranks, as a run has them: those that were asked for, else its share of the cores."""
    asked = config.execution.threads if "execution.threads" in config.asked else None
    return asked or max(1, cores // ranks)


def fingerprint(config: Config, *, classes: int, precisions: Sequence[str], cores: int) -> str:
    """Of everything that the measurements depend on. What another machine, library or power state measured is not found."""
    whole = config.document()
    about = {name: whole[name] for name in ("model", "augment", "optim")}
    about |= {
        "train": {key: whole["train"][key] for key in ("batch_size", "microbatches", "ema", "deterministic")},
        "px": [whole["data"][key] for key in ("image_px", "canvas_px")],
    }
    about |= {"machine": machine.describe(), "cores": machine.cores(), "usable": cores, "classes": classes}
    about |= {"power": machine.power(), "threads": threads_of(config, ranks=1, cores=cores)}
    about |= {"environment": {name: value for name, value in os.environ.items() if name.startswith(DECIDES)}}
    about |= {"torch": str(torch.__version__), "fanlight": __version__, "form": FORM, "precisions": list(precisions)}
    about |= {name: metadata.version(name) for name in ("timm", "torchvision")}  # whose networks change
    about |= {"channels_last": config.execution.channels_last, "device": config.execution.device}
    if config.execution.device == "cuda":
        about |= {"gpus": [torch.cuda.get_device_name(each) for each in range(places("cuda"))]}
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
    first = max(least, min(2 * least, whole // FEWER))
    bench.cut(first)
    with silent():
        took_s = [bench.parts_s(number_format="fp32")["total"] for _ in range(2)][-1]
    held: dict[str, Any] = {"base_bytes": base_bytes, "peak_bytes": memory.peak_here(world.device), "peak_batch": first}
    held |= {"gpu": "", "gpu_bytes": 0.0}
    if world.device.type == "cuda":
        about = torch.cuda.get_device_properties(world.device)
        held |= {"gpu": about.name, "gpu_bytes": float(about.total_memory)}
    row_s = float(world.sum_host(np.array([took_s]))[0]) / world.ranks / first
    sizes = _sizes(whole, least=least, row_s=row_s, turns=(1 + REPEATS_LEAST) * len(precisions))
    sizes = [size // parsed.augment.row_unit * parsed.augment.row_unit for size in sizes]
    few, microbatches = sizes[0], parsed.train.microbatches
    rows = [size / world.ranks / microbatches for size in sizes]
    found: dict[str, Any] = {**held, "rows": rows, "microbatches": microbatches, "steps": {}}
    for name in precisions:
        times: list[list[dict[str, float]]] = [[] for _ in sizes]
        alone: list[dict[str, float]] = []
        begin = time.perf_counter()
        for turn in range(1 + REPEATS):  # in turns, so that what else the machine does falls on all of them
            if turn > REPEATS_LEAST and world.any(time.perf_counter() - begin > BUDGET_S / len(precisions)):
                break
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
    found["pieces"] = {name: _pieces(bench, name, rows=sizes[1]) for name in precisions} if pieces else {}
    return found


def _sizes(whole: int, *, least: int, row_s: float, turns: int) -> list[int]:
    """Two batch sizes whose steps, `turns` of each and of the larger twice, take about the budget or less: a quarter of the
    `whole` batch and all of it, or as much less as it takes, down to `least` and twice that."""
    few = max(least, whole // FEWER)
    many = max(whole, 2 * few)
    most = int(BUDGET_S / (turns * row_s * (2 + 1 / FEWER)))
    if many > most:
        many = max(2 * least, most)
        few = max(least, many // FEWER)
    return [few, many]


def _pieces(bench: probe.Bench, number_format: str, *, rows: int) -> list[Piece]:
    """Of every piece between cuts: the fastest of a few."""
    model, device = bench.model, bench.device
    px = bench.image_px
    x = torch.randn((min(rows, 16), 3, px, px), generator=torch.Generator().manual_seed(0))
    x = x.to(device, memory_format=torch.channels_last)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    found = []
    trains = False  # whether anything up to here does: before that there is no backward
    bench.ready(2)
    segments = counting.segments(model, x[:2])
    bench.ready(len(x))
    with cut.modes_kept([model]), precision.autocast(number_format, device):
        for _, segment in segments:
            segment.train()
            forward, backward, inside = [], [], []
            for _ in range(3):
                leaf = x.detach().requires_grad_(trains)
                with divided_s(segment) as spent:
                    begin = now()
                    y = segment(leaf)
                    middle = now()
                inside.append(sum(spent) / (middle - begin))
                if y.requires_grad:
                    with torch.autocast(device.type, enabled=False):
                        y.backward(torch.ones_like(y))
                forward.append(middle - begin)
                backward.append(now() - middle)
            found.append(Piece(min(forward), min(backward), statistics.median(inside)))
            trains = trains or any(p.requires_grad for p in segment.parameters())
            x = y.detach()
    return found


def _of(answers: list[dict[str, Any]], *, ranks: int, threads: int) -> Measured:
    """The ranks' answers together."""
    cut = {"rows": answers[0]["rows"], "microbatches": answers[0]["microbatches"]}
    steps = {name: _steps([a["steps"][name] for a in answers], **cut) for name in answers[0]["steps"]}
    base, peak = (round(statistics.fmean(a[key] for a in answers)) for key in ("base_bytes", "peak_bytes"))
    held = (base, peak, int(answers[0]["peak_batch"]))
    gpu = {key: answers[0][key] for key in ("gpu", "gpu_bytes")}
    if ranks == 1:
        return Measured(ranks, threads, steps, *held, **gpu)
    told = link.Sending(
        **{**answers[0]["links"], "all_reduce_s": {int(k): v for k, v in answers[0]["links"]["all_reduce_s"].items()}}
    )
    overhead_s, latency_s, rate = cost.collective(told.all_reduce_s, told.gather_s)
    return Measured(ranks, threads, steps, *held, overhead_s, latency_s, rate, told.steals, **gpu)


def _steps(each: list[dict[str, Any]], *, rows: Sequence[float], microbatches: int) -> Steps:
    """Means over ranks of their middle steps: a run has the machine as it is, not at its best; the scatter of a rank's own.
    `rows`: of each of a step's `microbatches` on a rank, whose forward and backward the lines are of."""

    def middle(times: list[dict[str, float]], *parts: str) -> float:
        return statistics.median(sum(row[part] for part in parts) for row in times)

    few, many = ([rank["times"][i] for rank in each] for i in (0, 1))
    lines = []
    for part in ("forward", "backward"):
        at = [statistics.fmean(middle(times, part) for times in ranks) / microbatches for ranks in (few, many)]
        lines.append(cost.through((rows[0], rows[1]), (at[0], at[1])))
    optimizer_s = statistics.fmean(middle(times, "optimizer") for ranks in (few, many) for times in ranks)
    rest_s = statistics.fmean(middle(times, "copy", "rest") for ranks in (few, many) for times in ranks)
    slower = [
        middle(times, "forward", "backward") / middle(rank["alone"], "forward", "backward")
        for times, rank in zip(many, each) if rank["alone"]
    ]  # fmt: skip
    alone = (
        min(max(1.0, *slower), float(len(each))) if slower else 1.0
    )  # one core for all would be as many times slower
    scatter = [statistics.stdev(row["total"] for row in times) / middle(times, "total") for times in many]
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
