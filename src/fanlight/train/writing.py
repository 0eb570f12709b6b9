"""What a trained network writes by itself, sentence by sentence: every sample once, spread over the ranks, each of which holds
the whole network. In fp32 whatever it was trained in, so that the same image has the same sentence everywhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from fanlight import tasks
from fanlight.config import Config
from fanlight.data.loader import Cutting, Samples, evaluation_batches
from fanlight.data.manifest import Manifest
from fanlight.parallel.comm import World
from fanlight.tasks import WritingTask
from fanlight.train import build, evaluate, export
from fanlight.train.step import Normalise, Sight
from fanlight.train.training import Training
from fanlight.types import Rows

LOOKED = 4  # images whose attention is kept for the report
LOOKS = "attention.npz"


class Writer:
    """A whole network on this rank's device; it stands where an evaluation has a step and a task."""

    evaluates_in_threads = False  # torch's own threads compute a batch

    def __init__(self, model: nn.Module, task: WritingTask, config: Config, world: World):
        a, self._model, self._task = config.augment, model.to(world.device), task
        model.to(memory_format=torch.channels_last)
        normalise = Normalise(a.mean, a.std, like=next(model.parameters()), channels_last=True)
        self._sight = Sight(task, normalise, config.train.seed, world.device)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        self._model.eval()
        yield

    def forward(self, rows: Rows) -> torch.Tensor:
        return self._task.write(self._model, self._sight.images(rows))

    def look(self, rows: Rows) -> dict[str, np.ndarray]:
        with self.evaluating():
            return self._task.look(self._model, self._sight.images(rows))

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        return outputs.cpu().numpy()


def written(
    writer: Writer, samples: Samples, cutting: Cutting, world: World, *, batch: int, workers: int
) -> np.ndarray | None:
    """What is written of each of the samples, [N, …], on rank 0; None elsewhere. Collective."""
    own = replace(cutting, rank=world.rank, ranks=world.ranks, has_images=True, is_level=False)
    pixels = replace(samples, features=None)
    return evaluate.outputs(writer, writer, pixels, own, world, batch=batch, workers=workers)  # type: ignore[arg-type]


def expected_s(config: Config, manifest: Manifest) -> float:
    """Seconds until all of val and test are written about, measured on one batch of noise by a network that has learned
    nothing: it hardly ever ends a sentence, so this is about the most. 0 where the task is none of writing."""
    task = tasks.of(config, manifest)
    if not tasks.writes(task):
        return 0.0
    e, px = config.execution, config.data.image_px or 0
    counts = [-(-len(manifest.rows(split)) // e.eval_batch) for split in ("val", "test")]
    created = build.create_model(config, manifest, resumed=True, task=task)
    device = torch.device(e.device or "cpu")
    model = created.model.to(device).to(memory_format=torch.channels_last).eval()
    images = torch.randn((e.eval_batch, 3, px, px), generator=torch.Generator().manual_seed(0)).to(device)
    torch.set_num_threads(e.threads or 1)
    task.write(model, images[:2])  # the first call of anything takes longer
    begin = time.perf_counter()
    task.write(model, images).cpu()  # waits for the device
    return (time.perf_counter() - begin) * sum(-(-count // (e.ranks or 1)) for count in counts)


def tables(weights: Path, t: Training, task: WritingTask, found: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables `found` of val and test, which rank 0 has, with what the network of a run's `weights` writes. Collective."""
    _, model = export.load_network(weights)
    writer = Writer(model, task, t.config, t.world)
    whole = dict(found)
    for split, samples in t.images.items():
        if split == "train":
            continue
        e = t.config.execution
        made = written(writer, samples, t.cutting, t.world, batch=e.eval_batch, workers=e.workers or 1)
        if made is not None:
            whole[split] = task.written(t.manifest, found[split], made)
            _keep_looks(weights.parent.parent / LOOKS, writer, samples, t)  # of test, where there is one: it comes last
    return whole


def _keep_looks(path: Path, writer: Writer, samples: Samples, t: Training) -> None:
    """attention.npz of the first few images, as study/captions.py reads it. On rank 0."""
    few = slice(0, LOOKED)
    samples = replace(
        samples, rows=samples.rows[few], targets=samples.targets[few], weights=samples.weights[few], features=None
    )
    alone = replace(t.cutting, rank=0, ranks=1, has_images=True, is_level=False)
    with contextlib.closing(evaluation_batches(samples, alone, batch=len(samples), workers=1)) as batches:
        looks = writer.look(next(batches).parts[0])
    if looks:
        share = np.float64(t.config.augment.eval_share or 1.0)
        np.savez(path, sample=samples.rows, share=share, **looks)  # type: ignore[arg-type]
