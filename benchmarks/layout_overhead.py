"""What does Fanlight cost beside hand-written loops with the same primitives, norms, precision and batch?

Three jobs on the same kept ranks, alternating block by block within one run, in rotating order: A is Fanlight's whole loop
body (loader, step, ledger, clock, optimizer), A' the same on one batch in memory, B the shortest loop there is, on that
batch: torch's DistributedDataParallel, its `fully_shard` on the same blocks, or its `PipelineStage` and schedule on the same
two stages. What A' lacks of A is preparing images, which B does not do. Floor: at least .97 of B.

    python benchmarks/layout_overhead.py --data ../shared/data/weather4 --layout ddp
    python benchmarks/layout_overhead.py --data ../shared/data/weather4 --layout fsdp
    python benchmarks/layout_overhead.py --data ../shared/data/weather4 --layout pipeline --microbatches 4
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.config import Config
from fanlight.parallel import launch
from fanlight.parallel.comm import World
from hardware import heading, median_interval

if TYPE_CHECKING:
    import torch

    from fanlight.train.training import Training
    from fanlight.types import Batch

LAYOUTS = ("ddp", "fsdp", "pipeline")


def compare(world: World, *, run: str, blocks: int, steps: int) -> dict[str, list[float]]:
    """On every rank: img/s of the global batch, block by block, by Fanlight and by hand."""
    from fanlight.data.loader import train_batches
    from fanlight.train import build, clock, folder
    from fanlight.train.ledger import Ledger
    from fanlight.types import Position

    config, manifest = folder.read_config(Path(run)), folder.read_manifest(Path(run))
    t = build.build(config, manifest, world)
    stream = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=10_000, workers=1)
    bare = build.create_model(config, manifest).model.to(world.device)
    make = {"ddp": _ddp, "fsdp": _fsdp, "pipeline": _pipeline}[t.layout.name]
    in_memory = next(stream)
    one_step = make(bare, t, in_memory)

    ledger, times = Ledger(world), clock.StepClock(world.device)

    def by_hand() -> None:
        for _ in range(steps):
            one_step()

    def by_fanlight(batches: Iterator[Batch]) -> None:
        for step in range(steps):
            times.begin()
            batch = next(batches)
            times.arrived()
            sums = t.step(batch, loss_scale=1.0, clock=times)
            ledger.add(sums, denominator=batch.denominator, norm=t.ready())
            ledger.exchange(step=step, stop=False, save=False)
            t.move(step)
            times.mark("optimizer")
            times.end(step=step, epoch=0, images=batch.rows)

    loops: dict[str, Callable[[], None]] = {
        "fanlight": lambda: by_fanlight(stream),
        "fanlight, batch in memory": lambda: by_fanlight(repeat(in_memory)),
        "by hand, batch in memory": by_hand,
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    for work in loops.values():  # warm-up
        work()
    for block in range(blocks):
        order = list(loops.items())
        for name, work in order[block % len(order) :] + order[: block % len(order)]:
            world.barrier()
            begin = time.perf_counter()
            work()
            world.barrier()
            found[name].append(steps * t.cutting.batch / (time.perf_counter() - begin))
    stream.close()
    return found


def _optimizer(module: torch.nn.Module, config: Config) -> torch.optim.Optimizer:
    import torch

    o = config.optim
    return torch.optim.AdamW(
        module.parameters(),
        lr=o.lr or 1e-3,
        betas=o.betas,
        weight_decay=o.weight_decay or 0.0,
        fused=True,
    )


def _images(batch: Batch, config: Config) -> Callable[[int], torch.Tensor]:
    """Normalised images of a microbatch, as a hand-written loop makes them."""
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.augment.mean, config.augment.std))
    return lambda index: (batch.parts[index].images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # type: ignore[union-attr]


def _loss(config: Config) -> torch.nn.Module:
    import torch

    return torch.nn.CrossEntropyLoss(label_smoothing=config.optim.label_smoothing)


def _autocast(config: Config) -> Any:
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16")


def _ddp(bare: torch.nn.Module, t: Training, batch: Batch) -> Callable[[], None]:
    import torch

    from fanlight.parallel.norm import synchronise

    bare.to(memory_format=torch.channels_last)
    synchronise(bare, t.world.norm)  # type: ignore[arg-type]
    wrapped = torch.nn.parallel.DistributedDataParallel(bare, process_group=t.world.group, broadcast_buffers=False)
    return _plain_step(bare, wrapped, t, batch)


def _fsdp(bare: torch.nn.Module, t: Training, batch: Batch) -> Callable[[], None]:
    from torch.distributed.fsdp import fully_shard

    from fanlight.models import cut
    from fanlight.parallel import shard
    from fanlight.parallel.norm import synchronise

    synchronise(bare, t.world.norm)  # type: ignore[arg-type]
    options = {
        "mesh": shard._mesh(t.world, t.layout),
        "mp_policy": shard._policy(bare, t.config.train.precision or "fp32"),
    }
    for name in cut.blocks(bare):
        fully_shard(bare.get_submodule(name), **options)
    fully_shard(bare, **options)
    return _plain_step(bare, bare, t, batch)


def _plain_step(bare: torch.nn.Module, wrapped: torch.nn.Module, t: Training, batch: Batch) -> Callable[[], None]:
    import torch

    optimizer, loss_of, images = _optimizer(bare, t.config), _loss(t.config), _images(batch, t.config)

    def step() -> None:
        x = images(0)
        with _autocast(t.config):
            loss = loss_of(wrapped(x), batch.parts[0].targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), t.config.optim.clip_norm)
        optimizer.step()

    return step


def _pipeline(bare: torch.nn.Module, t: Training, batch: Batch) -> Callable[[], None]:
    """torch's stage and 1f1b schedule on the stages that Fanlight cut. Neither is channels last: torch's stage sends no
    activation that is."""
    import torch
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    from fanlight.models import cut

    config, count, (rows, px) = t.config, len(batch.parts), batch.parts[0].size
    example = torch.zeros((rows, 3, px, px))
    parts = cut.stages(bare, t.placed.cuts, example[:2])
    mine = t.world.rank
    with torch.no_grad(), _autocast(config):
        shapes = [example]
        for part in parts:
            shapes.append(part.eval()(shapes[-1]))
    for part in parts:
        part.train()
    given = [shape.detach().contiguous().requires_grad_(index > 0) for index, shape in enumerate(shapes)]
    stage = PipelineStage(
        parts[mine], mine, len(parts), t.world.device, input_args=given[mine], output_args=given[mine + 1]
    )
    loss_of, images = _loss(config), _images(batch, config)
    schedule = Schedule1F1B(stage, count, loss_fn=lambda y, target: loss_of(y, target) / count, scale_grads=False)
    optimizer = _optimizer(parts[mine], config)

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(config):
            if mine == 0:
                schedule.step(torch.cat([images(index) for index in range(count)]).contiguous())
            else:
                targets = torch.cat([part.targets for part in batch.parts])
                schedule.step(target=targets, losses=[])
        own = [p for p in parts[mine].parameters() if p.grad is not None]
        squares = torch.nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]).square()
        torch.distributed.all_reduce(squares)  # the gradient's norm is that of both stages
        torch.nn.utils.clip_grads_with_norm_(own, config.optim.clip_norm or 1.0, squares.sqrt())
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--layout", choices=LAYOUTS, default="ddp")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    from fanlight.train import prepare

    config = Config().with_values(
        {"data.path": arguments.data, "model.name": arguments.model, "data.image_px": arguments.image_size,
         "train.batch_size": arguments.batch_size, "train.microbatches": arguments.microbatches, "train.epochs": 10_000,
         "execution.ranks": arguments.ranks, "execution.layout": arguments.layout, "execution.autotune": False,
         "execution.channels_last": arguments.layout != "pipeline"}
    )  # fmt: skip
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as parent:
        run = prepare.prepare(config, out=Path(parent) / "run", command="benchmarks/layout_overhead.py")
        with launch.Pool(arguments.ranks) as pool:
            sizes: dict[str, Any] = {"blocks": arguments.blocks, "steps": arguments.steps}
            found = pool.run("layout_overhead:compare", run=str(run), **sizes)[0]
    title = f"{arguments.layout} beside a hand-written loop, {arguments.model}, {arguments.ranks} ranks"
    print(heading(title))
    print(f"n = {arguments.blocks} rounds of {arguments.steps} steps of {arguments.batch_size} images, alternating\n")
    print(
        "| loop | img/s, median | 95 % interval | ratio to the loop by hand, round by round (floor .97) | 95 % interval |"
    )
    print("|---|--:|--:|--:|--:|")
    *ours, by_hand = found
    for name in ours:
        ratio = median_interval([a / b for a, b in zip(found[name], found[by_hand])])
        print(
            "| {} | {:.1f} | {:.1f} … {:.1f} | {:.3f} | {:.3f} … {:.3f} |".format(
                name, *median_interval(found[name]), *ratio
            )
        )
    print("| {} | {:.1f} | {:.1f} … {:.1f} | 1 | |".format(by_hand, *median_interval(found[by_hand])))


if __name__ == "__main__":
    main()
