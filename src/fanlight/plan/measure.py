"""What this machine does, measured with the run's own steps, in about a minute: the calibration of every prediction.

For one rank with all cores or one GPU, for one rank per core or GPU, and for the numbers of ranks between that are asked about
(turns.py):

    steps        two batch sizes, every precision, with nothing sent (parallel/silence.py), all ranks at once: forward, backward,
                 optimizer, rest; with all ranks but the first asleep, which tells what neighbours cost each other; and as ddp
                 makes them, which tells how long they wait (waiting.py)
    pieces       how forward and backward divide over the network's blocks, on one rank
    collectives  all-reduces of two sizes and a gather, idle; the largest beside a pass (parallel/link.py); sharded blocks
                 (sharding.py)

The pace of a machine that others use changes within seconds. So nothing is measured at one time: on CPUs the numbers of ranks
take turns, in windows of a few seconds, and what counts is the median over windows; ratios are of steps of the same window. Kept
in the cache folder under the fingerprint of machine, its power state, versions, network and step: a second plan measures nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from fanlight import __version__, console, machine
from fanlight.config import Config
from fanlight.data import cache
from fanlight.parallel import link
from fanlight.plan import calibration, cost, inputs, sharding, turns, waiting
from fanlight.plan.blocks import Block
from fanlight.plan.calibration import Calibration, Measured, Piece, Steps
from fanlight.plan.pools import Pools
from fanlight.train import devices

FOLDER = "plans"  # in the cache
FORM = 11  # of what is kept: a file of another is measured anew
DECIDES = ("OMP_", "KMP_", "GOMP_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_", "MALLOC_", "LD_PRELOAD")  # environment
Turn = dict[str, Any]  # of one rank: steps of both sizes, silent and joined, and one alone
Answer = dict[str, Any]
Answers = tuple[list[Answer], list[list[Answer]]]  # of the ranks to their beginning; to each window


def calibrate(
    config: Config, counted: Sequence[Block], *, classes: int, precisions: Sequence[str], ranks: Sequence[int] = (),
    anew: bool = False, pools: Pools | None = None,
) -> Calibration:  # fmt: skip
    """Of the resolved serial `config` and its network's `counted` pieces on the device that it names, from the cache where it was
    measured before. About a minute.
    `ranks`: numbers of them that are asked about; those that this machine has cores, or GPUs, for are measured, too. `pools`:
    where ranks are found and left; None: they are started and end here."""
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
    console.say("  measuring this machine: steps, blocks, links (about a minute) …")
    by_ranks = dict(known)
    shares = {} if kept is None else dict(kept.shares)
    with contextlib.ExitStack() as own:
        there = pools or own.enter_context(Pools(device))
        # On GPUs, whose pace is steady and whose memory is dear, one number of ranks after the other.
        for counts in [wanted] if device == "cpu" else [[each] for each in wanted]:
            measured = _measured(counts, config, there, classes=classes, precisions=precisions)
            for count, (first, windows) in measured.items():
                by_ranks[count] = _of(first, windows, ranks=count, threads=threads_of(config, ranks=count, cores=cores))
                shares |= _shares(windows) if count == 1 else {}
    took_s = time.perf_counter() - begin + (kept.took_s if kept else 0.0)
    input_s = kept.input_s if kept else inputs.seconds(config)
    found = Calibration(mark, took_s, shares, dict(sorted(by_ranks.items())), input_s)
    found = waiting.fitted(found, config, counted)
    calibration.write(path, found)
    return found


def _measured(
    counts: Sequence[int], config: Config, pools: Pools, *, classes: int, precisions: Sequence[str]
) -> dict[int, Answers]:
    """By number of ranks, what its ranks say of their beginning and of each window."""
    cores = machine.cores_usable()
    found: dict[int, Answers] = {}
    configs = {}
    threads = {count: threads_of(config, ranks=count, cores=cores) for count in counts}
    if config.execution.device == "cuda":
        pools.keep(threads.items())
    for count in counts:
        several: dict[str, object] = {
            "execution.ranks": count, "execution.threads": threads[count], "execution.recompute": False,
            "execution.layout": "ddp" if count > 1 else "serial",
        }  # fmt: skip
        configs[count] = {"config": config.with_values(several).document(), "classes": classes}
        pools.of(count, threads[count])  # all of them start before any works
    for count in counts:
        begun = pools.of(count, threads[count]).run(turns.BEGIN, **configs[count], formats=len(precisions))
        found[count] = begun, []
    for turn in range(turns.WINDOWS):
        for count in counts:
            sizes = found[count][0][0]["sizes"]
            answers = pools.of(count, threads[count]).run(
                turns.WINDOW, **configs[count], sizes=sizes, precisions=list(precisions), is_first=turn == 0
            )
            found[count][1].append(answers)
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
    about |= {"bucket_mb": config.execution.bucket_mb}  # of real steps
    if config.execution.device == "cuda":
        about |= {"gpus": [torch.cuda.get_device_name(each) for each in range(places("cuda"))]}
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _of(first: list[Answer], windows: list[list[Answer]], *, ranks: int, threads: int) -> Measured:
    """The ranks' answers together."""
    rows = first[0]["rows"]
    sizes = tuple(first[0]["sizes"])
    microbatches = round(sizes[1] / ranks / rows[1])
    steps = {
        name: _steps(
            [[rank["steps"][name] for rank in window] for window in windows], rows=rows, microbatches=microbatches
        )
        for name in windows[0][0]["steps"]
    }
    base, peak = (round(statistics.fmean(a[key] for a in first)) for key in ("base_bytes", "peak_bytes"))
    held = (base, peak, int(first[0]["peak_batch"]))
    about = {"sizes": sizes, "microbatches": microbatches, **{key: first[0][key] for key in ("gpu", "gpu_bytes")}}
    if ranks == 1:
        return Measured(ranks, threads, steps, *held, **about)
    links = [link.Sending.of(window[0]["links"]) for window in windows]
    reduced_s = {size: statistics.median(each.all_reduce_s[size] for each in links) for size in links[0].all_reduce_s}
    sent = cost.collective(reduced_s, statistics.median(each.gather_s for each in links))
    found = Measured(ranks, threads, steps, *held, *sent, statistics.median(each.steals for each in links), **about)
    passes = [sharding.Passes.of(window[0]["sharding"]) for window in windows if window[0]["sharding"]]
    return replace(found, passes=sharding.lines(passes)) if passes else found


