"""About how long a study takes, before it begins: from one core's own steps, measured for a second or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from fanlight import console
from fanlight.study.layouts import intervals, recipe
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.probe import ALONE_MOST
from fanlight.study.layouts.recipe import Basis
from fanlight.study.layouts.runner import PROBED_ROUNDS
from fanlight.train import probe
from fanlight.train.probe import Bench, likeness

START_S, PER_RUN_S = 6.0, 2.0  # ranks that start, once; a run's model, evaluation and files
KINDS = 4  # of blocks in a repetition, the full one twice; and two more for each rank that is measured alone
BLOCK_STEPS = 4  # of a block, with what comes before it, where steps take longer than the block should
EVALUATION = 0.35  # of a training step's time, for an image that is only scored
SLOW = {
    "fsdp": 1.4,
    "hsdp": 1.4,
    "tensor": 1.6,
    "model-parallel": 2.0,
}  # times a step on as many cores, from experience


class Guess(NamedTuple):
    """Seconds of one run, and of the probe that follows it in the first rounds."""

    run_s: float
    probe_s: float


def seconds(points: Sequence[Point], about: Basis, *, block_s: float, repeats: int) -> dict[str, Guess]:
    """By point's name. A guess, on CPUs right within a factor of two; of GPUs, whose steps nobody has seen yet, only what a
    probe takes, and as much for the run."""
    gpu_s = repeats * (KINDS + 2) * block_s
    found = {point.name: Guess(START_S + gpu_s, gpu_s) for point in points if point.device == "cuda"}
    on_cpus = [point for point in points if point.device == "cpu"]
    if all(point.reason for point in on_cpus):
        return found | {point.name: Guess(0.0, 0.0) for point in on_cpus}
    config = recipe.config_of(Point("serial", 1, "fp32", "cpu", 1, 1), about, seed=0, split_at=None)
    with probe.undisturbed(torch.device("cpu")):
        bench = Bench(config, **likeness(config, about.manifest))
        step_s = min(bench.step() for _ in range(3))
        del bench
    images = len(about.manifest.rows("train")) or len(about.manifest.rows())
    batch = config.train.batch_size or 1
    steps = max(1, images // batch) * (config.train.epochs or 1)
    scored = EVALUATION * 0.25 * images / batch
    for point in on_cpus:
        one_s = step_s / point.cores * SLOW.get(point.layout, 1.0) * (0.7 if point.precision != "fp32" else 1.0)
        probing_s = repeats * (KINDS + 2 * min(point.ranks, ALONE_MOST)) * max(block_s, BLOCK_STEPS * one_s)
        found[point.name] = Guess(PER_RUN_S + (steps + scored) * one_s, probing_s)
    return found


def words(points: Sequence[Point], guess: Mapping[str, Guess], *, rounds: int | None, limit_s: float | None) -> str:
    alive = [point for point in points if not point.reason]
    run_s, probe_s = (sum(times) for times in zip((0.0, 0.0), *(guess[p.name] for p in alive if p.name in guess)))
    few, many = (rounds, rounds) if rounds else (intervals.ROUNDS_LEAST, intervals.ROUNDS_MOST)
    least, most = (
        console.seconds_text(rounds_s)  # at most every round has a probe, where the machine is noisy
        for rounds_s in (few * run_s + min(few, PROBED_ROUNDS) * probe_s, many * (run_s + probe_s))
    )
    told = least + ("" if least == most else f" … {most}")
    turns = console.count_text(many, "round")
    if few != many:
        turns = f"{few} … {turns}, until their intervals are narrow"
    limit = "" if limit_s is None else f"; it ends after {console.seconds_text(limit_s)}"
    return f"{len(alive)} of {console.count_text(len(points), 'point')} can run here, {turns}: about {told}{limit}"
