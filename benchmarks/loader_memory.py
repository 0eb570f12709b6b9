"""Does the loader's memory grow? 87,000 JPEGs of 200 px: three epochs of the loader alone, then 200 training steps.

Private memory is what no other process could share: anonymous pages (RssAnon), not the pack's, which the page cache
lends. It is sampled throughout; its slope is fitted after the first epoch with a 95 % interval by blocks. Images are made
once, in `--work` (about 0.6 GB, and 10 GB of pack).

    python benchmarks/loader_memory.py --work scratch/87k
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from hardware import heading

CLASSES = 29
FLAT_BYTES_PER_STEP = 1000.0  # a slope below this is what page tables and allocator noise make: 87 MB in 87,000 steps


def make_images(folder: Path, *, count: int) -> None:
    """Class folders of smooth random pictures with a disc in the class's colour."""
    per_class = count // CLASSES
    if (folder / "made").exists():
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_make_class, [folder / "images"] * CLASSES, range(CLASSES), [per_class] * CLASSES))
    (folder / "made").write_text(str(count))


def _make_class(folder: Path, label: int, count: int) -> None:
    cv2.setNumThreads(1)
    place = folder / f"class{label:02d}"
    place.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(label)
    colour = tuple(int(c) for c in random.integers(60, 255, 3))
    for index in range(count):
        image = cv2.resize(
            random.integers(0, 256, (7, 7, 3), dtype=np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC
        )
        cv2.circle(image, tuple(int(v) for v in random.integers(40, 160, 2)), 35, colour, -1)
        cv2.imwrite(str(place / f"{index:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


def slope(steps: np.ndarray, values: np.ndarray, *, blocks: int = 20) -> tuple[float, float, float]:
    """Least-squares slope and its 95 % interval, resampling blocks of consecutive samples (they are not independent)."""
    parts = np.array_split(np.arange(len(steps)), blocks)
    random = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        chosen = np.concatenate([parts[k] for k in random.integers(0, blocks, blocks)])
        found.append(np.polyfit(steps[chosen], values[chosen], 1)[0])
    return float(np.polyfit(steps, values, 1)[0]), *(float(v) for v in np.quantile(found, [0.025, 0.975]))


def private_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=87_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    os.environ["FANLIGHT_CACHE"] = str(arguments.work / "cache")
    make_images(arguments.work, count=arguments.count)

    from fanlight.config import Config
    from fanlight.data import order
    from fanlight.data.loader import train_batches
    from fanlight.parallel import comm
    from fanlight.train import build, clock, folder, prepare
    from fanlight.types import Position

    config = Config().with_values(
        {"data.path": str(arguments.work / "images"), "train.epochs": arguments.epochs, "train.batch_size": 32,
         "data.image_px": 128, "model.name": "resnet18"}
    )  # fmt: skip
    out = arguments.work / f"run-{os.getpid()}"
    run = prepare.prepare(config, out=out, command="benchmarks/loader_memory.py")
    t = build.build(folder.read_config(run), folder.read_manifest(run), comm.alone())
    steps, private = [], []
    per_epoch = order.steps_per_epoch(len(t.samples["train"]), t.cutting.batch)
    for index, _ in enumerate(
        train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=arguments.epochs, workers=2)
    ):
        if index % 10 == 0:
            steps.append(index)
            private.append(private_bytes())
    loader_peak = max(private)
    later = np.array(steps) >= per_epoch
    fit = slope(np.array(steps)[later], np.array(private, float)[later])

    train_steps, train_private = [], []
    times = clock.StepClock(t.world.device)
    batches = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=1, workers=1)
    for index, batch in zip(range(arguments.steps), batches):
        times.begin()
        times.arrived()
        t.step(batch, loss_scale=1.0, clock=times)
        t.optimizer.update(index)
        times.end(step=index, epoch=0, images=batch.rows)
        train_steps.append(index)
        train_private.append(private_bytes())
    batches.close()
    warm = np.array(train_steps) >= arguments.steps // 4
    train_fit = slope(np.array(train_steps)[warm], np.array(train_private, float)[warm])

    print(heading(f"Memory of the loader, {arguments.count:,} images of 200 px"))
    print("| phase | steps | samples | private memory, peak | slope, bytes per step | 95 % interval | flat |")
    print("|---|--:|--:|--:|--:|--:|---|")
    rows = (
        (f"loader alone, {arguments.epochs} epochs, 2 threads", steps[-1] + 1, len(steps), loader_peak, fit),
        ("training, ResNet-18, batch 32", arguments.steps, len(train_steps), max(train_private), train_fit),
    )
    for name, count, samples, peak, (value, low, high) in rows:
        flat = low <= 0 <= high or abs(value) < FLAT_BYTES_PER_STEP
        print(f"| {name} | {count} | {samples} | {peak / 1e6:.0f} MB | {value:.0f} | {low:.0f} … {high:.0f} | {flat} |")


if __name__ == "__main__":
    main()
