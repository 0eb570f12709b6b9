"""What a rank does for one point in one round: a whole training run, then the probe of where its steps' time goes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from fanlight.parallel.comm import World
from fanlight.study.layouts import probe
from fanlight.train import build, folder, precision
from fanlight.train import job as training

TRAIN, PROBE, LINK, CUTS = (f"fanlight.study.layouts.job:rank_{name}" for name in ("train", "probe", "link", "cuts"))


def rank_train(world: World, *, run: str, entered: float) -> dict[str, Any] | None:
    """The run in folder `run`, to its end; its summary on rank 0."""
    summary = training.rank_main(world, run=run, entered=entered)
    gc.collect()  # the model and its optimizer: the next run's come in their place
    return summary


def rank_probe(world: World, *, run: str, block_s: float, repeats: int, turn: int = 0) -> list[dict[str, Any]]:
    """Blocks of steps of the finished run's configuration, from its last state; one row per block of this rank."""
    world.heartbeat.announce("probe")
    path = Path(run)
    bench = probe.Bench(world, path)
    try:
        return bench.measure(block_s=block_s, repeats=repeats, turn=turn)
    finally:
        del bench
        gc.collect()


def rank_link(world: World, *, run: str) -> dict[str, Any]:
    """What collectives of all ranks take, with nothing else to do and beside a step of the finished run's configuration."""
    world.heartbeat.announce("probe")
    bench = probe.Bench(world, Path(run))
    try:
        return bench.link()
    finally:
        del bench
        gc.collect()


def rank_cuts(world: World, *, run: str) -> list[str]:
    """After which blocks the pipeline of run `run` is cut: measured here, once, so that every round has the same."""
    world.heartbeat.announce("cut")
    config = folder.read_config(Path(run))
    precision.set_up(config.train.precision or "fp32", world.device, deterministic=config.train.deterministic)
    return build.build(config, folder.read_manifest(Path(run)), world, resumed=True).placed.cuts
