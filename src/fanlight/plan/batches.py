"""Which batch each layout is best at, where the batch was left open: doubled as training doubles one that it measures
(train/batchsize.py has the rule), but foretold. One process decides, before there are ranks, so all of them agree.

Steps are a line through two measured batch sizes, so what lies far beyond the larger one is not foretold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.parallel import layout as layouts
from fanlight.plan import choose
from fanlight.plan import memory as sizes
from fanlight.plan.blocks import Block
from fanlight.plan.choose import Candidate, Question
from fanlight.plan.memory import Kept
from fanlight.plan.operations import Asked
from fanlight.train import batchsize, memory
from fanlight.train.probe import Timed

MEASURED_MOST = 128  # images of a calibration's larger steps: beyond that, the fixed part of a line is lost in noise
FARTHEST = 4  # times the rows that were measured, at most


def is_open(config: Config) -> bool:
    """Whether the batch is to be found."""
    return config.train.batch_auto and config.train.batch_size is None


def calibrated(config: Config, counted: Sequence[Block], *, images: int) -> Config:
    """The resolved serial `config` with the batch that this machine is measured at: the largest doubling that `images` for
    training allow, that takes half of the memory and that is no larger than MEASURED_MOST."""
    serial, unit = layouts.parse("serial", ranks=None, recompute=config.execution.recompute), config.augment.row_unit
    kept = Kept(config.data.image_px or 0, config.optim.name, config.train.ema is not None)
    # Half: serial and all ranks of another layout stay in memory while they take turns.
    room = batchsize.MEMORY_SHARE / 2 * memory.available(torch.device(config.execution.device or "cpu"), local_ranks=1)
    most = min(MEASURED_MOST, batchsize.most_of(images, unit=unit))
    batch = max(unit * config.train.microbatches, min(batchsize.FIRST, most))
    while 2 * batch <= most:
        twice = Asked(2 * batch, config.train.microbatches, unit)
        if sizes.of(serial, counted, twice, kept).total > room:
            break
        batch *= 2
    return replace(config, train=replace(config.train, batch_size=batch))


def predicted(about: Question, name: str, *, ranks: int, number_format: str) -> Candidate:
    """A layout at its own knee: the largest batch whose doubling brought 5 % more images per second, within memory, data and
    what a calibration can tell. Where a file says how fast devices are, and not what is fixed in a step, as many rows on each
    as training would take are the fewest."""
    one = functools.partial(choose.predicted, about, name, ranks=ranks, number_format=number_format)
    at: Callable[[int], Candidate] = functools.cache(lambda batch: one(batch=batch, has_band=False))
    machines = choose.machines_of(about, ranks=ranks, number_format=number_format)
    try:
        layout = choose.layout_of(about, name, ranks=ranks, machines=machines)
    except ConfigError:
        return at(batchsize.FIRST)  # which says why
    unit, farthest = about.config.augment.row_unit, None
    least = layout.data_ranks * about.config.train.microbatches * unit
    first = batchsize.FIRST if about.calibration else about.rows * layout.data_ranks
    if about.calibration:
        measured = choose.like(about, about.calibration, ranks)
        farthest = FARTHEST * measured.sizes[-1] // measured.ranks // about.config.train.microbatches
    found = batchsize.search(
        lambda batch: _timed(at(batch)), _Limits(at, layout.data_ranks, farthest), count=about.images, least=least, unit=unit,
        first=first, source="simulated",
    )  # fmt: skip
    if not at(found.batch).fits:
        return at(found.batch)
    best = replace(one(batch=found.batch), batch_reason=found.limit)
    if ranks > 1 and best.batch > max(unit, batchsize.most_of(about.images, unit=unit)):
        why = (
            f"a batch of {best.batch}, the smallest of {ranks} ranks, leaves fewer than {batchsize.STEPS_PER_EPOCH} steps of an "
            f"epoch of {about.images}; use fewer ranks, or say a --batch-size"
        )
        return replace(best, fits=False, reason=why)
    return best


@dataclass(frozen=True)
class _Limits:
    """As batchsize.Limits, by the plan's arithmetic."""

    at: Callable[[int], Candidate]
    data_ranks: int
    farthest: int | None  # rows of a rank's microbatch; None: there is no calibration

    def add(self, images: int, timed: Timed) -> None:
        """Nothing is to be learned from it."""

    def why_not(self, images: int) -> str:
        one = self.at(images)
        if not one.fits:
            return f"memory: a batch of {images} {one.reason}"
        rows = images / self.data_ranks / one.microbatches
        if self.farthest is not None and rows > self.farthest:
            return f"calibration: {rows:.0f} rows at once are more than {FARTHEST} times those that were measured"
        return ""


def _timed(one: Candidate) -> Timed:
    """Its step, as a measurement would give it."""
    if not one.fits:
        return Timed(error=one.reason)
    return Timed((one.batch / one.images_per_s,), round(one.bytes))
