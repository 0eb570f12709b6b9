"""What does Fanlight's training of captioners cost beside a plain PyTorch loop, and what do cached features save?

Three loops of one process, alternating block by block, in rotating order: A is Fanlight's whole loop body (loader, step, ledger,
clock, optimizer), A' the same on batches in memory, B the shortest loop there is over those batches: the same network, told the
same words, the same loss, gradient clipping, AdamW. Floor: at least .97 of B.

Then the same data with the encoder frozen, by the command line: seconds of an epoch's training when features are computed
once, and when they are not; the rounds alternate. Floor: 5 times. What is frozen are weights from a file, drawn here: a random
encoder costs what a trained one does.

    python benchmarks/caption_train.py ../shared/data/flickr700 --model resnet18+lstm
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from fanlight import console
from fanlight.config import Config
from fanlight.parallel import launch
from fanlight.parallel.comm import World
from hardware import heading, median_interval

if TYPE_CHECKING:
    import torch

    from fanlight.train.training import Training
    from fanlight.types import Batch

KEPT = 6  # batches in memory: their captions differ in length


def compare(world: World, *, run: str, blocks: int, steps: int) -> dict[str, list[float]]:
    """img/s, block by block."""
    from fanlight.data.loader import train_batches
    from fanlight.train import build, clock, folder
    from fanlight.train.ledger import Ledger
    from fanlight.types import Position

    config, manifest = folder.read_config(Path(run)), folder.read_manifest(Path(run))
    t = build.build(config, manifest, world)
    stream = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=10_000, workers=1)
    kept = list(islice(stream, KEPT))
    by_hand = _by_hand(build.create_model(config, manifest).model.to(world.device), t)
    ledger, times = Ledger(world), clock.StepClock(world.device)

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

    def plain() -> None:
        for batch in islice(cycle(kept), steps):
            by_hand(batch)

    loops: dict[str, Callable[[], None]] = {
        "fanlight": lambda: by_fanlight(stream),
        "fanlight, batches in memory": lambda: by_fanlight(cycle(kept)),
        "by hand, batches in memory": plain,
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    for work in loops.values():  # warm-up
        work()
    for block in range(blocks):
        order = list(loops.items())
        for name, work in order[block % len(order) :] + order[: block % len(order)]:
            begin = time.perf_counter()
            work()
            found[name].append(steps * t.cutting.batch / (time.perf_counter() - begin))
    stream.close()
    return found


def _by_hand(model: torch.nn.Module, t: Training) -> Callable[[Batch], None]:
    import torch

    o = t.config.optim
    if t.config.execution.channels_last:
        model.to(memory_format=torch.channels_last)
    model.train()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (t.config.augment.mean, t.config.augment.std))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=o.lr or 1e-3, betas=o.betas, weight_decay=o.weight_decay or 0.0, fused=True
    )

    def step(batch: Batch) -> None:
        rows = batch.parts[0]
        x = (rows.images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # type: ignore[union-attr]
        words = rows.targets.long()  # type: ignore[union-attr]
        model.decoder.told(words)  # type: ignore[union-attr, operator]
        loss = loss_by_hand(model(x), words, label_smoothing=o.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm or 1.0)
        optimizer.step()

    return step


def loss_by_hand(out: torch.Tensor, words: torch.Tensor, *, label_smoothing: float) -> torch.Tensor:
    """The mean over words that tasks/caption.py trains on, of what the network says, [b, k, L, V], of captions [b, k, L], or
    [b, k, L - 1, V] of one that detects no words."""
    import torch
    import torch.nn.functional as F

    from fanlight.models.detect import FIRST, looked_for
    from fanlight.types import PAD

    following = words[:, :, 1:]
    sentence = F.cross_entropy(
        out[:, :, -following.shape[2] :].flatten(0, 2),
        following.flatten(),
        ignore_index=PAD,
        label_smoothing=label_smoothing,
    )
    if out.shape[2] < words.shape[2]:
        return sentence
    sought = slice(FIRST, FIRST + looked_for(out.shape[3]))
    stands = torch.zeros_like(out[:, :, 0]).scatter_(2, words, 1.0)[..., sought]
    detected = F.binary_cross_entropy_with_logits(out[:, :, 0, sought], stands, reduction="none").sum(2)
    counted = (following != PAD).sum(2)  # a caption's words, by which its detection counts
    return sentence + (detected * counted).sum() / counted.sum()


def write_weights(model: str, image_px: int, path: Path) -> Path:
    """A file of the encoder's weights alone, for `--freeze`."""
    from safetensors.torch import save_file

    from fanlight.models import captioner, zoo

    encoder = zoo.create(captioner.parse(model).encoder, classes=2, image_px=image_px, seed=0).model
    save_file(encoder.state_dict(), path)
    return path


