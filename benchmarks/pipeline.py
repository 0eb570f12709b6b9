"""How much of a pipeline's ideal is reached, and is the automatic cut the best one?

Two ranks, two stages. Ideal: the schedule played with the seconds that the stages' forwards and backwards take in its steps,
all waiting and sending left out, and the optimizer's; with equal stages that is the bubble formula (M + P − 1)·(f + b).
Then every possible cut is trained, alternating with the automatic one.

    python benchmarks/pipeline.py --data ../shared/data/weather4 --model resnet50
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from fanlight.config import Config
from fanlight.parallel import launch
from fanlight.parallel.comm import World
from fanlight.parallel.schedule import makespan, orders
from hardware import heading, median_interval


def cuts(world: World, *, run: str) -> dict[str, Any]:
    """Names of all cuts, and which the automatic choice takes."""
    import torch

    from fanlight.models import cut
    from fanlight.train import build, folder

    config, manifest = folder.read_config(Path(run)), folder.read_manifest(Path(run))
    t = build.build(config, manifest, world)
    px = config.data.image_px or 0
    names = cut.cuts(build.create_model(config, manifest).model, torch.zeros(2, 3, px, px))
    return {"all": names, "automatic": t.placed.cuts}


def steps(world: World, *, run: str, split_at: list[str], warmup: int, count: int) -> list[float]:
    """Seconds of whole steps, cut there: the longest over ranks."""
    from fanlight.train import build, folder, probe
    from fanlight.train.clock import StepClock

    config = folder.read_config(Path(run)).with_value("execution.split_at", split_at)
    t = build.build(config, folder.read_manifest(Path(run)), world)
    batch, clock = probe.made_up_batch(t), StepClock(world.device)
    found = []
    for _ in range(warmup + count):
        world.barrier()
        begin = time.perf_counter()
        probe.timed(t, batch, clock, update=True)
        world.barrier()
        found.append(time.perf_counter() - begin)
    return found[warmup:]


def stage_costs(world: World, *, run: str, split_at: list[str], count: int) -> dict[str, float]:
    """Seconds of this rank's stage on one microbatch, forward and backward without waiting, in steps of the pipeline."""
    from fanlight.parallel.pipeline import Pipeline, Work
    from fanlight.train import build, folder, probe
    from fanlight.train.clock import StepClock

    config = folder.read_config(Path(run)).with_value("execution.split_at", split_at)
    t = build.build(config, folder.read_manifest(Path(run)), world)
    batch, clock = probe.made_up_batch(t), StepClock(world.device)
    found: dict[str, list[float]] = {"forward": [], "backward": [], "communication": [], "update": []}
    plain = Pipeline.step

    def watched(pipeline: Pipeline, work: Work) -> None:
        since = [time.perf_counter()]

        def ended(phase: str) -> None:
            now = time.perf_counter()
            found[phase].append(now - since[0])
            since[0] = now
            work.ended(phase)

        plain(pipeline, replace(work, ended=ended))

    probe.timed(t, batch, clock, update=True)
    Pipeline.step = watched  # type: ignore[method-assign]
    try:
        for _ in range(count):
            t.step(batch, loss_scale=1.0, clock=clock)
            t.ready()
            world.barrier()
            begin = time.perf_counter()
            t.move(0)
            found["update"].append(time.perf_counter() - begin)
    finally:
        Pipeline.step = plain  # type: ignore[method-assign]
    return {f"{phase}_s": median(values) for phase, values in found.items() if phase != "communication"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--rounds", type=int, default=3, help="of all cuts")
    parser.add_argument("--steps", type=int, default=4, help="timed in a round, after two")
    a = parser.parse_args()
    from fanlight.train import prepare

    config = Config().with_values(
        {"data.path": a.data, "model.name": a.model, "data.image_px": a.image_size, "train.batch_size": a.batch_size,
         "train.microbatches": a.microbatches, "execution.ranks": 2, "execution.layout": "pipeline",
         "execution.pipeline_schedule": a.schedule, "execution.autotune": False}
    )  # fmt: skip
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as parent:
        run = str(prepare.prepare(config, out=Path(parent) / "run", command="benchmarks/pipeline.py"))
        with launch.Pool(2) as pool:
            found = pool.run("pipeline:cuts", run=run)[0]
            automatic = found["automatic"]
            costs = pool.run("pipeline:stage_costs", run=run, split_at=automatic, count=8)
            took: dict[str, list[float]] = {name: [] for name in found["all"]}
            own: list[float] = []
            for _ in range(a.rounds):
                for name in found["all"]:
                    took[name] += pool.run("pipeline:steps", run=run, split_at=[name], warmup=1, count=a.steps)[0]
                    own += pool.run("pipeline:steps", run=run, split_at=automatic, warmup=1, count=1)[0]
    plan = orders(a.schedule, ranks=2, stages_per_rank=1, microbatches=a.microbatches)
    forward_s, backward_s = ([each[key] for each in costs] for key in ("forward_s", "backward_s"))
    ideal_s = makespan(plan, forward_s=forward_s, backward_s=backward_s) + max(each["update_s"] for each in costs)
    print(heading(f"A pipeline of two stages, {a.model}, {a.image_size} px"))
    print(
        f"Batch {a.batch_size} in {a.microbatches} microbatches, {a.schedule}; automatic cut after {', '.join(automatic)}.\n"
    )
    print("| stage | forward ms | backward ms | update ms |\n|--:|--:|--:|--:|")
    for number, each in enumerate(costs):
        print(
            f"| {number} | {1e3 * each['forward_s']:.1f} | {1e3 * each['backward_s']:.1f} | {1e3 * each['update_s']:.1f} |"
        )
    middle, low, high = median_interval(own)
    print(f"\nIdeal step {ideal_s:.3f} s; measured {middle:.3f} s ({low:.3f} … {high:.3f}, n = {len(own)}): "
          f"{ideal_s / middle:.3f} of the ideal (floor .85).\n")  # fmt: skip
    best = min(took, key=lambda name: median(took[name]))
    print("| cut after | s per step, median | 95 % interval | n |\n|---|--:|--:|--:|")
    for name, values in took.items():
        mark = " (automatic)" if [name] == automatic else ""
        print("| {}{} | {:.3f} | {:.3f} … {:.3f} | {} |".format(name, mark, *median_interval(values), len(values)))
    ratio = median(took[automatic[0]]) / median(took[best])
    print(f"\nThe automatic cut takes {ratio:.3f} × the best one's step ({best}; floor 1.05).")


if __name__ == "__main__":
    main()
