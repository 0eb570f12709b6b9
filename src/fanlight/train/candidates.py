"""What an autotune compares: number formats, memory formats, threads, ranks and compilation, in this order, each under
the best of those before it. A choice changes only where the user left it open."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import psutil
import torch

from fanlight import machine
from fanlight.config import Config
from fanlight.data.manifest import Manifest
from fanlight.errors import FanlightError
from fanlight.parallel.launch import Pool
from fanlight.train import compiling, layouting, precision, resolve
from fanlight.train.autotune import Step, Tuner
from fanlight.train.probe import Bench, Like, RankBench, likeness

RANKS_START_S = 6.0  # until ranks are there, roughly: they import torch
COMPILE_S = 30.0  # of a small network; a large one takes longer
PRELOAD = ("torch", "timm", "cv2", "fanlight.train.probe")


def steps_of(config: Config, manifest: Manifest) -> int:
    """Of the whole run."""
    return len(manifest.rows("train")) // (config.train.batch_size or 1) * (config.train.epochs or 0)


@contextlib.contextmanager
def cleared(first: Bench) -> Iterator[list[Bench]]:
    """A list of benches, the first in it, that is empty afterwards: models are let go with it."""
    benches = [first]
    try:
        yield benches
    finally:
        benches.clear()


def eager(config: Config) -> Config:
    return config.with_value("execution.compile", False)


def number_format(tuner: Tuner, choices: resolve.Choices, bench: Bench) -> None:
    if not choices.is_open("train.precision"):
        return
    device = torch.device(choices.config.execution.device or "cpu")
    if device.type == "cuda":
        names = [*(["bf16"] if torch.cuda.is_bf16_supported() else []), "fp16"]
    elif precision.cpu_gain() < precision.HOPELESS:
        return  # steps of many times the length would take the time for all other measurements
    else:
        names = ["bf16"]

    def in_format(name: str) -> Step:
        return functools.partial(bench.step, number_format=name)

    # A shorter format costs accuracy, so it must bring more than any other choice.
    name, why = tuner.choose(
        "train.precision", "fp32", {name: functools.partial(in_format, name) for name in names},
        least=precision.PAYS, reference=in_format("fp32"),
    )  # fmt: skip
    choices.change("train.precision", name, why)


def memory_format(tuner: Tuner, choices: resolve.Choices, like: Like, benches: list[Bench]) -> None:
    if not choices.is_open("execution.channels_last"):
        return

    def other() -> Step:
        changed = eager(choices.config).with_value("execution.channels_last", False)
        benches.append(Bench(changed, **like))
        return benches[-1].step

    short = choices.config.train.precision
    name, why = tuner.choose(
        "execution.channels_last", "channels last", {"contiguous": other},
        reference=lambda: benches[0].step(number_format=short),
    )  # fmt: skip
    choices.change("execution.channels_last", name and name == "channels last", why)
    if name == "contiguous":
        benches.reverse()  # the one that is used from now on comes first


def threads(tuner: Tuner, choices: resolve.Choices, benches: list[Bench]) -> None:
    """Two threads of one core share its arithmetic units, and often get in each other's way."""
    config = choices.config
    threads = config.execution.threads or 1
    on_gpu, logical, physical = config.execution.device == "cuda", psutil.cpu_count(), psutil.cpu_count(logical=False)
    if on_gpu or threads < 2 or (logical or 1) <= (physical or 1) or not choices.is_open("execution.threads"):
        return
    half, short = threads // 2, config.train.precision

    def on(count: int) -> Step:
        return lambda: benches[0].step(number_format=short, threads=count)

    named = {f"{half} threads": half, f"{threads} threads": threads}
    name, why = tuner.choose(
        "execution.threads", f"{threads} threads", {f"{half} threads": lambda: on(half)}, reference=on(threads)
    )
    choices.change("execution.threads", named.get(name, ""), why)


def ranks(tuner: Tuner, choices: resolve.Choices, manifest: Manifest, *, torchrun: bool) -> None:
    """Several one-thread processes against one process of several threads, where both are open."""
    config, like = choices.config, likeness(choices.config, manifest)
    open_keys = all(choices.is_open(key) for key in ("execution.layout", "execution.ranks", "execution.threads"))
    if torchrun or not open_keys or config.execution.device == "cuda" or config.execution.ranks != 1:
        return
    rows = (config.train.batch_size or 1) // config.train.microbatches
    cores = machine.cores_usable()
    for ranks in dict.fromkeys([min(cores, layouting.CPU_RANKS_MAX), cores // 4]):
        if ranks < 2 or rows // ranks < 2:
            continue
        each = cores // ranks
        several = {"execution.layout": "ddp", "execution.ranks": ranks, "execution.threads": each}
        changed = eager(choices.config).with_values({**several, "train.batch_size": config.train.batch_size})
        name = f"{ranks} ranks of {each} thread{'s' * (each > 1)}"
        alone = tuner.base, tuner.base_s
        try:
            with Pool(ranks, threads=each, preload=PRELOAD) as pool:
                bench = RankBench(pool, changed, **like)
                others: dict[str, Callable[[], Step]] = {name: functools.partial(getattr, bench, "step")}
                chosen, why = tuner.choose("execution.ranks", "one process", others, start_s=RANKS_START_S)
        except FanlightError as error:
            tuner.left_out.append(f"execution.ranks: {ranks} ranks failed ({error})")
            return
        if chosen == name and _saves(tuner, choices.config, manifest) > RANKS_START_S:
            for key, value in several.items():
                choices.change(key, value, why)
            return
        tuner.base, tuner.base_s = alone  # the pool is closed, and what follows is compared with what will run


def _saves(tuner: Tuner, config: Config, manifest: Manifest) -> float:
    """Seconds of the run that the last gain saves."""
    return tuner.base_s * (tuner.gains[-1].ratio - 1) * steps_of(config, manifest)


def compilation(tuner: Tuner, choices: resolve.Choices, manifest: Manifest, benches: list[Bench]) -> None:
    c = choices.config
    is_plain = c.execution.ranks == 1 and not c.model.freezes and not c.execution.recompute
    if not (is_plain and choices.is_open("execution.compile")):
        return
    begin = time.perf_counter()
    uncompiled = tuner.base, tuner.base_s

    def compiled() -> Step:
        benches.append(
            Bench(choices.config.with_value("execution.compile", True), **likeness(choices.config, manifest))
        )
        return benches[-1].step

    try:
        name, why = tuner.choose("execution.compile", "eager", {"compiled": compiled}, start_s=COMPILE_S)
    except Exception as error:  # of the compiler, of g++, of what the model's code does to either
        tuner.left_out.append(f"execution.compile: {compiling.cause(error)}")
        return
    spent_s = time.perf_counter() - begin
    if name == "compiled" and _saves(tuner, choices.config, manifest) <= spent_s:
        name, why = "eager", f"{why}; compiling would take longer than it saves"
        tuner.base, tuner.base_s = uncompiled
    choices.change("execution.compile", name and name == "compiled", why)
