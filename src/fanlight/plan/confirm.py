"""Real steps of one layout on this machine, as a run makes them: what is sent is sent, gradient buckets are fitted to the link,
and the next batches are made beside the step by as many input threads, by the loader's own code (inputs.py). What a run does
besides, reading its pack, costs nothing that could be told here."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from fanlight.config import Config, from_document
from fanlight.errors import FanlightError
from fanlight.parallel import link
from fanlight.parallel.comm import World
from fanlight.parallel.launch import Pool
from fanlight.plan import inputs, turns
from fanlight.train import memory, probe

JOB, TURN = "fanlight.plan.confirm:rank_steps", "fanlight.plan.confirm:rank_turn"
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
    return _told(pool.run(JOB, config=config.document(), classes=classes, steps=steps))


def turn(pool: Pool, config: Config, *, classes: int, steps: int) -> Steps:
    """Some steps of several configs that take turns: ranks keep what each needs from its first turn, which warms up, to the
    pool's end."""
    return _told(pool.run(TURN, config=config.document(), classes=classes, steps=steps))


def _told(answers: list[dict[str, Any]]) -> Steps:
    if errors := [answer["error"] for answer in answers if answer["error"]]:
        raise FanlightError(errors[0])
    times = tuple(max(each) for each in zip(*(answer["steps_s"] for answer in answers)))
    return Steps(times, max(answer["peak_bytes"] for answer in answers))


def rank_steps(world: World, *, config: dict[str, Any], classes: int, steps: int) -> dict[str, Any]:
    """What one rank does."""
    memory.forget_peak(world.device)
    with _Ready(config, classes, world) as ready:
        return ready.steps(steps, warmup=WARMUP)


def rank_turn(world: World, *, config: dict[str, Any], classes: int, steps: int) -> dict[str, Any]:
    """What one rank does in a turn."""
    turns.forget()  # the model that calibrated
    key = json.dumps(config, sort_keys=True)
    warmup = 0 if key in _KEPT else WARMUP
    ready = _KEPT[key] if key in _KEPT else _KEPT.setdefault(key, _Ready(config, classes, world))
    told = ready.steps(steps, warmup=warmup)
    if told["error"]:  # on every rank; the others' turns need what it holds
        _KEPT.pop(key).close()
    return told


class _Ready:
    """A model, its step and its input, on one rank."""

    def __init__(self, config: dict[str, Any], classes: int, world: World):
        parsed = from_document(config, where="a plan's steps")
        if parsed.execution.layout == "ddp" and parsed.execution.bucket_mb is None:
            parsed = parsed.with_value("execution.bucket_mb", link.measure(world).bucket_mb)
        self._bench = probe.Bench(parsed, classes=classes, world=world)
        self._crops = _Crops(parsed, rows=self._bench.image_rows)

    def __enter__(self) -> _Ready:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Its input threads end."""
        self._crops.close()

    def steps(self, steps: int, *, warmup: int) -> dict[str, Any]:
        found = self._bench.measure(warmup=warmup, steps=steps, wait=self._crops.wait)
        self._crops.settle()
        return {"steps_s": list(found.steps_s), "peak_bytes": found.peak_bytes, "error": found.error}


_KEPT: dict[str, _Ready] = {}  # of this process, which ends with its pool


class _Crops:
    """A rank's images made ahead of time by input threads, as a run makes them; none where its layers begin with others'."""

    def __init__(self, config: Config, *, rows: int):
        self._made = inputs.Batches(config, rows=rows, workers=config.execution.workers or 1) if rows else None

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def settle(self) -> None:
        """Waits for what was begun, so that nothing is cropped beside another's turn."""
        if self._made is not None:
            self._made.settle()

    def wait(self) -> float:
        """Seconds until the next batch is there; another is begun."""
        begin = time.perf_counter()
        if self._made is not None:
            next(self._made)
        return time.perf_counter() - begin
