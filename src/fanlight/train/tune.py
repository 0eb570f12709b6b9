"""Choices that need measuring: how to compute, the batch size where asked, the epochs that a time limit allows.

It comes after resolve.py has decided everything by rule, and changes only what the user left open. One process decides,
before any rank trains, and writes it to resolved.yaml: so all ranks and every resumed run take the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fanlight import console, machine
from fanlight.config import Config
from fanlight.data.manifest import Manifest
from fanlight.errors import FanlightError
from fanlight.parallel.launch import Pool
from fanlight.train import autotune, batchsize, candidates, memory, probe, resolve, timelimit, writing
from fanlight.train.autotune import Budget, Tuner
from fanlight.train.probe import Bench, Like, RankBench, likeness

START_S = 1.0  # until the model is built, where it was not measured


@dataclass
class Measured:
    """What a run's measurements were, for run.json: nothing where nothing was measured."""

    autotune: dict[str, Any] = field(default_factory=dict)
    time_limit: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Place:
    """Who will train, as far as measuring must know it."""

    torchrun: bool = False  # the ranks exist already and wait: only this one can measure
    memory_bytes: int | None = None  # the least that any of torchrun's ranks can still take


def measure(choices: resolve.Choices, manifest: Manifest, *, place: Place, entered: float) -> Measured:
    """Measures what the config asks for, and changes `choices` by it. ConfigError where a time limit cannot be met."""
    found, config = Measured(), choices.config
    device = torch.device(config.execution.device or "cpu")
    with probe.undisturbed(device):
        step_s = None
        if _autotune_is_worth_trying(choices, manifest):
            found.autotune, step_s = _autotune(choices, manifest, place)
        if config.train.batch_auto and choices.is_open("train.batch_size"):
            _batch(choices, manifest, place)
            step_s = None
        if config.train.time_limit_s is not None:
            found.time_limit = _time_limit(choices, manifest, place, entered=entered, step_s=step_s)
    return found


def _is_on_features(config: Config) -> bool:
    """Whether the network computes each image once, and every epoch trains the last layer on what is kept."""
    return config.model.freeze and bool(config.execution.cache_features)


def _autotune_is_worth_trying(choices: resolve.Choices, manifest: Manifest) -> bool:
    """Asked for; or, where nobody said, long enough by a rule of thumb that a first measurement is worth its second."""
    config = choices.config
    if _is_on_features(config):
        if config.execution.autotune:
            console.say(
                "  no autotune: each image is computed once, and steps of the last layer alone are not what it measures"
            )
        return False
    if config.execution.autotune is not None:
        return config.execution.autotune
    device = config.execution.device or "cpu"
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    rate = resolve.GPU_IMAGES_PER_S * gpus or resolve.CORE_IMAGES_PER_S * machine.cores_usable()
    share = ((config.data.image_px or 0) / resolve.PHOTO_PX[device]) ** 2
    images = len(manifest.rows("train")) * (config.train.epochs or 0)
    return autotune.pays_back(_limited(images * share / rate, choices))


def _limited(expected_s: float, choices: resolve.Choices) -> float:
    """A time limit that chooses the epochs is what training will take."""
    limit_s = choices.config.train.time_limit_s
    return limit_s if limit_s is not None and choices.is_open("train.epochs") else expected_s


def _autotune(choices: resolve.Choices, manifest: Manifest, place: Place) -> tuple[dict[str, Any], float | None]:
    """What run.json keeps, and the seconds of a step as it will be; None where it was not measured as it will be."""
    like = likeness(choices.config, manifest)
    begun = time.perf_counter()
    with candidates.cleared(Bench(candidates.eager(choices.config), **like)) as benches:
        base_s = _fit(choices, benches, like, place)
        if base_s is None:
            console.say("  no autotune: a step runs out of memory")
            return {}, None
        expected_s = _limited(base_s * candidates.steps_of(choices.config, manifest), choices)
        said = f"about {console.seconds_text(expected_s)} of training expected"
        if choices.config.execution.autotune is None and not autotune.pays_back(expected_s):
            console.say(f"  no autotune: {said}, too little to repay {autotune.BUDGET_S:.0f} s of measuring")
            return {"expected_s": expected_s}, base_s if choices.config.execution.ranks == 1 else None
        tuner = Tuner(Budget(autotune.budget_s(expected_s), begun=begun), benches[0].step, base_s)
        console.say(f"  autotune: {said}; measuring for at most about {tuner.budget.seconds:.0f} s")
        candidates.number_format(tuner, choices, benches[0])
        candidates.memory_format(tuner, choices, like, benches)
        candidates.threads(tuner, choices, benches)
        candidates.ranks(tuner, choices, manifest, torchrun=place.torchrun)
        candidates.compilation(tuner, choices, manifest, benches)
    for line in tuner.left_out:
        console.say(f"  autotune, not measured: {line}")
    e = choices.config.execution
    return {"expected_s": expected_s, **tuner.document()}, None if e.ranks != 1 or e.compile else tuner.base_s


