"""Real steps of one layout on this machine, as a run makes them: what is sent is sent, gradient buckets are fitted to the link,
and the next batches are made beside the step by as many input threads, by the loader's own code (inputs.py). What a run does
besides, reading its pack, costs nothing that could be told here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from fanlight.config import Config, from_document
from fanlight.errors import FanlightError
from fanlight.parallel import link
from fanlight.parallel.comm import World
from fanlight.parallel.launch import Pool
from fanlight.plan import inputs
from fanlight.train import memory, probe

JOB = "fanlight.plan.confirm:rank_steps"
PRELOAD = ("torch", "timm", "cv2", "fanlight.plan.confirm")
WARMUP = 2


@dataclass(frozen=True)
class Steps:
    """Of all ranks."""

    steps_s: tuple[float, ...]  # of the slowest rank, step by step
    peak_bytes: int  # of the process that held most

    @property
    def step_s(self) -> float:
        return median(self.steps_s)


def measure(config: Config, *, classes: int, steps: int) -> Steps:
    """Of a config whose layout, ranks and threads are decided, on ranks that are started for it. ConfigError or TrainingError
    where it cannot be run."""
    ranks = config.execution.ranks or 1
    with Pool(
        ranks, device=config.execution.device or "cpu", threads=config.execution.threads, preload=PRELOAD
    ) as pool:
        return on(pool, config, classes=classes, steps=steps)


def on(pool: Pool, config: Config, *, classes: int, steps: int) -> Steps:
    """As `measure`, on ranks that are there."""
    answers = pool.run(JOB, config=config.document(), classes=classes, steps=steps)
    if errors := [answer["error"] for answer in answers if answer["error"]]:
        raise FanlightError(errors[0])
    times = tuple(max(each) for each in zip(*(answer["steps_s"] for answer in answers)))
    return Steps(times, max(answer["peak_bytes"] for answer in answers))


def rank_steps(world: World, *, config: dict[str, Any], classes: int, steps: int) -> dict[str, Any]:
    """What one rank does."""
    parsed = from_document(config, where="a plan's steps")
    if parsed.execution.layout == "ddp" and parsed.execution.bucket_mb is None:
        parsed = parsed.with_value("execution.bucket_mb", link.measure(world).bucket_mb)
    memory.forget_peak(world.device)
    bench = probe.Bench(parsed, classes=classes, world=world)
    with _Crops(parsed, rows=bench.image_rows) as crops:
        found = bench.measure(warmup=WARMUP, steps=steps, wait=crops.wait)
    return {"steps_s": list(found.steps_s), "peak_bytes": found.peak_bytes, "error": found.error}


class _Crops:
    """A rank's images made ahead of time by input threads, as a run makes them; none where its layers begin with others'."""

    def __init__(self, config: Config, *, rows: int):
        self._made = inputs.batches(config, rows=rows, workers=config.execution.workers or 1) if rows else None

    def __enter__(self) -> _Crops:
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            self._made.close()

    def wait(self) -> float:
        """Seconds until the next batch is there; another is begun."""
        begin = time.perf_counter()
        if self._made is not None:
            next(self._made)
        return time.perf_counter() - begin
