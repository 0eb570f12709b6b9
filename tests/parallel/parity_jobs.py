"""Functions that tests of the parity contract run on ranks. They return numbers, tests judge them.

A `folder` is what `data_folder` of test_parity.py leaves: images, `manifest.parquet`, `pack/`.
"""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fanlight.config import Config
from fanlight.data import manifest as manifests
from fanlight.data.loader import train_batches
from fanlight.models import small
from fanlight.parallel import comm, compiled
from fanlight.parallel.comm import World
from fanlight.parallel.local_sgd import Meetings
from fanlight.parallel.replicate import Replicated
from fanlight.train import build, compiling, evaluate, parts, state
from fanlight.train.clock import StepClock
from fanlight.train.training import Training
from fanlight.types import Batch, Position, Rows

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
BASE = {
    "data.image_px": 16, "data.canvas_px": 20, "data.order": "random", "model.name": "small-resnet",
    "augment.crop_share": [0.5, 1.0], "augment.eval_share": 1.0, "augment.flip": True, "optim.lr": 0.05,
    "optim.weight_decay": 5e-4, "train.epochs": 8, "train.batch_size": 13, "train.precision": "fp32",
    "execution.threads": 1, "execution.workers": 1, "execution.channels_last": True, "execution.pack": True,
}  # fmt: skip


class DropNet(nn.Module):
    """Everything that a microbatch's cut could change, in little: norms of both kinds, element and channel dropout."""

    def __init__(self, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2),
            nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(16 * 6 * 6, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3),
        )  # fmt: skip
        self.fc = nn.Linear(24, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x_BCHW))


class DropBlock(nn.Module):
    """A residual branch with what recomputing could change: statistics and dropout."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.branch(x_BCHW)


class DropBlocks(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(DropBlock(), DropBlock())
        self.fc = nn.Linear(8, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x_BCHW)).mean((2, 3)))


small.NAMES["drop-blocks"] = lambda classes, image_px: DropBlocks(classes)
small.NAMES["drop-net"] = lambda classes, image_px: DropNet(classes)


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    """Warnings are errors on ranks, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def training(world: World, folder: str, values: dict[str, Any], *, dtype: str = "fp32") -> Training:
    """As `values` say, by default replicated; on one rank serial, whatever they say."""
    layout = {"execution.layout": "ddp" if world.ranks > 1 else "serial", "execution.pack_dir": f"{folder}/pack"}
    config = Config().with_values({**BASE, **layout, **values})
    if world.ranks == 1:
        of_pipelines = ("pipeline_schedule", "stages_per_rank", "split_at")
        alone = {"execution.layout": "serial", **dict.fromkeys(f"execution.{name}" for name in of_pipelines)}
        config = config.with_values(alone)
    manifest = manifests.load(Path(folder, "manifest.parquet"))
    os.environ["FANLIGHT_CACHE"] = f"{folder}/cache-{world.ranks}"  # of features, which each number of ranks computes
    with strictly():
        t = build.build(config, manifest, world, dtype=DTYPES[dtype])
        t.feed()
        return t


def batches(t: Training, *, done: int = 0) -> Iterator[Batch]:
    start = Position(*divmod(done, t.steps_per_epoch))
    while start.epoch < (t.config.train.epochs or 0):
        with strictly():
            t.enter(start.epoch)
            t.feed()
        yield from train_batches(t.samples["train"], t.cutting, start=start, epochs=t.phase.end, workers=1)
        start = Position(t.phase.end, 0)


def gradient(t: Training) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in t.optimizer.named.values() if p.grad is not None]).double()


def whole(t: Training) -> dict[str, torch.Tensor]:
    """Each kind of state as one vector: some single tensors are 0 but for rounding."""
    tensors = {**t.step.parts[0].state_dict()}
    kinds: dict[str, list[torch.Tensor]] = {"weights": [tensors.pop(name) for name in t.optimizer.named]}
    for name, value in tensors.items():
        kinds.setdefault(name.rpartition(".")[2], []).append(value)
    if t.average is not None:
        kinds["averaged weights"] = [t.average.tensors()[f"ema.{name}"] for name in t.optimizer.named]
    return {kind: torch.cat([value.flatten() for value in values]) for kind, values in kinds.items()}


def sums_of(t: Training, batch: Batch) -> np.ndarray:
    """One step's gradients are left in the model; its sums over all ranks."""
    clock = StepClock(t.world.device)
    clock.begin()
    clock.arrived()
    with strictly():
        return t.world.sum_host(t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock).numpy())


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Names, dtypes and bits."""
    found = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        raw = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
        found.update(f"{key} {value.dtype} {list(value.shape)}".encode() + raw.tobytes())
    return found.hexdigest()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, or the plain difference where nothing but 0 is expected."""
    expected = expected.double()
    return float((found.double() - expected).norm() / (expected.norm() or 1.0))


