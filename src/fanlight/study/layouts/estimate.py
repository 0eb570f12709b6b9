"""About how long a study takes, before it begins: from one core's own steps, measured for a second or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fanlight import console
from fanlight.study.layouts import intervals, recipe
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.probe import ALONE_MOST
from fanlight.study.layouts.recipe import Basis
from fanlight.train import probe
from fanlight.train.probe import Bench, likeness

START_S, PER_RUN_S = 6.0, 2.0  # ranks that start, once; a run's model, evaluation and files
KINDS = 3  # of blocks in a repetition, and two more for each rank that is measured alone
BLOCK_STEPS = 5  # of a block, with what comes before it, where steps take longer than the block should
EVALUATION = 0.35  # of a training step's time, for an image that is only scored
SLOW = {"fsdp": 1.4, "tensor": 1.6, "model-parallel": 2.0}  # times a step on as many cores, from experience


def seconds(points: Sequence[Point], about: Basis, *, block_s: float, repeats: int) -> dict[str, float]:
    """Of one run with its probe, by point's name. A guess, right within a factor of two."""
    config = recipe.config_of(Point("serial", 1, "fp32", "cpu", 1, 1), about, seed=0, split_at=None)
    if about.config.execution.device == "cuda":
        return {point.name: START_S + 2 * repeats * (KINDS + 2) * block_s for point in points}
    with probe.undisturbed(torch.device("cpu")):
        bench = Bench(config, **likeness(config, about.manifest))
        step_s = min(bench.step() for _ in range(3))
        del bench
    images = len(about.manifest.rows("train")) or len(about.manifest.rows())
    batch = config.train.batch_size or 1
    steps = max(1, images // batch) * (config.train.epochs or 1)
    scored = EVALUATION * 0.25 * images / batch
    found = {}
    for point in points:
        one_s = step_s / point.cores * SLOW.get(point.layout, 1.0) * (0.7 if point.precision != "fp32" else 1.0)
        probing_s = repeats * (KINDS + 2 * min(point.ranks, ALONE_MOST)) * max(block_s, BLOCK_STEPS * one_s)
        found[point.name] = PER_RUN_S + (steps + scored) * one_s + probing_s
    return found


def words(points: Sequence[Point], guess_s: Mapping[str, float], *, rounds: int | None, limit_s: float | None) -> str:
    alive = [point for point in points if not point.reason]
    each_s = sum(guess_s.get(point.name, 0.0) for point in alive)
    few, many = (rounds, rounds) if rounds else (intervals.ROUNDS_LEAST, intervals.ROUNDS_MOST)
    told = console.seconds_text(few * each_s) + ("" if few == many else f" … {console.seconds_text(many * each_s)}")
    turns = f"{few}" if few == many else f"{few} … {many}, until their intervals are narrow"
    limit = "" if limit_s is None else f"; it ends after {console.seconds_text(limit_s)}"
    return f"{len(alive)} points of {len(points)} can run here, {turns} rounds: about {told}{limit}"
