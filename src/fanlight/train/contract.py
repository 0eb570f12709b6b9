"""The parity contract as numbers, and what a comparison with the serial run means by them. Pure; imports no torch.

A step that differs by more than the contract allows is not wrong yet: where fp32 rounds, the serial run may differ as much from
itself when samples change places, its floor. Such a step proves nothing either: fp64 has to decide. docs/decisions/014.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RTOL = {  # of one step: its loss, ‖g − g₀‖ / ‖g₀‖ of the gradient, the same of buffers
    "fp32": {"loss_error": 1e-5, "gradient_error": 1e-4, "buffer_error": 1e-5},
    "fp64": {"loss_error": 1e-12, "gradient_error": 1e-11, "buffer_error": 1e-11},
}
FLOOR_FACTOR = 10.0  # a floor is one draw of what rounding does
EPSILON = {"fp32": 1.2e-7, "fp64": 2.3e-16}  # the least that a noise floor is: one rounding of one loss
CHAOTIC = 1e-2  # of the noise floor: a run's losses are then no evidence

Errors = Mapping[str, float]


@dataclass(frozen=True)
class Steps:
    """What the differences of single steps say. Nothing in either list: every step is within the contract."""

    broken: tuple[str, ...]  # beyond the contract, and beyond what rounding does to that step
    unclear: tuple[str, ...]  # beyond the contract, but not beyond what rounding does to that step
    is_certain: bool  # that `broken` is: beyond what rounding does to any step of this run

    @property
    def is_proven(self) -> bool:
        return not self.broken and not self.unclear


def judge(steps: Sequence[Errors], floors: Sequence[Errors], *, dtype: str) -> Steps:
    """Holds the errors of every step to the contract, and what exceeds it to FLOOR_FACTOR times that step's own floor."""
    broken, unclear, is_certain = [], [], False
    for key, limit in RTOL[dtype].items():
        # Of several steps the first that is worst in its kind is told.
        beyond = [
            (n, step[key], FLOOR_FACTOR * floors[n][key]) for n, step in enumerate(steps) if not step[key] <= limit
        ]
        above = [each for each in beyond if not each[1] <= each[2]]
        name = key.replace("_", " ")
        if above:
            n, found, floor = max(above, key=_size)
            broken.append(f"{name} {found:.1e} of step {n + 1} is above {max(limit, floor):.0e}")
        elif beyond:
            n, found, floor = max(beyond, key=_size)
            unclear.append(
                f"{name} {found:.1e} of step {n + 1} is above {limit:.0e}, and rounding may do up to {floor:.0e}"
            )
        most = FLOOR_FACTOR * max(floor[key] for floor in floors)
        is_certain = is_certain or any(not found <= most for _, found, _ in above)
    return Steps(tuple(broken), tuple(unclear), is_certain)


def _size(each: tuple[int, float, float]) -> float:
    return each[1] if math.isfinite(each[1]) else math.inf


def worst(steps: Sequence[Errors]) -> dict[str, float]:
    """The largest of each error over all steps; NaN where one is."""
    return {key: max((step[key] for step in steps), key=lambda e: math.inf if math.isnan(e) else e) for key in steps[0]}


def blurred(floors: Sequence[Errors], *, dtype: str) -> dict[str, float]:
    """By error, the largest floor of a step, where FLOOR_FACTOR times that is more than the contract's limit."""
    return {key: most for key, most in worst(floors).items() if FLOOR_FACTOR * most > RTOL[dtype][key]}


def broken_otherwise(found: Mapping[str, Any], *, noise_floor: float, dtype: str, needs_bits: bool) -> list[str]:
    """What breaks the contract beside single steps. `needs_bits`: of the serial run's evaluation rows."""
    broken = []
    if not found["same_batches"]:
        broken.append("ranks did not see the serial run's rows")
    if not found["evaluation_equal"] or (needs_bits and not found["evaluation_same_bits"]):
        broken.append("evaluation differs")
    if not found["resume_equal"]:
        broken.append("a checkpoint does not come back in every bit")
    limit = FLOOR_FACTOR * max(noise_floor, EPSILON[dtype])
    drift = found["run_error"]
    if not math.isfinite(drift) or (noise_floor <= CHAOTIC and drift > limit):
        broken.append(f"left alone it drifts by {drift:.1e}, above {limit:.0e}, {FLOOR_FACTOR:.0f} × the noise floor")
    return broken


def chaos(noise_floor: float, *, dtype: str) -> list[str]:
    """What is to be said of a run whose losses are no evidence."""
    if noise_floor <= CHAOTIC:
        return []
    return [f"chaotic: the serial run differs from itself by {noise_floor:.1e} in {dtype}, so only single steps count"]


def has_serial_bits(layout: str, *, device: str, threads: int) -> bool:
    """Whether evaluation rows must be the serial run's in every bit: where a rank holds whole layers and computes a batch as
    the serial run does, by one thread. Serial and ddp do that by themselves, ranks that gather weights have them all."""
    return layout == "ddp" or (layout in ("fsdp", "hsdp") and device == "cpu" and threads == 1)
