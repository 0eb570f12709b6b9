"""What is said where nothing fits: by how much the smallest misses, and what would make it fit, by the same arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fanlight.console import bytes_text
from fanlight.plan import memory
from fanlight.train import batchsize, layouting

if TYPE_CHECKING:
    from fanlight.plan.choose import Candidate, Question


def nothing_fits(found: Sequence[Candidate], about: Question | None = None) -> str:
    """Of candidates none of which fits. `about`: the question that they answer; None: no way out is looked for."""
    refused = [each for each in found if not each.fits]  # what fits is another algorithm
    sized = [each for each in refused if each.bytes]
    if not sized:
        return f"no layout can train this here: {refused[0].reason}" if refused else "no layout was asked for"
    least = min(sized, key=lambda each: each.bytes)
    told = (
        f"nothing fits: {least.layout} on {least.ranks} rank(s) in {least.precision} is the smallest and {least.reason}"
    )
    ways = ways_out(least, about) if about is not None else []
    return f"{told}; {' or '.join(ways)}" if ways else told


def ways_out(least: Candidate, about: Question) -> list[str]:
    """What would make a candidate fit that takes too much, the least change of each kind; nothing where its reason says it."""
    from fanlight.plan import choose

    if "too much" not in least.reason:
        return []
    machines = choose.machines_of(about, ranks=least.ranks, number_format=least.precision)
    layout = choose.layout_of(about, least.layout, ranks=least.ranks, machines=machines)
    blocks = choose.blocks_of(about, layout, number_format=least.precision)
    assert blocks is not None
    unit = about.config.augment.row_unit
    kept, room = choose.kept_of(about, machines, least.precision), choose.MEMORY_SHARE * machines.memory_bytes

    def bytes_of(
        *, batch: int = least.batch, microbatches: int = least.microbatches, recompute: bool = layout.recompute
    ) -> float:
        asked = choose.asked_of(about, layout, batch=batch, number_format=least.precision, machines=machines)
        asked = replace(asked, microbatches=min(microbatches, batch // unit))
        return memory.of(replace(layout, recompute=recompute), blocks, asked, kept).total

    found = []
    rows, fewest = least.batch, layout.data_ranks * least.microbatches * unit
    while rows > fewest and bytes_of(batch=rows) > room:
        rows = rows // 2 // unit * unit
    if rows >= fewest and bytes_of(batch=rows) <= room:
        found.append(f"use --batch-size {rows}")
    parts = 2 * least.microbatches
    while parts * layout.data_ranks * layouting.ROWS_LEAST <= least.batch and bytes_of(microbatches=parts) > room:
        parts *= 2
    if parts * layout.data_ranks * unit <= least.batch and bytes_of(microbatches=parts) <= room:
        found.append(f"--set train.microbatches={parts}")
    if not layout.recompute and bytes_of(recompute=True) <= room:
        found.append("--set execution.recompute=true")
    if found:
        return found
    whole = bytes_of(batch=layout.data_ranks * unit, microbatches=1, recompute=True)
    return [
        f"even one image on each rank, recomputed, takes {bytes_text(whole)}: use machines with "
        f"{bytes_text(whole / batchsize.MEMORY_SHARE)} or more for a rank, more ranks to shard over (fsdp), or a smaller --model"
    ]
