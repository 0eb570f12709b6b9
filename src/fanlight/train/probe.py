"""Real training steps on images made up in memory: what a configuration costs here, before a run is decided.

The model, the step and the optimizer are the run's own; images are random, weights are thrown away, and this process is
left as it was. P image side, b rows of a microbatch on this rank.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypedDict, Unpack

import numpy as np
import torch

from fanlight import machine, tasks
from fanlight.config import Config, from_document
from fanlight.data import manifest as manifests
from fanlight.data import mix, order, policy
from fanlight.data.manifest import Manifest
from fanlight.data.vocabulary import SPECIAL
from fanlight.errors import FanlightError
from fanlight.models import tail
from fanlight.parallel import comm
from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.parallel.launch import Pool
from fanlight.train import build, layouting, memory, precision
from fanlight.train.clock import StepClock
from fanlight.train.step import listeners, tell_example
from fanlight.train.training import Training
from fanlight.types import Batch, Position, Rows

JOB = "fanlight.train.probe:rank_step"
WARMUP, STEPS = 2, 3
FEATURE_STEPS = 20  # of the last layer alone, which are quick and so more uneven


@dataclass(frozen=True)
class Timed:
    """What was measured: times of single steps, and the most memory that this process held meanwhile."""

    steps_s: tuple[float, ...] = ()
    peak_bytes: int = 0  # on the device; on CPUs of this process, everything it held
    held_bytes: int = 0  # afterwards, counted alike
    error: str = ""  # why there is no time: memory that could not be had

    @property
    def step_s(self) -> float:
        return median(self.steps_s)


class Like(TypedDict, total=False):
    """What the outputs and targets of a run are like."""

    classes: int
    words: int  # of a vocabulary, the special ones left out
    captions: int  # of an image
    longest: int  # words of a caption


class Bench:
    """One built model, ready for single timed steps. All ranks of `world` step together; None: this process alone.

    In a world of one a config of several ranks is measured by one rank's share of the rows.
    """

    def __init__(self, config: Config, *, world: World | None = None, **like: Unpack[Like]):
        """`like`: what the outputs and targets of the run are like, as `likeness` gives it."""
        if world is None:
            world = comm.alone(config.execution.device or "cpu")
            unit = config.augment.row_unit
            parts = layouts.of(config.execution, ranks=config.execution.ranks).data_ranks
            rows = max(1, (config.train.batch_size or 1) // parts // unit) * unit
            config = config.with_values(
                {"train.batch_size": rows, "execution.ranks": 1, "execution.layout": "serial", **layouting.PLAIN}
            )  # fmt: skip
        if world.device.type == "cpu":
            machine.keep_freed_memory()  # as a run does
        # What speaks of real images and classes, and costs a step nothing, is left out.
        plain: dict[str, object] = {
            "data.order": "random",
            "data.sampling": Config().data.sampling,
            "optim.class_weights": None,
            "caption.min_count": 1,
            # Steps on features are not measured, nor those of a first phase: what all of the network takes is.
            "execution.cache_features": False,
            "model.freeze_epochs": 0,
        }
        config = config.with_values(plain)
        manifest = made_up(count=config.train.batch_size or 1, **like)
        # `resumed`: no file and no hub is asked for weights, which cost the same whatever they are.
        self._t = build.build(config, manifest, world, where=_NoImages(), resumed=True)
        if self._t.step.compiled is not None:
            self._t.step.compiled.on()
        self._batch, self._clock = made_up_batch(self._t), StepClock(world.device)
        self._threads, self._precision = config.execution.threads or 1, config.train.precision or "fp32"
        self._deterministic = config.train.deterministic

    def step(self, *, number_format: str | None = None, threads: int | None = None) -> float:
        """Seconds of one whole step, optimizer included; in another number format, or on other threads, of one model.

        The cost of fp16's loss scaling, one look at the gradients' norm, is not part of it.
        """
        device = self._t.world.device
        number_format = number_format or self._precision
        torch.set_num_threads(threads or self._threads)
        precision.set_up(number_format, device, deterministic=self._deterministic)
        self._t.step.number_format = number_format
        with warnings.catch_warnings():
            if self._t.step.compiled is not None:
                warnings.simplefilter("ignore")  # of torch about its own insides
            return timed(self._t, self._batch, self._clock, update=True)

    @property
    def model(self) -> torch.nn.Module:
        return self._t.model

    @property
    def device(self) -> torch.device:
        return self._t.world.device

    @property
    def image_px(self) -> int:
        return self._t.cutting.image_px

    def ready(self, rows: int) -> None:
        """Keyed dropout is prepared for a forward of so many made-up rows."""
        samples = torch.zeros(rows, dtype=torch.int64, device=self._t.world.device)
        self._t.keys.set(seed=0, epoch=0, samples=samples)

    def parts_s(self, *, number_format: str | None = None) -> dict[str, float]:
        """Seconds of one step as `step` makes it, by the clock's parts; `rest` is what none of them has."""
        device = self._t.world.device
        number_format = number_format or self._precision
        torch.set_num_threads(self._threads)
        precision.set_up(number_format, device, deterministic=self._deterministic)
        self._t.step.number_format = number_format
        _wait(device)
        self._clock.begin()
        self._clock.arrived()
        self._t.step(self._batch, loss_scale=self._t.optimizer.loss_scale, clock=self._clock)
        self._t.ready()
        self._t.move(0)
        self._clock.mark("optimizer")
        self._clock.end(step=0, epoch=0, images=self._batch.rows)
        row = self._clock.finish()[-1]
        found = {name.removesuffix("_s"): value for name, value in row.items() if name.endswith("_s")}
        return {**found, "rest": found["total"] - sum(value for name, value in found.items() if name != "total")}

    def feature_step_s(self) -> float:
        """Seconds of a step of the last layer alone, on features that are there, optimizer included. Serial only."""
        model, rows = self._t.step.parts[0], self._t.config.train.batch_size or 1
        px, device = self._t.config.data.image_px or 0, self._t.world.device
        model.eval()
        last = tail.Tail(model)
        features = tail.features(model, torch.zeros((rows, 3, px, px), device=device)).clone()
        task, told = self._t.task, listeners([last])
        made = task.example(rows)
        targets = torch.zeros(rows, dtype=torch.long) if made is None else torch.from_numpy(made)
        targets = targets.to(device)
        tell_example(task, told, rows=rows, device=device)
        times = []
        for _ in range(WARMUP + FEATURE_STEPS):
            _wait(device)
            begin = time.perf_counter()
            task.loss_sum(last(features), targets).backward()
            self._t.update(0)
            _wait(device)
            times.append(time.perf_counter() - begin)
        return median(times[WARMUP:])

    def cut(self, batch: int) -> None:
        """From now on with so many rows over all ranks of the world."""
        unit = self._t.cutting.augment.row_unit
        self._batch = made_up_batch(self._t, batch=max(1, batch // unit) * unit)

    @property
    def image_rows(self) -> int:
        """Images that this rank's batch holds: none where its layers begin with what others computed."""
        return sum(len(part.images) for part in self._batch.parts if part.images is not None)

    def measure(
        self, *, batch: int | None = None, warmup: int = WARMUP, steps: int = STEPS, wait: Callable[[], float] | None = None
    ) -> Timed:  # fmt: skip
        """Several steps and their peak of memory; `batch` as `cut` takes it. `wait`: what a step waits for before it begins,
        in seconds, which are counted.

        Memory that is not enough is an answer, not an error.
        """
        device = self._t.world.device
        memory.forget_peak(device)
        times: list[float] = []
        error = ""
        try:
            if batch is not None:
                self.cut(batch)
            times = [(wait() if wait else 0.0) + self.step() for _ in range(warmup + steps)]
        except ValueError as raised:  # of torch's batch norms, whose maps are 1 × 1 at the end of small images
            if "more than 1 value per channel" not in str(raised):
                raise
            error = "one image, of which batch norms take no statistics"
        except (RuntimeError, MemoryError) as raised:
            if not memory.ran_out(raised):
                raise
            error = (str(raised).splitlines() or ["out of memory"])[0]
        if self._t.world.any(bool(error)):
            return Timed(error=error or "out of memory on another rank")
        return Timed(tuple(times[warmup:]), memory.peak_here(device), memory.held_here(device))


class RankBench:
    """A resolved config of several ranks on a pool that is kept; a step takes as long as its slowest rank."""

    def __init__(self, pool: Pool, config: Config, **like: Unpack[Like]):
        self._pool, self._config, self._like = pool, config, like

    def step(self) -> float:
        return self.measure(warmup=0, steps=1).step_s

    def measure(self, *, batch: int | None = None, warmup: int = WARMUP, steps: int = STEPS) -> Timed:
        """As a Bench's; the memory is that of the rank that held most."""
        answers = self._pool.run(
            JOB, config=self._config.document(), like=self._like, batch=batch, warmup=warmup, steps=steps
        )
        if errors := [answer["error"] for answer in answers if answer["error"]]:
            return Timed(error=errors[0])
        times = tuple(max(each) for each in zip(*(answer["steps_s"] for answer in answers)))
        peak, held = (max(answer[name] for answer in answers) for name in ("peak_bytes", "held_bytes"))
        return Timed(times, peak, held)


def rank_step(
    world: World, *, config: dict[str, Any], like: Like, batch: int | None, warmup: int, steps: int
) -> dict[str, Any]:
    """What a rank does for a RankBench. The model of the last config is kept for the next call."""
    bench = _kept(json.dumps(config, sort_keys=True), json.dumps(like), world)
    return asdict(bench.measure(batch=batch, warmup=warmup, steps=steps))


@functools.lru_cache(maxsize=1)
def _kept(config: str, like: str, world: World) -> Bench:
    return Bench(from_document(json.loads(config), where="a probe"), world=world, **json.loads(like))


def timed(t: Training, batch: Batch, clock: StepClock, *, update: bool) -> float:
    """Seconds of one step of `t` on `batch`; without `update` of its gradients only, which are thrown away."""
    _wait(t.world.device)
    begin = time.perf_counter()
    clock.begin()
    t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock)
    if update:
        t.update(0)
    _wait(t.world.device)
    taken_s = time.perf_counter() - begin
    for part in t.step.parts:
        part.zero_grad(set_to_none=True)
    return taken_s


def made_up_batch(t: Training, *, batch: int | None = None) -> Batch:
    """This rank's rows of one step, of `batch` images where the config's number is not wanted: random pixels, changed and
    mixed as the run's are where the step does that, and the first targets."""
    train, cutting = t.samples["train"], replace(t.cutting, batch=batch or t.cutting.batch)
    chosen_B = np.arange(cutting.batch) % len(train)
    targets, weights_B = train.of_epoch(chosen_B, seed=cutting.seed, epoch=0)
    draws, parts = np.random.default_rng(0), []
    for rows in order.rank_slices(
        cutting.batch, microbatches=cutting.microbatches, rank=cutting.rank, ranks=cutting.ranks,
        unit=cutting.augment.row_unit,
    ):  # fmt: skip
        mine, about = chosen_B[rows], {"seed": cutting.seed, "epoch": 0, "image_px": cutting.image_px}
        if not cutting.has_images:
            unseen, mixing = (len(mine), cutting.image_px), mix.draw(mine, cutting.augment, **about)
            parts.append(Rows(mine, None, torch.from_numpy(targets[rows]), None, mixing, unseen=unseen))
            continue
        images = draws.integers(0, 256, (len(mine), cutting.image_px, cutting.image_px, 3), np.uint8)
        changes = None if cutting.augment.engine == "cpu" else policy.draw(mine, cutting.augment, **about)
        own, mixing = torch.from_numpy(targets[rows]), mix.draw(mine, cutting.augment, **about)
        parts.append(Rows(mine, torch.from_numpy(images), own, changes, mixing))
    return Batch(Position(0, 0), tuple(parts), float(weights_B.sum()), 0.0)


def likeness(config: Config, manifest: Manifest) -> Like:
    """What made-up targets must have for a step to cost what a step of these costs: so many classes, or words of a vocabulary
    and captions of an image."""
    if not manifest.is_captioned:
        return {"classes": len(manifest.classes)}
    known = len(tasks.of(config, manifest).about()["words"]) - len(SPECIAL)
    return {"words": known, "captions": config.caption.per_image or 1, "longest": config.caption.longest or 1}


def made_up(*, count: int, classes: int = 0, words: int = 0, captions: int = 0, longest: int = 0) -> Manifest:
    """A manifest of `count` training rows or more without files, over so many classes; or with so many captions of an image,
    all of them `longest`, over so many words."""
    each = max(1, captions * longest)
    count = max(count, classes, -(-words // each))
    blank: dict[str, Any] = {"string": "", "bool": True}
    columns: dict[str, Any] = {field.name: [blank.get(str(field.type), 1)] * count for field in manifests.SCHEMA}
    names = [f"{row:07d}" for row in range(count)]
    labels = [names[row % max(1, classes)] for row in range(count)]
    columns |= {"path": names, "group": names, "sha256": names, "label": labels}
    columns |= {"split": ["train"] * count, "status": ["ok"] * count}
    if words:
        said = [f"w{number % words}" for number in range(count * each)]
        sentences = [" ".join(said[at : at + longest]) for at in range(0, len(said), longest)]
        columns["label"] = [""] * count
        columns["captions"] = [json.dumps(sentences[row * captions : (row + 1) * captions]) for row in range(count)]
    return Manifest.of(manifests.table_of(columns), root=Path("/"), source="made up")


class _NoImages:
    """A source whose images nobody reads."""

    kind = "made up"
    heights = widths = places = np.empty(0, np.int64)

    def read(self, row: int) -> np.ndarray:
        raise FanlightError(f"a probe has no image {row}")


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Threads, random state and memory are afterwards what they were; what was built inside has to be let go inside."""
    threads = torch.get_num_threads()
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)
        gc.collect()
        machine.give_back_freed_memory()
        memory.forget_peak(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
