"""Points of whole input pipelines, to the floats that a network takes: Fanlight's loader over its pack and over files,
torch's DataLoader over files as its users write it, and DataLoader over the pack with Fanlight's own augmentation.

All give float32 [B, 3, P, P], normalised, of random crops of the same share, half of them mirrored; Fanlight's loader and
DataLoader over the pack give the same bits, which is checked first. Batches that are ready when a turn begins are not
counted: they were made in another's time.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fanlight.config import Augment
from fanlight.data import augment, inside, loader, order, source
from fanlight.data.manifest import Manifest, read_file
from fanlight.study.loading import preparing
from fanlight.study.loading.points import Point
from fanlight.study.loading.sample import Sample
from fanlight.train.step import Normalise
from fanlight.types import Position

if TYPE_CHECKING:
    from PIL import Image

FILES, PACK = "batches from files", "batches from the pack"
OURS, THEIRS = "Fanlight's loader", "DataLoader"
BATCH = 32
SHARE, RATIO = (0.25, 1.0), (0.75, 4 / 3)  # of random crops
IN_PLACE = "the files lie in an archive, which DataLoader's users would unpack first; here it reads them in place"
EPOCHS = 100_000  # more than any study sees
COMPARED = 3  # batches
REST = 1.5  # of the time in which what is made ahead was made last


@dataclass
class Stream:
    """Batches without end, and how many may be ready before they are asked for."""

    batches: Iterator[torch.Tensor]
    ahead: int
    batch_s: float = 0.0  # seconds per batch, as last taken

    def drain(self) -> None:
        for _ in range(self.ahead):
            next(self.batches)

    def take(self, count: int) -> int:
        begin = time.perf_counter()
        images = sum(len(next(self.batches)) for _ in range(count))
        self.batch_s = (time.perf_counter() - begin) / count
        return images

    def rest(self) -> None:
        """Waits until it has made what it makes ahead, which would else be made in the next variant's time."""
        time.sleep(REST * self.ahead * self.batch_s)