def check_equal(tensors: dict[str, torch.Tensor], world: World) -> None:
    """TrainingError when a tensor differs between ranks in any bit."""
    parts.plan(tensors, parts.whole_tensors, world)


def built_state(world: World, *, folder: str, values: dict[str, Any]) -> dict[str, Any]:
    t = training(world, folder, values)
    left = [name for name, p in t.step.parts[0].named_parameters() if p.grad is not None]
    return {"digest": digest(t.tensors()), "gradients": left, "keys": sorted(t.tensors())}


def exchanged(batch: Batch, how: str) -> Batch:
    """The batch with samples in other places, each in its own microbatch."""
    parts = []
    for rows in batch.parts:
        places = np.arange(len(rows.samples))
        places = places[::-1].copy() if how == "reversed" else np.roll(places, len(places) // 2)
        assert rows.images is not None and rows.targets is not None
        keys = None if rows.keys is None else rows.keys[places]
        parts.append(Rows(rows.samples[places], rows.images[places], rows.targets[places], keys=keys))
    return Batch(batch.position, tuple(parts), batch.denominator, batch.seconds)


def still_to_do(rows: Rows) -> list[np.ndarray]:
    """What the device is still to do to the pixels, by row."""
    changes = [] if rows.changes is None else [rows.changes.op, rows.changes.amount, rows.changes.erase]
    return changes + ([] if rows.mix is None else [rows.mix.share.numpy(), rows.mix.box.numpy()])


def batch_hashes(world: World, *, folder: str, values: dict[str, Any], steps: int, done: int = 0) -> list | None:
    """By step: the denominator, and by microbatch the samples and a hash of pixels and targets, all ranks' together."""
    t = training(world, folder, values)
    told = []
    for _, batch in zip(range(steps), batches(t, done=done)):
        microbatches = []
        for rows in batch.parts:
            samples, images, targets = (
                world.gather(np.asarray(part)) for part in (rows.samples, rows.images, rows.targets)
            )
            undone = b"".join(b"" if part is None else part.tobytes() for part in map(world.gather, still_to_do(rows)))
            if samples is not None:
                microbatches.append(
                    [samples.tolist(), hashlib.sha256(images.tobytes() + targets.tobytes() + undone).hexdigest()]
                )
        told.append([list(batch.position), batch.denominator, microbatches])
    return told if world.is_first else None


def lockstep(world: World, *, folder: str, values: dict[str, Any], dtype: str, steps: int) -> dict[str, float] | None:
    """Steps of the serial run, each taken by this layout too, from the serial state: the worst relative differences.

    Raises TrainingError when gradients differ between ranks in any bit."""
    t = training(world, folder, values, dtype=dtype)
    serial = training(comm.alone(), folder, values, dtype=dtype) if world.is_first else None
    serial_batches = batches(serial) if serial else iter([])
    shared = Path(folder, f"lockstep-{world.ranks}.safetensors")
    worst = dict.fromkeys(("loss", "gradient", *whole(t)), 0.0)
    for step, batch in zip(range(steps), batches(t)):
        if serial:
            save_file({key: value.contiguous() for key, value in serial.tensors().items()}, shared)
        world.barrier()
        t.restore(load_file(shared))
        world.barrier()
        sums = sums_of(t, batch)
        check_equal({"gradient": gradient(t)}, world)
        errors = {}
        if serial:
            expected = sums_of(serial, next(serial_batches))
            assert sums[1:].tolist() == expected[1:].tolist(), "hits or rows"
            errors["loss"] = abs(sums[0] - expected[0]) / abs(expected[0])
            errors["gradient"] = error(gradient(t), gradient(serial))
            serial.update(step)
        t.update(step)
        if serial:
            errors |= {kind: error(found, whole(serial)[kind]) for kind, found in whole(t).items()}
            worst = {kind: max(value, errors.get(kind, 0.0)) for kind, value in worst.items()}  # frozen kinds end
    return worst if world.is_first else None


def scored_rows(
    world: World, *, folder: str, values: dict[str, Any], checkpoint: str, parts: list[list[Any]], threads: int = 1
) -> list | None:
    """Evaluation rows from a checkpoint's weights: of each [split, rows of a batch, views] in `parts`."""
    t = training(world, folder, values)
    t.restore(state.load(Path(checkpoint))[0])
    before, modes = digest(t.tensors()), [module.training for module in t.model.modules()]
    torch.set_num_threads(threads)
    try:
        with strictly(), t.averaged():
            found = [
                evaluate.outputs(
                    t.step, t.task, t.samples[split], t.cutting, world, batch=batch, workers=1, views=views
                )
                for split, batch, views in parts
            ]
    finally:
        torch.set_num_threads(1)
    assert digest(t.tensors()) == before and [module.training for module in t.model.modules()] == modes
    return [None if rows is None else rows.tolist() for rows in found]


def train_on(
    world: World, *, folder: str, values: dict[str, Any], to: int, checkpoints: str = "", save_at: int = 0, start: str = "",
    settled: bool = True, dtype: str = "fp32", exchange: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Trains to step `to`, from the checkpoint `start` or the seed, and saves into `checkpoints` after step `save_at` (the
    last, if 0). What it ended with, and by step the loss and the samples of this rank. `exchange`: samples change places
    in their microbatches."""
    with unsettled() if not settled else contextlib.nullcontext():
        t = training(world, folder, values, dtype=dtype)
    done, path = 0, ""
    if start:
        document = state.describe(Path(start))
        done = document["step"]
        t.enter(done // t.steps_per_epoch)
        t.restore(state.load(Path(start), part_of=t.part_of)[0])
        t.optimizer.restore_scalars(document)
    losses, samples, means_bytes = [], [], 0
    for step, batch in zip(range(done, to), batches(t, done=done)):
        sums = sums_of(t, exchanged(batch, exchange) if exchange else batch)
        t.update(step)
        losses.append(float(sums[0] / sums[2]))
        samples.append([rows.samples.tolist() for rows in batch.parts])
        if checkpoints and step + 1 == (save_at or to):
            document = {"step": step + 1, **t.optimizer.scalars()}
            before = comm.sent["means for checkpoints"]
            tensors = t.tensors()
            means_bytes = comm.sent["means for checkpoints"] - before
            saved = state.save(
                Path(checkpoints), tensors=tensors, document=document, world=world, keep=9, held_of=t.held_of
            )
            path = str(saved)
    with t.averaged():
        averaged = digest(t.weights())
    return {
        "averaged": averaged, "digest": digest(t.tensors()), "keys": sorted(t.tensors()), "losses": losses, "samples": samples,
        "checkpoint": path, "data rank": t.layout.data_rank(world.rank), "cuts": t.placed.cuts,
        "own": digest(t.weights()), "means_bytes": means_bytes,
    }  # fmt: skip


def mean_gain(world: World) -> float:
    """What a checkpoint between two meetings holds of a parameter without dimensions, which begins as the rank's number."""
    part = nn.Module()
    part.gain = nn.Parameter(torch.tensor(float(world.rank)))
    meetings = Meetings([part], world, every=3, steps=9)
    meetings.after(0)
    return float(meetings.checkpoint({"model.gain": part.gain.detach()})["model.gain"])


@contextlib.contextmanager
def unsettled() -> Iterator[None]:
    settle: Callable[..., None] = Replicated.settle
    Replicated.settle = lambda self, example: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Replicated.settle = settle  # type: ignore[method-assign]


def compiled_gradients(world: World, *, folder: str, values: dict[str, Any], backend: str) -> dict[str, Any]:
    """The first step's gradient, compiled and not; what `prove` says and leaves behind."""
    compiled.BACKEND = backend
    try:
        t = training(world, folder, {**values, "execution.compile": True})
        before = digest(t.tensors())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = next(batches(t))
            plain_sums = sums_of(t, batch)
            plain = gradient(t)
            t.step.parts[0].zero_grad(set_to_none=True)
        t = training(world, folder, {**values, "execution.compile": True})
        verdict = compiling.prove(t, steps=10)
        same = digest(t.tensors()) == before
        sums = sums_of(t, batch)
        with t.step.evaluating():
            rests = all(part._compiled_call_impl is None for part in t.step.compiled.parts)
        works = all(part._compiled_call_impl is not None for part in t.step.compiled.parts)
    finally:
        compiled.BACKEND = "inductor"
    return {
        "error": error(gradient(t), plain), "loss error": abs(sums[0] - plain_sums[0]) / abs(plain_sums[0]),
        "verdict": verdict is not None and verdict.document(), "same state": same, "rests": rests, "works": works,
        "keys": sorted(t.tensors()),
    }  # fmt: skip


def feature_table(world: World, *, folder: str, values: dict[str, Any], dtype: str) -> list[Any]:
    """A hash of all features in the manifest's order, and where they lie."""
    t = training(world, folder, values, dtype=dtype)
    found = t.samples["train"].features
    assert found is not None and all(t.samples[split].features.table is not None for split in t.samples)
    kept = [str(path.relative_to(folder)) for path in sorted(Path(os.environ["FANLIGHT_CACHE"]).rglob("*.*"))]
    return [list(found.table.shape), hashlib.sha256(found.table.tobytes()).hexdigest(), kept]
