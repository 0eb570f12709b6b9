"""How long ranks wait for each other: what real steps of ddp took beyond what is computed and sent, told as the spread of step
times that makes a simulated step as long.

Ranks meet at every synchronised norm and at every bucket, not once in a step, so what they wait is more than the scatter of whole
steps would say; and a step is foretold as it was measured where it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fanlight.config import Config
from fanlight.plan import choose
from fanlight.plan.blocks import Block
from fanlight.plan.calibration import Calibration, Measured
from fanlight.plan.choose import Question
from fanlight.plan.program import program
from fanlight.plan.simulate import simulate

MOST = 1.5  # of a spread, as a cluster's file may say it
TRIES = 30  # halvings


def fitted(found: Calibration, config: Config, counted: Sequence[Block]) -> Calibration:
    """With the spread of every number of ranks in every number format."""
    by_ranks = {}
    for ranks, measured in found.by_ranks.items():
        steps = {
            name: replace(one, spread=_spread(found, measured, config, counted, number_format=name))
            for name, one in measured.steps.items()
        }
        by_ranks[ranks] = measured if ranks == 1 else replace(measured, steps=steps)
    return replace(found, by_ranks=by_ranks)


def _spread(
    found: Calibration, measured: Measured, config: Config, counted: Sequence[Block], *, number_format: str
) -> float:  # fmt: skip
    ranks, steps = measured.ranks, measured.steps[number_format]
    if ranks == 1:
        return 0.0
    about = Question(config, counted, 0, measured.cluster("here"), found, measured.batch)
    machines = choose.machines_of(about, ranks=ranks, number_format=number_format)
    layout = choose.layout_of(about, "ddp", ranks=ranks, machines=machines)
    blocks = choose.blocks_of(about, layout, number_format=number_format)
    assert blocks is not None, "this machine was measured"
    asked = choose.asked_of(about, layout, batch=measured.batch, number_format=number_format, machines=machines)
    asked = replace(asked, input_s=0.0, host_s=steps.rest_s / max(1.0, steps.alone))  # nothing is cropped meanwhile
    rows = measured.batch / ranks / asked.microbatches
    silent_s = (
        asked.microbatches * (steps.forward.at(rows) + steps.backward.at(rows)) + steps.optimizer_s + steps.rest_s
    )
    return solved(
        lambda spread: simulate(program(layout, blocks, asked, replace(machines, spread=spread))).step_s,
        steps.joined * silent_s,
    )


def solved(step_s: Callable[[float], float], wanted_s: float) -> float:
    """The spread at which a step takes as long; 0 where it does without any, MOST where it never does."""
    low, high = 0.0, MOST
    if step_s(low) >= wanted_s:
        return low
    if step_s(high) <= wanted_s:
        return high
    for _ in range(TRIES):
        middle = (low + high) / 2
        low, high = (middle, high) if step_s(middle) < wanted_s else (low, middle)
    return (low + high) / 2
