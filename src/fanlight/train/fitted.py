"""What a run fits to its machine when it starts, and keeps when it goes on."""

from __future__ import annotations

from pathlib import Path

from fanlight import console
from fanlight.config import Config
from fanlight.parallel import link
from fanlight.parallel.comm import World
from fanlight.train import state


def buckets(config: Config, path: Path, world: World) -> tuple[Config, list[str]]:
    """The config with ddp's bucket size, by the measured link or as the run has had it: on three and more ranks buckets decide
    in which order sums are rounded. Collective."""
    e = config.execution
    if e.layout != "ddp" or world.ranks == 1 or e.bucket_mb is not None:
        return config, []
    kept = state.whole(path / "checkpoints") if world.is_first else []  # others may see a shared folder later
    before = world.tell({"mb": state.describe(kept[-1]).get("bucket_mb") if kept else None})["mb"]
    if before is not None:
        return config.with_value("execution.bucket_mb", before), []
    found = link.measure(world)
    speed = f"{1e6 * found.latency_s:,.0f} µs and {console.bytes_text(int(found.bytes_per_s))}/s between ranks"
    note = f"execution.bucket_mb = {found.bucket_mb}  ({speed}, measured: latency is a tenth of a bucket's time)"
    return config.with_value("execution.bucket_mb", found.bucket_mb), [note]
