"""How long ranks wait for each other, and how much slower messages are in the middle of a step: what real steps of ddp took
beyond silent ones, at two batch sizes.

Ranks meet at every synchronised norm and every bucket, not once in a step, so they wait longer than the scatter of whole steps
would say; and a message beside computing, on cores that are busy, takes longer than one on an idle machine. The former grows with
the rows, the latter does not: the spread of step times, and the factor on all that is sent, with which simulated steps of both
sizes take as long as measured ones. Where no such numbers are within bounds, the nearest are taken, and by how much they miss is
kept: the band is as much wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fanlight.config import Config
from fanlight.plan import choose
from fanlight.plan.blocks import Block
from fanlight.plan.calibration import Calibration, Measured, Steps
from fanlight.plan.choose import Question
from fanlight.plan.program import program
from fanlight.plan.simulate import simulate

SPREAD_MOST = 1.5  # as a cluster's file may say it
SENDING_LEAST, SENDING_MOST = 0.25, 4.0
TRIES = 18  # halvings


def fitted(found: Calibration, config: Config, counted: Sequence[Block]) -> Calibration:
    """With spread and sending of every number of ranks in every number format, and what these miss."""
    by_ranks = {}
    for ranks, measured in found.by_ranks.items():
        steps = {name: _fitted(found, measured, config, counted, name) for name in measured.steps}
        by_ranks[ranks] = measured if ranks == 1 else replace(measured, steps=steps)
    return replace(found, by_ranks=by_ranks)


def _fitted(
    found: Calibration, measured: Measured, config: Config, counted: Sequence[Block], number_format: str
) -> Steps:  # fmt: skip
    ranks, plain = measured.ranks, replace(measured.steps[number_format], spread=0.0, sending=1.0)
    if ranks == 1:
        return plain
    config = config.with_value("execution.recompute", False)  # as measured steps were
    about = Question(config, counted, 0, measured.cluster("here"), found, measured.sizes[-1])
    machines = choose.machines_of(about, ranks=ranks, number_format=number_format)
    layout = choose.layout_of(about, "ddp", ranks=ranks, machines=machines)
    blocks = choose.blocks_of(about, layout, number_format=number_format)
    assert blocks is not None, "this machine was measured"
    asked = [
        replace(
            choose.asked_of(about, layout, batch=batch, number_format=number_format, machines=machines),
            input_s=0.0, host_s=plain.rest_s / max(1.0, plain.alone),  # nothing is cropped meanwhile
            exchanges=False,
        )
        for batch in measured.sizes
    ]  # fmt: skip

    def step_s(index: int, *, spread: float, sending: float) -> float:
        steps = {number_format: replace(plain, spread=spread, sending=sending)}
        there = replace(measured, steps=steps).cluster("here").over(ranks)
        return simulate(program(layout, blocks, asked[index], there)).step_s

    wanted_s = []
    for one, joined in zip(asked, plain.joined):
        rows = one.batch / ranks / one.microbatches
        passes_s = one.microbatches * (plain.forward.at(rows) + plain.backward.at(rows))
        wanted_s.append(joined * (passes_s + plain.optimizer_s + plain.rest_s))

    def spread_with(sending: float) -> float:
        return solved(lambda spread: step_s(1, spread=spread, sending=sending), wanted_s[1], 0.0, SPREAD_MOST)

    sending = solved(
        lambda each: step_s(0, spread=spread_with(each), sending=each), wanted_s[0], SENDING_LEAST, SENDING_MOST
    )
    spread = spread_with(sending)
    misses = [abs(step_s(index, spread=spread, sending=sending) / wanted_s[index] - 1) for index in (0, 1)]
    return replace(plain, spread=spread, sending=sending, missed=max(misses))


def solved(step_s: Callable[[float], float], wanted_s: float, low: float, high: float) -> float:
    """Where a step takes as long, which grows from `low` to `high`; the bound where it does not within them."""
    if step_s(low) >= wanted_s:
        return low
    if step_s(high) <= wanted_s:
        return high
    for _ in range(TRIES):
        middle = (low + high) / 2
        low, high = (middle, high) if step_s(middle) < wanted_s else (low, middle)
    return (low + high) / 2