class Photos(Dataset):
    """As in torch's and torchvision's tutorials: open with Pillow, random crop, mirror, tensor, normalise."""

    def __init__(self, manifest: Manifest, *, image_px: int):
        from torchvision import transforms

        rows = manifest.rows()
        self._paths, self._labels = [str(manifest.path(row)) for row in rows.tolist()], manifest.labels[rows].tolist()
        a = Augment()
        self._transform = transforms.Compose([
            transforms.RandomResizedCrop(image_px, scale=SHARE, ratio=RATIO),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(a.mean, a.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with _opened(self._paths[index]) as image:
            return self._transform(image.convert("RGB")), self._labels[index]


def _opened(path: str) -> Image.Image:
    """A file as torch's users open it. One in an archive is read in place, since Pillow cannot."""
    from PIL import Image

    try:
        return Image.open(path)
    except NotADirectoryError:  # the path goes through a file
        return Image.open(io.BytesIO(read_file(path)))


class Packed(Dataset):
    """The pack with Fanlight's crops; a batch is made in one go, as its loader makes it."""

    def __init__(self, samples: loader.Samples, *, image_px: int):
        self._samples, self._image_px = samples, image_px

    def __len__(self) -> int:
        return len(self._samples)

    def __getitems__(self, keys: list[tuple[int, int]]) -> torch.Tensor:
        epoch, keys_B = keys[0][0], np.array([key for _, key in keys])
        chosen = order.samples_of(keys_B)
        rows, where = self._samples.rows[chosen], self._samples.source
        boxes = augment.random_boxes(
            keys_B, where.heights[rows], where.widths[rows], seed=0, epoch=epoch, flip=True, share=SHARE, ratio=RATIO
        )
        return loader.images(self._samples, chosen, [boxes], image_px=self._image_px, pin=False)[0]


class Epochs(Sampler):
    """(epoch, sample) in Fanlight's order, epoch after epoch."""

    def __init__(self, count: int):
        self._count = count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for epoch in range(EPOCHS):
            for sample in order.epoch_order(self._count, seed=0, epoch=epoch).tolist():
                yield epoch, sample


def points(sample: Sample, workers: Sequence[int], stack: ExitStack) -> list[Point]:
    """All of them with 0 and with `workers` workers, compared before. DataLoader's processes are forked first, before
    there is a thread that they would lack."""
    counts, batch = (0, *workers), min(BATCH, len(sample))
    whole = len(sample) // batch * batch  # both then cut an epoch alike
    manifest = sample.manifest.take(sample.manifest.rows()[:whole])
    packed = _samples(manifest, source.of_pack(sample.pack, manifest))
    files = _samples(manifest, source.Files(manifest, canvas_px=sample.canvas_px))
    px, mean = sample.image_px, Augment()
    normalise = Normalise(mean.mean, mean.std, like=torch.zeros(1), channels_last=False)
    cutting = loader.Cutting(
        batch=batch, microbatches=1, rank=0, ranks=1, image_px=px, seed=0, flip=True, crop_share=SHARE, crop_ratio=RATIO,
        eval_share=1.0,
    )  # fmt: skip
    streams: list[tuple[str, str, int, Callable[[], Stream]]] = []
    for count in counts:
        streams.append((FILES, THEIRS, count, partial(_photos, Photos(manifest, image_px=px), batch, count, stack)))
        data = Packed(packed, image_px=px)
        streams.append((PACK, THEIRS, count, partial(_dataloader, data, batch, count, normalise, stack)))
    for what, samples in ((FILES, files), (PACK, packed)):
        for count in counts:
            streams.append((what, OURS, count, partial(_ours, samples, cutting, count, normalise, stack)))
    opened, found = [], []
    for what, engine, count, start in streams:
        begin = time.perf_counter()
        stream = start()
        first = next(stream.batches)
        opened.append((what, engine, count, stream, first, time.perf_counter() - begin))
    same = [
        (engine, partial(_first_bytes, stream, first)) for what, engine, _, stream, first, _ in opened if what == PACK
    ]
    same += [(e, partial(_first_bytes, s, first)) for what, e, _, s, first, _ in opened if (what, e) == (FILES, OURS)]
    preparing.compare("batches", same)
    for what, engine, count, stream, _, start_s in opened:
        turn = partial(stream.take, max(1, whole // batch))
        point = Point(what, engine, count, turn, start_s, before=stream.drain, after=stream.rest)
        point.note = IN_PLACE if (what, engine) == (FILES, THEIRS) and _are_inside(manifest) else ""
        found.append(point)
    return found


def _are_inside(manifest: Manifest) -> bool:
    """Whether any of the files is a member of another one."""
    folders = {str(manifest.path(row).parent) for row in manifest.rows().tolist()}
    return any(inside.outermost(folder) is not None for folder in folders)


def _samples(manifest: Manifest, where: source.Source) -> loader.Samples:
    rows = manifest.rows()
    return loader.Samples(where, rows, manifest.labels[rows], np.ones(len(rows)))


def _ours(
    samples: loader.Samples, cutting: loader.Cutting, workers: int, normalise: Normalise, stack: ExitStack
) -> Stream:
    batches = loader.train_batches(samples, cutting, start=Position(0, 0), epochs=EPOCHS, workers=workers)
    stack.callback(batches.close)
    return Stream((normalise(_pixels(batch.parts[0].images)) for batch in batches), workers + 1 if workers else 0)


def _dataloader(data: Packed, batch: int, workers: int, normalise: Normalise, stack: ExitStack) -> Stream:
    loading = DataLoader(data, batch, sampler=Epochs(len(data)), num_workers=workers, collate_fn=_as_it_is)
    return Stream(map(normalise, _iterated(loading, stack)), 2 * workers)


def _photos(data: Photos, batch: int, workers: int, stack: ExitStack) -> Stream:
    """One DataLoader after the other would start its workers in every epoch; here they stay, in its favour."""
    shuffled = itertools.chain.from_iterable(torch.randperm(len(data)).tolist() for _ in range(EPOCHS))
    loading = DataLoader(data, batch, sampler=_Endless(shuffled), num_workers=workers)
    return Stream((images for images, _ in _iterated(loading, stack)), 2 * workers)


class _Endless(Sampler):
    def __init__(self, indices: Iterator[int]):
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return self._indices


def _iterated(loading: DataLoader[Any], stack: ExitStack) -> Iterator[Any]:
    batches = iter(loading)
    if hasattr(batches, "_shutdown_workers"):  # what its destructor calls, only not at a moment of its own choice
        stack.callback(batches._shutdown_workers)
    return batches


def _first_bytes(stream: Stream, first: torch.Tensor) -> str:
    more = [next(stream.batches) for _ in range(COMPARED - 1)]
    return preparing.digest_of(batch.numpy() for batch in [first, *more])


def _pixels(images: torch.Tensor | None) -> torch.Tensor:
    assert images is not None
    return images


def _as_it_is(batch: Any) -> Any:
    return batch
