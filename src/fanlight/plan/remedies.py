"""What is said where nothing fits: by how much the smallest misses, and what would make it fit, by the same arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fanlight.console import bytes_text
from fanlight.errors import ConfigError
from fanlight.plan import memory
from fanlight.train import checks, layouting

if TYPE_CHECKING:
    from fanlight.plan.choose import Candidate, Question

BATCH, PARTS, AGAIN = "train.batch_size", "train.microbatches", "execution.recompute"
Values = dict[str, object]  # by config key


def nothing_fits(found: Sequence[Candidate], about: Question | None = None) -> str:
    """Of candidates none of which fits. `about`: the question that they answer; None: no way out is looked for."""
    refused = [each for each in found if not each.fits]  # what fits is another algorithm
    sized = [each for each in refused if each.bytes and not each.is_other]
    if not sized:
        return f"no layout can train this here: {refused[0].reason}" if refused else "no layout was asked for"
    least = min(sized, key=lambda each: each.bytes)
    told = (
        f"nothing fits: {least.layout} on {least.ranks} rank(s) in {least.precision} is the smallest and {least.reason}"
    )
    way = way_out(least, about) if about is not None else ""
    return f"{told}; {way}" if way else told


def way_out(least: Candidate, about: Question) -> str:
    """What would make a candidate fit that takes too much, the least change of each kind, or two changes where no single one
    would; else on which machines. Empty where its reason says it. Each was tried: predicted with it, the candidate fits."""
    from fanlight.plan import choose

    if "too much" not in least.reason:
        return ""
    machines = choose.machines_of(about, ranks=least.ranks, number_format=least.precision)
    data_ranks = choose.layout_of(about, least.layout, ranks=least.ranks, machines=machines).data_ranks
    unit, room = about.config.augment.row_unit, choose.MEMORY_SHARE * machines.memory_bytes
    fewest = data_ranks * about.config.train.microbatches * unit

    def smaller(others: Values) -> Values:
        """With the largest batch, by halves, that has room beside `others`; the smallest that there is where none has."""
        rows = least.batch
        while rows > fewest and _bytes(least, _with(about, {**others, BATCH: rows})) > room:
            rows = max(fewest, rows // 2 // unit * unit)
        return {BATCH: rows, **others}

    parts, most = 2 * least.microbatches, least.batch // data_ranks // layouting.ROWS_LEAST
    while parts <= most and _bytes(least, _with(about, {PARTS: parts})) > room:
        parts *= 2
    again: Values = {AGAIN: True}
    can_again = not about.config.execution.recompute and not about.unrecomputed and _is_accepted(_with(about, again))
    ways: list[Values] = [smaller({}), {PARTS: parts}, *([again] if can_again else [])]
    found = [values for values in ways if _fits(least, _with(about, values))]
    if not found:
        last = smaller(again if can_again else {})
        if not _fits(least, _with(about, last)):
            return _larger(least, about, last)
        found = [last]
    return f"use {' or '.join(map(_words, found))}"


def _larger(least: Candidate, about: Question, smallest: Values) -> str:
    """Machines on which it would fit, where not even the `smallest` step does."""
    from fanlight.plan import choose

    small = _with(about, smallest)
    images = "one image" if about.config.augment.row_unit == 1 else "one pair of images"
    images += " of each microbatch" if about.config.train.microbatches > 1 else ""
    recomputed = ", recomputed," if small.config.execution.recompute else ""
    whole = _bytes(least, small)
    machines = f"{_up(whole / choose.MEMORY_SHARE)} or more for a rank, with {_words(smallest)}"
    if not choose.too_few(about, batch=least.batch):
        machines = f"{_up(least.bytes / choose.MEMORY_SHARE)} or more for a rank, or {machines}"
    return (
        f"even {images} on each rank{recomputed} takes {bytes_text(whole)}: use machines with {machines}; more ranks to shard "
        "over (fsdp); or a smaller --model"
    )


def _with(about: Question, values: Values) -> Question:
    """What would be asked with these `values` besides."""
    asked = about.asked and about.asked.with_values(values)
    return replace(
        about, config=about.config.with_values(values), asked=asked, is_weak=about.is_weak and BATCH not in values
    )


def _is_accepted(about: Question) -> bool:
    """Whether training takes the config, in its planned form."""
    try:
        checks.check((about.asked or about.config).with_value("train.precision", "fp32"))
    except ConfigError:
        return False
    return True


def _fits(least: Candidate, about: Question) -> bool:
    from fanlight.plan import choose

    return (
        _is_accepted(about)
        and choose.predicted(about, least.layout, ranks=least.ranks, number_format=least.precision).fits
    )


def _bytes(least: Candidate, about: Question) -> float:
    """Of the candidate in another question, without its seconds."""
    from fanlight.plan import choose

    machines = choose.machines_of(about, ranks=least.ranks, number_format=least.precision)
    layout = choose.layout_of(about, least.layout, ranks=least.ranks, machines=machines)
    blocks = choose.blocks_of(about, layout, number_format=least.precision)
    assert blocks is not None, "it was predicted"
    batch = choose.batch_of(about, ranks=least.ranks)
    asked = choose.asked_of(about, layout, batch=batch, number_format=least.precision, machines=machines)
    return memory.of(layout, blocks, asked, choose.kept_of(about, machines, least.precision)).total


def _words(values: Values) -> str:
    """As the command takes them."""
    told = [
        f"--batch-size {value}" if key == BATCH else f"--set {key}={str(value).lower()}"
        for key, value in values.items()
    ]
    return " ".join(told)


def _up(count: float) -> str:
    """Bytes as text, rounded up."""
    unit = 1000.0 ** max(0, min(4, math.floor(math.log(max(1.0, count), 1000))))
    return bytes_text(math.ceil(count / unit * 10) / 10 * unit)
