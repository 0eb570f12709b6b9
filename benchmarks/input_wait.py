"""Does input slow a step down? The default augmentation from the pack, beside the same step on a batch in memory.

Blocks of steps alternate within one run (A B A B …): A reads through the loader, B repeats one batch that is in memory.
Floors: input wait at most 2 % of a step, and A at least .97 of B.

    python benchmarks/input_wait.py --data ../shared/data/weather4
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from fanlight.config import Config
from fanlight.data.loader import train_batches
from fanlight.parallel import comm
from fanlight.train import build, clock, folder, prepare
from fanlight.train.training import Training
from fanlight.types import Position
from hardware import heading, median_interval

Summary = tuple[float, float, float]  # median and its 95 % interval


def measure(data: str, *, model: str, image_px: int, batch: int, blocks: int, steps: int) -> dict[str, Summary]:
    """Rates through the loader and from memory, their ratio and the input wait: (median, low, high) of each."""
    config = Config().with_values(
        {"data.path": data, "model.name": model, "data.image_px": image_px, "train.batch_size": batch,
         "train.epochs": 10_000}
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as parent:
        run = prepare.prepare(config, out=Path(parent) / "run", command="benchmarks/input_wait.py")
        t = build.build(folder.read_config(run), folder.read_manifest(run), comm.alone(_device()))
    stream = train_batches(
        t.samples["train"], t.cutting, start=Position(0, 0), epochs=10_000, workers=t.config.execution.workers or 1,
        pin=t.world.device.type == "cuda",
    )  # fmt: skip
    kept = next(stream)
    _block(t, itertools.repeat(kept, 5))  # warm-up: first calls plan their kernels
    loaded, memory, waits = [], [], []
    for _ in range(blocks):
        seconds, wait = _block(t, itertools.islice(stream, steps))
        loaded.append(steps * batch / seconds)
        waits.append(wait / seconds)
        seconds, _ = _block(t, itertools.repeat(kept, steps))
        memory.append(steps * batch / seconds)
    stream.close()
    ratios = [a / b for a, b in zip(loaded, memory)]
    series = {"loader_images_per_s": loaded, "memory_images_per_s": memory, "ratio": ratios, "input_wait_share": waits}
    return {name: median_interval(values) for name, values in series.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="per block")
    a = parser.parse_args()
    found = measure(a.data, model=a.model, image_px=a.image_size, batch=a.batch_size, blocks=a.blocks, steps=a.steps)
    print(heading(f"Input beside the step, {a.model}, {a.image_size} px, batch {a.batch_size}"))
    print(f"n = {a.blocks} pairs of {a.steps} steps, alternating\n")
    print("| what | median | 95 % interval | floor |")
    print("|---|--:|--:|--:|")
    print("| img/s through the loader | {:.1f} | {:.1f} … {:.1f} | |".format(*found["loader_images_per_s"]))
    print("| img/s, one batch in memory | {:.1f} | {:.1f} … {:.1f} | |".format(*found["memory_images_per_s"]))
    print("| ratio, pair by pair | {:.3f} | {:.3f} … {:.3f} | ≥ .97 |".format(*found["ratio"]))
    print("| input wait, share of a step | {:.2%} | {:.2%} … {:.2%} | ≤ 2 % |".format(*found["input_wait_share"]))


def _block(t: Training, batches) -> tuple[float, float]:
    """Seconds of training on these batches, and the seconds of them spent waiting for input."""
    times = clock.StepClock(t.world.device)
    begin = time.perf_counter()
    while True:
        times.begin()
        batch = next(batches, None)
        if batch is None:
            break
        times.arrived()
        t.step(batch, loss_scale=1.0, clock=times)
        t.optimizer.update(0)
        times.mark("optimizer")
        times.end(step=0, epoch=0, images=batch.rows)
    rows = times.finish()
    return time.perf_counter() - begin, sum(row["input_s"] for row in rows)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