def _fit(choices: resolve.Choices, benches: list[Bench], like: Like, place: Place) -> float | None:
    """Seconds of a step as it was resolved, in as many microbatches as fit where one is what nobody changed; None where
    a step does not fit."""
    config = choices.config
    rows = max(1, (config.train.batch_size or 1) // (config.execution.ranks or 1))
    count, why = config.train.microbatches, ""
    if count == 1:
        count, why = batchsize.microbatches(
            lambda batch: benches[0].measure(batch=batch, warmup=1, steps=0), _memory(config, place), rows=rows
        )
    while True:
        if why:
            choices.replace("train.microbatches", count, why)
            benches[:] = [Bench(candidates.eager(choices.config), **like)]
        timed = benches[0].measure(batch=rows)
        if not timed.error:
            return timed.step_s
        if (config.train.microbatches > 1 and not why) or rows // count < 2:
            return None
        count, why = 2 * count, f"{-(-rows // count)} images at once run out of memory: {timed.error}"


def _memory(config: Config, place: Place) -> batchsize.Memory:
    device = torch.device(config.execution.device or "cpu")
    here = 1 if place.torchrun or device.type == "cuda" else config.execution.ranks or 1

    def available() -> int:
        own = memory.available(device, local_ranks=here)
        return own if place.memory_bytes is None else min(own, place.memory_bytes)

    return batchsize.Memory(available)


def _batch(choices: resolve.Choices, manifest: Manifest, place: Place) -> None:
    """The knee of throughput; what follows from the batch size is decided again."""
    config = choices.config
    unit = config.augment.row_unit
    least = (config.execution.ranks or 1) * config.train.microbatches * unit
    budget = Budget(autotune.BUDGET_S)
    with _bench(candidates.eager(config), likeness(config, manifest), place) as bench:
        share = (config.execution.ranks or 1) if isinstance(bench, Bench) else 1  # of the batch, in this process

        found = batchsize.search(
            lambda batch: bench.measure(batch=max(1, batch // share)), _memory(config, place),
            count=len(manifest.rows("train")), least=least, unit=unit, is_late=budget.is_over,
        )  # fmt: skip
    choices.change("train.batch_size", found.batch, found.reason)
    resolve.after_batch(choices)


@contextlib.contextmanager
def _bench(config: Config, like: Like, place: Place) -> Iterator[Bench | RankBench]:
    """Of the config, on ranks of its own where the run will have several on this machine's cores."""
    ranks = config.execution.ranks or 1
    if place.torchrun or ranks == 1 or config.execution.device == "cuda":
        with candidates.cleared(Bench(config, **like)) as benches:
            yield benches[0]
        return
    with Pool(ranks, threads=config.execution.threads, preload=candidates.PRELOAD) as pool:
        yield RankBench(pool, config, **like)


def _time_limit(
    choices: resolve.Choices, manifest: Manifest, place: Place, *, entered: float, step_s: float | None
) -> dict[str, Any]:
    """Epochs that fit, where they were left open; what was measured, for the deadline of the run itself."""
    config = choices.config
    limit_s = config.train.time_limit_s or 0.0
    begin = time.perf_counter()
    start_s, feature_step_s = START_S, None
    if step_s is None:
        with _bench(candidates.eager(config), likeness(config, manifest), place) as bench:
            found = bench.measure()
            if found.error:  # the run itself will halve its microbatches
                raise FanlightError(
                    f"--time-limit: a step cannot be measured ({found.error}); use another --batch-size or --microbatches"
                )
            step_s = found.step_s
            if _is_on_features(config) and isinstance(bench, Bench):
                feature_step_s = bench.feature_step_s()
        # Ranks and the model are made again for the run itself, in about the time that it took here.
        start_s = max(0.0, time.perf_counter() - begin - probe.STEPS * step_s)
    counts = {split: len(manifest.rows(split)) for split in ("train", "val", "test")}
    writing_s = writing.expected_s(config, manifest)
    about: dict[str, Any] = {
        "step_s": step_s, "batch": config.train.batch_size or 1, "start_s": start_s, "writing_s": writing_s,
    }  # fmt: skip
    if feature_step_s is None:
        plan = timelimit.plan(**about, **counts)
    else:
        plan = timelimit.plan_on_features(**about, **counts, feature_step_s=feature_step_s)
    spent_s = time.time() - entered
    if choices.is_open("train.epochs"):
        every = None if choices.is_open("train.evaluate_every") else config.train.evaluate_every
        count, why = timelimit.epochs(
            plan, limit_s=limit_s, spent_s=spent_s, evaluations=resolve.EVALUATIONS_MAX, every=every
        )
        choices.change("train.epochs", count, why)
        resolve.after_epochs(choices)
        resolve.check_phases(choices.config)
    else:
        if spent_s + plan.total_s(1, every=1) > limit_s:
            timelimit.epochs(plan, limit_s=limit_s, spent_s=spent_s, evaluations=1, every=1)  # which refuses that
        total_s = spent_s + plan.total_s(config.train.epochs or 1, every=config.train.evaluate_every or 1)
        if total_s > limit_s:
            console.warn(
                f"{config.train.epochs} epochs take about {console.seconds_text(total_s)} here, measured",
                why=f"--time-limit {console.seconds_text(limit_s)} ends training before the learning rate has come down",
                do="Leave --epochs out (a recipe's: --set train.epochs=none), and as many as fit are chosen",
            )  # fmt: skip
    return {
        "limit_s": limit_s, "step_s": feature_step_s or step_s, "epoch_s": plan.epoch_s, "final_s": plan.final_s,
        "writing_s": writing_s,
    }  # fmt: skip