def _shares(windows: list[list[Answer]]) -> dict[str, list[Piece]]:
    """By number format, the pieces' middle seconds."""
    found = {}
    for name in windows[0][0]["pieces"]:
        each = zip(*(window[0]["pieces"][name] for window in windows))
        found[name] = [Piece(*(statistics.median(values) for values in zip(*piece))) for piece in each]
    return found


def _steps(windows: list[list[list[Turn]]], *, rows: Sequence[float], microbatches: int) -> Steps:
    """From the turns of every rank in every window: medians of windows' medians, since a run has the machine as it is, not at its
    best; means over ranks. `rows`: of each of a step's `microbatches` on a rank, whose forward and backward the lines are of."""

    def middle(size: int, *parts: str) -> float:
        """Of silent steps."""
        return statistics.median(
            statistics.fmean(statistics.median(_sum(turn["silent"][size], *parts) for turn in rank) for rank in window)
            for window in windows
        )

    lines = []
    for part in ("forward", "backward"):
        at = [middle(size, part) / microbatches for size in (0, 1)]
        lines.append(cost.through((rows[0], rows[1]), (at[0], at[1])))
    optimizer_s, rest_s = (
        statistics.fmean(middle(size, *parts) for size in (0, 1)) for parts in (("optimizer",), ("copy", "rest"))
    )
    totals = [turn["silent"][1]["total"] for window in windows for rank in window for turn in rank]
    noise = statistics.stdev(totals) / statistics.median(totals) if len(totals) > 1 else 0.0
    count = len(windows[0])
    if count == 1:
        return Steps(lines[0], lines[1], optimizer_s, rest_s, 1.0, noise)
    alone = statistics.median(_alone(window[0]) for window in windows)
    joined = tuple(max(1.0, statistics.median(_joined(window, size) for window in windows)) for size in (0, 1))
    forward, backward = (
        statistics.median(_shared(window, part) for window in windows) for part in ("forward", "backward")
    )
    alone = min(max(1.0, alone), float(count))  # one core for all would be as many times slower
    return Steps(
        lines[0], lines[1], optimizer_s, rest_s, alone, noise, (joined[0], joined[1]), norms=(forward, backward)
    )


def _alone(turns: list[Turn]) -> float:
    """Times as long as with the others asleep, of the first rank's smaller steps."""
    parts = ("forward", "backward")
    beside = statistics.median(_sum(turn["silent"][0], *parts) for turn in turns)
    return beside / statistics.median(_sum(turn["alone"], *parts) for turn in turns)


def _shared(window: list[list[Turn]], part: str) -> float:
    """Times as long, a pass of the larger batch, as with norms that are not shared."""
    if window[0][0]["apart"] is None:
        return 1.0
    with_it, without = (
        statistics.fmean(statistics.median(row[part] for row in rows) for rows in each)
        for each in (
            [[turn["silent"][1] for turn in rank] for rank in window], [[turn["apart"] for turn in rank] for rank in window]
        )
    )  # fmt: skip
    return with_it / without


def _joined(window: list[list[Turn]], size: int) -> float:
    """Times as long as with nothing sent: of the slowest rank, as all wait for it, against the mean one."""
    together = statistics.median(max(rank["joined"][size]["total"] for rank in turn) for turn in zip(*window))
    silent = [statistics.median(turn["silent"][size]["total"] for turn in rank) for rank in window]
    return together / statistics.fmean(silent)


def _sum(row: dict[str, float], *parts: str) -> float:
    return sum(row[part] for part in parts)
