"""What does Fanlight cost beside a hand-written DDP loop with the same norms, precision and batch?

Two jobs on the same kept ranks, alternating block by block within one run: A is Fanlight's whole loop body (loader,
step, ledger, clock, optimizer), B is the shortest DDP loop there is, on one batch in memory. Floor: A at least .97 of B.

    python benchmarks/ddp_overhead.py --data ../shared/data/weather4 --ranks 2
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fanlight.config import Config
from fanlight.parallel import launch
from fanlight.parallel.comm import World
from hardware import heading, median_interval


def compare(world: World, *, run: str, blocks: int, steps: int) -> dict[str, list[float]]:
    """On every rank: img/s of the global batch, block by block, by Fanlight and by the bare loop."""
    import torch

    from fanlight.data.loader import train_batches
    from fanlight.parallel.norm import synchronise
    from fanlight.train import build, clock, folder
    from fanlight.train.ledger import Ledger
    from fanlight.types import Position

    config, manifest = folder.read_config(Path(run)), folder.read_manifest(Path(run))
    t = build.build(config, manifest, world)
    stream = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=10_000, workers=1)
    kept = next(stream)
    rows = kept.parts[0]

    bare = build.create_model(config, manifest).model.to(world.device, memory_format=torch.channels_last)
    synchronise(bare, world.norm)  # type: ignore[arg-type]
    wrapped = torch.nn.parallel.DistributedDataParallel(bare, process_group=world.group, broadcast_buffers=False)
    optimizer = torch.optim.SGD(
        bare.parameters(), lr=config.optim.lr, momentum=0.9, nesterov=True, weight_decay=config.optim.weight_decay
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=config.optim.label_smoothing)
    mean = torch.tensor(config.augment.mean).view(1, 3, 1, 1)
    std = torch.tensor(config.augment.std).view(1, 3, 1, 1)

    def by_hand() -> None:
        for _ in range(steps):
            x = (rows.images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # type: ignore[union-attr]
            with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16"):
                loss = loss_of(wrapped(x), rows.targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), config.optim.clip_norm)
            optimizer.step()

    ledger, times = Ledger(world), clock.StepClock(world.device)

    def by_fanlight() -> None:
        for step in range(steps):
            times.begin()
            batch = next(stream)
            times.arrived()
            sums = t.step(batch, loss_scale=1.0, clock=times)
            norm = t.optimizer.update(step)
            times.mark("optimizer")
            ledger.add(sums, denominator=batch.denominator, norm=norm)
            ledger.exchange(step=step, stop=False, save=False)
            times.end(step=step, epoch=0, images=batch.rows)

    found: dict[str, list[float]] = {"fanlight": [], "by_hand": []}
    by_fanlight(), by_hand()  # warm-up
    for _ in range(blocks):
        for name, work in (("fanlight", by_fanlight), ("by_hand", by_hand)):
            world.barrier()
            begin = time.perf_counter()
            work()
            world.barrier()
            found[name].append(steps * t.cutting.batch / (time.perf_counter() - begin))
    stream.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    from fanlight.train import prepare

    config = Config().with_values(
        {"data.path": arguments.data, "model.name": arguments.model, "data.image_px": arguments.image_size,
         "train.batch_size": arguments.batch_size, "train.epochs": 10_000, "execution.ranks": arguments.ranks}
    )  # fmt: skip
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as parent:
        run = prepare.prepare(config, out=Path(parent) / "run", command="benchmarks/ddp_overhead.py")
        with launch.Pool(arguments.ranks) as pool:
            sizes: dict[str, Any] = {"blocks": arguments.blocks, "steps": arguments.steps}
            found = pool.run("ddp_overhead:compare", run=str(run), **sizes)[0]
    ratio = median_interval([a / b for a, b in zip(found["fanlight"], found["by_hand"])])
    title = f"DDP beside a hand-written loop, {arguments.model}, {arguments.ranks} ranks, batch {arguments.batch_size}"
    print(heading(title))
    print(f"n = {arguments.blocks} pairs of {arguments.steps} steps, alternating\n")
    print("| loop | img/s, median | 95 % interval |")
    print("|---|--:|--:|")
    for name in ("fanlight", "by_hand"):
        print("| {} | {:.1f} | {:.1f} … {:.1f} |".format(name, *median_interval(found[name])))
    print("| ratio, pair by pair (floor .97) | {:.3f} | {:.3f} … {:.3f} |".format(*ratio))


if __name__ == "__main__":
    main()
