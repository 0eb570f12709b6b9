"""What torch.compile costs and brings in this very run: measured before its first step, told in words.

Eager and compiled gradients of one made-up batch are timed; weights, norm statistics and random state stay.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from fanlight import console
from fanlight.parallel.comm import World
from fanlight.train import probe
from fanlight.train.clock import StepClock
from fanlight.train.training import Training

STEPS = 5  # timed of each kind
SLOW_S = 1.0  # of a step: from here on STEPS_SLOW are timed
STEPS_SLOW = 3


@dataclass(frozen=True)
class Verdict:
    """Seconds to compile, seconds of a step's gradients before and after (medians of `n`), and the steps to do."""

    compile_s: float
    eager_step_s: float
    compiled_step_s: float
    n: int
    steps: int

    @property
    def gain(self) -> float:
        return self.eager_step_s / self.compiled_step_s

    @property
    def break_even(self) -> int | None:
        """The step of this start by whose end compiling has cost nothing; None: never."""
        saved_s = self.eager_step_s - self.compiled_step_s
        return math.ceil(self.compile_s / saved_s) if saved_s > 0 else None

    @property
    def pays(self) -> bool:
        return self.break_even is not None and self.break_even <= self.steps

    def words(self) -> str:
        said = (
            f"compiling took {console.seconds_text(self.compile_s)}; a step's gradients take "
            f"{self.compiled_step_s * 1e3:.3g} ms instead of {self.eager_step_s * 1e3:.3g} ({self.gain:.2f}×, n = {self.n})"
        )
        if self.break_even is None:
            return f"{said}: it does not pay back here, compiled steps are no faster; leave --compile out"
        if not self.pays:
            return f"{said}: it does not pay back here, it would after step {self.break_even} of {self.steps}"
        return f"{said}: it pays back after step {self.break_even} of {self.steps}"

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "gain": self.gain, "pays_back_after_step": self.break_even, "pays": self.pays}


def prove(t: Training, *, steps: int) -> Verdict | None:
    """Compiles the training forward of `t` and measures it; `steps` are still to do. All ranks call it.

    Where the compiler fails, on any rank, all go on without it: one warning names the cause, and None is returned.
    """
    compiled = t.step.compiled
    assert compiled is not None
    batch, clock = probe.made_up_batch(t), StepClock(t.world.device)
    buffers = [(buffer, buffer.clone()) for part in t.step.parts for buffer in part.buffers()]
    devices = [t.world.device.index or 0] if t.world.device.type == "cuda" else []

    def seconds(count: int) -> list[float]:
        return [probe.timed(t, batch, clock, update=False) for _ in range(count)]

    try:
        with torch.random.fork_rng(devices=devices):
            first_s = _slowest(t.world, [max(seconds(2))])[0]
            count = STEPS_SLOW if first_s > SLOW_S else STEPS
            eager = _slowest(t.world, seconds(count))
            begin, error = time.perf_counter(), ""
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about its own insides; a user can do nothing about them
                try:
                    compiled.on()
                    seconds(2)  # the second compiles what the first made dynamic
                except Exception as raised:  # of the compiler, of g++, of what the model's code does to either
                    error = cause(raised)
            if t.world.any(bool(error)):
                compiled.off()
                if error:
                    console.warn(
                        "training without torch.compile", why=error,
                        do="It goes on as without --compile; leave it out to save the attempt",
                    )  # fmt: skip
                return None
            spent_s = _slowest(t.world, [time.perf_counter() - begin])[0]
            after = _slowest(t.world, seconds(count))
    finally:
        for part in t.step.parts:
            part.zero_grad(set_to_none=True)  # of a step that failed half-way
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return Verdict(max(0.0, spent_s - 2 * median(after)), median(eager), median(after), count, steps)


def _slowest(world: World, own_s: list[float]) -> list[float]:
    """Element by element the longest of all ranks' times, on every rank."""
    table_RN = np.zeros((world.ranks, len(own_s)))
    table_RN[world.rank] = own_s
    return world.sum_host(table_RN).max(0).tolist()


def cause(error: BaseException) -> str:
    """The first line that says something, of the innermost cause."""
    while inner := getattr(error, "inner_exception", None) or error.__cause__:  # the first is torch's wrapping
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
