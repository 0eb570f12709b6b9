"""Does `fanlight study` tell the truth? Four of its points beside loops written by hand.

Serial on one core, serial on all cores, ddp and fsdp on as many ranks as cores: each timed by the study's own probe (block
`memory`: a batch that is there already, everything sent) and by the shortest loop there is (layout_overhead.py's), block by
block in turns, on the same kept ranks. Wanted: within 5 % of each other.

    python benchmarks/study_points.py --data ../shared/data/weather4
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import layout_overhead
from fanlight import console, machine
from fanlight.config import Config
from fanlight.parallel import launch
from fanlight.parallel.comm import World
from hardware import heading, median_interval


def compare(world: World, *, run: str, blocks: int, steps: int, cores: list[int] | None) -> dict[str, list[float]]:
    """On every rank: img/s of the global batch, block by block, by the study and by hand."""
    from fanlight.parallel import affinity
    from fanlight.study.layouts import probe
    from fanlight.train import build

    if cores:
        affinity.bind(cores)
    bench = probe.Bench(world, Path(run), restored=False)
    t, batch = bench.t, bench.batch
    bare = build.create_model(t.config, t.manifest).model.to(world.device)
    by_hand = {"serial": _serial, "ddp": layout_overhead._ddp, "fsdp": layout_overhead._fsdp}[t.layout.name](
        bare, t, batch
    )

    def study() -> float:
        return float(bench.steps(itertools.repeat(batch), count=steps, is_joined=True)["step_s"])

    def hand() -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            by_hand()
        return (time.perf_counter() - begin) / steps

    found: dict[str, list[float]] = {"study": [], "by hand": []}
    for block in range(-1, blocks):  # the first warms up
        order = [("study", study), ("by hand", hand)]
        for name, work in order if block % 2 else order[::-1]:
            world.barrier()
            rate = t.cutting.batch / work()
            if block >= 0:
                found[name].append(rate)
    return found


def _serial(bare: Any, t: Any, batch: Any) -> Any:
    import torch

    bare.to(memory_format=torch.channels_last)
    return layout_overhead._plain_step(bare, bare, t, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    from fanlight.train import prepare

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # ranks find this file by its name
    cores = machine.cores_usable()
    points = [("serial", 1, 1), ("serial", 1, cores), ("ddp", cores, 1), ("fsdp", cores, 1)]
    print(heading(f"Points of a study beside loops by hand, {arguments.model}, {arguments.precision}"))
    print(f"n = {arguments.blocks} rounds of {arguments.steps} steps of {arguments.batch_size} images, alternating\n")
    print("| point | study, img/s | 95 % interval | by hand, img/s | 95 % interval | ratio | 95 % interval |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for layout, ranks, threads in points:
        config = Config().with_values(
            {"data.path": arguments.data, "model.name": arguments.model, "data.image_px": arguments.image_size,
             "train.batch_size": arguments.batch_size, "train.epochs": 1000, "train.precision": arguments.precision,
             "execution.ranks": ranks, "execution.threads": threads, "execution.layout": layout,
             "execution.autotune": False, "execution.channels_last": True}
        )  # fmt: skip
        bound = machine.cores()[:1] if layout == "serial" and threads == 1 else None
        with tempfile.TemporaryDirectory() as parent, launch.Pool(ranks, threads=threads) as pool:
            with console.quiet(also_warnings=True):
                run = prepare.prepare(config, out=Path(parent) / "run", command="benchmarks/study_points.py")
            sizes: dict[str, Any] = {"blocks": arguments.blocks, "steps": arguments.steps, "cores": bound}
            found = pool.run("study_points:compare", run=str(run), **sizes)[0]
        study, hand = found["study"], found["by hand"]
        ratio = median_interval([a / b for a, b in zip(study, hand)])
        name = f"{layout}, {ranks} rank(s) of {threads} thread(s)"
        print("| {} | {:.1f} | {:.1f} … {:.1f} ".format(name, *median_interval(study)), end="")
        print(
            "| {:.1f} | {:.1f} … {:.1f} | {:.3f} | {:.3f} … {:.3f} |".format(*median_interval(hand), *ratio), flush=True
        )


if __name__ == "__main__":
    main()
