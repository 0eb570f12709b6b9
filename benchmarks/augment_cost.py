"""What does each augmentation cost? Per image on one input thread (engine cpu), per batch on the device (engine device).

An image is cut from its canvas as in training (`crop and mirror`), and changed on top of that: rows below the first are
the change alone. Mixing happens on the device in both engines. Medians over n repeats, each over all images of a batch.

    python benchmarks/augment_cost.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch

from fanlight.config import ENGINES, Augment
from fanlight.data import augment, mix, policy
from fanlight.types import Changes
from hardware import heading

JITTER = (0.4, 0.4, 0.4, 0.1)
WHOLE = {
    "policy trivial": Augment(policy="trivial"), "policy rand, 2 operations": Augment(policy="rand"),
    "jitter .4,.4,.4,.1": Augment(jitter=JITTER), "erase 1": Augment(erase=1.0),
    "all of it": Augment(policy="rand", jitter=JITTER, erase=1.0),
}  # fmt: skip
MIXING = {"mixup .2": Augment(mixup=0.2), "cutmix 1": Augment(cutmix=1.0)}
SEED = 0


def quartiles(work: Callable[[], object], *, repeats: int, device: str) -> tuple[float, float, float]:
    """Seconds of one call, median and quartiles, after a tenth of the repeats as warm-up."""
    found = []
    for repeat in range(repeats + max(1, repeats // 10)):
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= max(1, repeats // 10):
            found.append(time.perf_counter() - begin)
    low, median, high = np.quantile(found, (0.25, 0.5, 0.75))
    return float(median), float(low), float(high)


def photos(count: int, *, side: int) -> np.ndarray:
    """uint8 [N, P, P, 3] with the slow gradients of photographs: an operation's cost may depend on them."""
    noise = np.random.default_rng(SEED).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in noise])


def single(op: int, *, rows: int) -> Changes:
    """One operation for every row, at half of its strength."""
    wide = policy.OPS[op].wide
    amount = 0.25 if wide is None else wide / 2
    return Changes(np.full((rows, 1), op), np.full((rows, 1), amount), np.zeros((rows, 4), np.int64))


def cropping(canvases: np.ndarray, *, side: int) -> Callable[[], object]:
    """What every training image costs without any change: its numbers, crop, resize and mirror."""
    samples, out = np.arange(len(canvases)), np.empty((side, side, 3), np.uint8)
    sizes = np.full(len(canvases), canvases.shape[1])

    def work() -> None:
        boxes = augment.random_boxes(
            samples, sizes, sizes, seed=SEED, epoch=0, flip=True, share=(0.25, 1.0), ratio=(0.75, 4 / 3)
        )
        for index, canvas in enumerate(canvases):
            augment.cut(canvas, boxes, index, out=out)

    return work


def changing(images: np.ndarray, asked: Augment | Changes, *, engine: str, device: str) -> Callable[[], object]:
    """Numbers drawn and pixels changed, of the whole batch."""
    samples, side = np.arange(len(images)), images.shape[1]
    on_device, scratch = torch.from_numpy(images).to(device), np.empty_like(images[0])

    def work() -> None:
        changes = asked
        if isinstance(changes, Augment):
            drawn = policy.draw(samples, changes, seed=SEED, epoch=0, image_px=side)
            assert drawn is not None
            changes = drawn
        if engine == "device":
            policy.change_batch(on_device, changes)
            return
        for index, image in enumerate(images):
            scratch[:] = image
            policy.change(scratch, changes, index)

    return work


def mixed(images: np.ndarray, asked: Augment, *, device: str) -> Callable[[], object]:
    """Normalised floats, as the network takes them."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()

    def work() -> None:
        drawn = mix.draw(np.arange(len(images)), asked, seed=SEED, epoch=0, image_px=images.shape[1])
        assert drawn is not None
        mix.pixels(x, mix.on(drawn, x.device))

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64, help="even")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of torch, where the device is a CPU")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    cv2.setNumThreads(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = photos(a.batch_size, side=a.image_size)
    timing = {"repeats": a.repeats, "device": device}
    print(heading(f"Cost of augmentation, {a.image_size} px, batch {a.batch_size}"))
    print(
        f"n = {a.repeats} batches each; device {device}", f"with {a.threads} thread(s)\n" if device == "cpu" else "\n"
    )
    print("| what | cpu engine, µs per image | interquartile | device engine, µs per batch | interquartile |")
    print("|---|--:|--:|--:|--:|")
    crop = quartiles(cropping(photos(a.batch_size, side=2 * a.image_size), side=a.image_size), **timing)
    print(_row("crop and mirror", crop, None, rows=a.batch_size))
    every = {op.name: single(index, rows=a.batch_size) for index, op in enumerate(policy.OPS)}
    for name, asked in {**every, **WHOLE}.items():
        found = [quartiles(changing(images, asked, engine=e, device=device), **timing) for e in ENGINES]
        print(_row(name, found[0], found[1], rows=a.batch_size))
    for name, asked in (*MIXING.items(), ("either", replace(MIXING["mixup .2"], cutmix=1.0))):
        found = [quartiles(mixed(images, asked, device=device), **timing)]
        print(_row(f"mixing: {name}", None, found[0], rows=a.batch_size))


def _row(
    name: str, image: tuple[float, float, float] | None, batch: tuple[float, float, float] | None, *, rows: int
) -> str:
    cells = []
    for found, over in ((image, rows), (batch, 1)):
        if found is None:
            cells += ["–", "–"]
        else:
            cells += [
                f"{found[0] * 1e6 / over:.1f}",
                "{:.1f} … {:.1f}".format(*(s * 1e6 / over for s in found[1:])),
            ]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
