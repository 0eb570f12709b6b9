"""What each rank of a layout holds, sees and sends: counted on the ranks themselves, after they were built and made one step
of made-up images. Nothing here is a formula, so that the formulas in docs/layouts/ can be held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fanlight import console
from fanlight.parallel import comm, held, shard
from fanlight.parallel.comm import World
from fanlight.train import build, folder, parts, probe
from fanlight.train.clock import StepClock
from fanlight.train.training import Training

JOB = "fanlight.train.holdings:rank_holdings"


def rank_holdings(world: World, *, run: str) -> dict[str, Any]:
    """Of this rank. TrainingError where the ranks' parts are not the whole model, or where copies differ."""
    path = Path(run)
    # Features are not there before a run; what is counted is a step of the whole network.
    config = folder.read_config(path).with_value("execution.cache_features", False)
    t = build.build(config, folder.read_manifest(path), world, resumed=True)
    parts.plan(t.weights(), t.held.get, world)
    batch, clock = probe.made_up_batch(t), StepClock(world.device)
    probe.timed(t, batch, clock, update=True)  # the first also finds out what travels
    comm.sent.clear()
    with shard.counting(t.world):
        probe.timed(t, batch, clock, update=False)
        if t.meetings is not None:
            t.meetings.meet()
    sent = dict(comm.sent)
    return {"rank": world.rank, **_held(t), **_seen(t), "sent_bytes": sent, "notes": t.notes}


def _held(t: Training) -> dict[str, Any]:
    parameters = [held.local(p) for part in t.step.parts for p in part.parameters()]
    state = [value for key, value in t.optimizer.tensors().items() if not key.endswith(".step")]
    state += [] if t.meetings is None else t.meetings.kept
    return {
        "stages": sorted(t.placed.stages) if t.layout.pp > 1 else [], "parameters": sum(p.numel() for p in parameters),
        "parameter_bytes": sum(p.nbytes for p in parameters), "optimizer_bytes": sum(value.nbytes for value in state),
        "divided": len(t.held),
    }  # fmt: skip


def _seen(t: Training) -> dict[str, Any]:
    rows = [rows.size[0] for rows in probe.made_up_batch(t).parts]
    return {"part": t.layout.data_rank(t.world.rank), "parts": t.layout.data_ranks, "rows": rows}


def say(table: list[dict[str, Any]], *, whole: str) -> None:
    """The ranks, a line each."""
    console.say(f"What each rank holds of {whole}, sees of a step, and sends in it (counted in one step):")
    for note in table[0]["notes"]:
        console.say(f"  {note}")
    for row in table:
        stages = f"stage {', '.join(map(str, row['stages']))}; " if row["stages"] else ""
        sent = (
            ", ".join(f"{console.bytes_text(count)} {kind}" for kind, count in row["sent_bytes"].items()) or "nothing"
        )
        optimizer = console.bytes_text(row["optimizer_bytes"])
        size = console.bytes_text(row["parameter_bytes"])
        rows = f"rows {'+'.join(map(str, row['rows']))} of part {row['part'] + 1}/{row['parts']}"
        holds = f"{row['parameters']:,} parameters ({size}, optimizer {optimizer})"
        console.say(f"  rank {row['rank']}: {stages}{holds}; {rows}; sends {sent}")