def epoch_s(a: argparse.Namespace, *, weights: Path, parent: Path, is_cached: bool) -> tuple[float, float]:
    """Of a training with the encoder frozen: median seconds of the epochs after the first, evaluations left out, and seconds
    from the command to the first epoch's end, in which features are computed that are kept."""
    out = Path(tempfile.mkdtemp(dir=parent)) / "run"
    command = [sys.executable, "-m", "fanlight", "train", a.data, "--model", a.model, "--freeze", "--weights", str(weights),
               "--no-augment", "--epochs", "4", "--image-size", str(a.image_size), "--batch-size", str(a.batch_size),
               "--no-autotune", "--out", str(out)]  # fmt: skip
    command += ["--limit", str(a.limit)] if a.limit else []
    subprocess.run([*command, *([] if is_cached else ["--no-cache-features"])], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "train"]
    starts = [row["seconds_in"] for row in rows if row["kind"] == "evaluate" and row["split"] == "val"]
    took = sorted(row["seconds_in"] - start for row, start in zip(epochs[1:], starts))
    return took[len(took) // 2], float(epochs[0]["seconds_in"])


def loops(a: argparse.Namespace, *, parent: Path) -> str:
    """Fanlight's loop and the one by hand, in Markdown."""
    from fanlight.train import prepare

    config = Config().with_values(
        {"data.path": a.data, "model.name": a.model, "data.image_px": a.image_size, "data.limit": a.limit,
         "train.batch_size": a.batch_size, "train.epochs": 10_000, "execution.autotune": False}
    )  # fmt: skip
    with console.quiet():
        run = prepare.prepare(config, out=parent / "run", command="benchmarks/caption_train.py")
    with launch.Pool(1) as pool:
        found = pool.run("caption_train:compare", run=str(run), blocks=a.blocks, steps=a.steps)[0]
    lines = [
        f"n = {a.blocks} rounds of {a.steps} steps of {a.batch_size} images, alternating",
        "",
        "| loop | img/s, median | 95 % interval | ratio to the loop by hand, round by round (floor .97) | 95 % interval |",
        "|---|--:|--:|--:|--:|",
    ]
    *ours, by_hand = found
    for name in ours:
        ratio = median_interval([one / other for one, other in zip(found[name], found[by_hand])])
        figures = *median_interval(found[name]), *ratio
        lines.append("| {} | {:.1f} | {:.1f} … {:.1f} | {:.3f} | {:.3f} … {:.3f} |".format(name, *figures))
    return "\n".join(
        [*lines, "| {} | {:.1f} | {:.1f} … {:.1f} | 1 | |".format(by_hand, *median_interval(found[by_hand]))]
    )


def frozen(a: argparse.Namespace, *, parent: Path) -> str:
    """Epochs of a frozen encoder, with its features kept and without, in Markdown."""
    weights = write_weights(a.model, a.image_size, parent / "encoder.safetensors")
    of: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for turn in range(2 * a.rounds):
        is_cached = turn % 4 in (0, 3)
        of[is_cached].append(epoch_s(a, weights=weights, parent=parent, is_cached=is_cached))
    lines = [
        f"Encoder frozen, no augmentation, n = {a.rounds} trainings of 4 epochs each, alternating:",
        "",
        "| features | s of an epoch's training, median | least … most | s until the first epoch's end |",
        "|---|--:|--:|--:|",
    ]
    for is_cached, name in ((True, "computed once"), (False, "computed in each epoch")):
        epochs, firsts = zip(*of[is_cached])
        middle, first = (sorted(each)[len(each) // 2] for each in (epochs, firsts))
        lines.append(f"| {name} | {middle:.2f} | {min(epochs):.2f} … {max(epochs):.2f} | {first:.1f} |")
    ratio = median_interval([one[0] / other[0] for one, other in zip(of[False], of[True])])
    lines += ["", "An epoch without the cache takes {:.1f} ({:.1f} … {:.1f}) times as long (floor 5).".format(*ratio)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet18+lstm")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="images that are used")
    parser.add_argument("--blocks", type=int, default=12, help="rounds of the two loops; 0: none")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="of trainings with the encoder frozen; 0: none")
    a = parser.parse_args()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    print(heading(f"Training a captioner, {a.model} at {a.image_size} px"))
    with tempfile.TemporaryDirectory() as parent:
        parts = [loops(a, parent=Path(parent))] if a.blocks else []
        parts += [frozen(a, parent=Path(parent))] if a.rounds else []
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
