"""Where decoded canvases come from: a mapped pack, a pack read piecewise, or the files. One call: `read(row)`.

Sources are thread-safe; several input threads read at once. Pixels are the same from each.
"""

import os
import time
from typing import Protocol

import numpy as np

from fanlight import machine
from fanlight.data import canvas
from fanlight.data.manifest import Manifest
from fanlight.data.pack import Pack
from fanlight.errors import DataError

MAPPED_SHARE = 0.6  # of available memory: a larger pack would evict itself while it is read


class Source(Protocol):
    """Canvases by manifest row."""

    heights: np.ndarray  # int64 [rows of the manifest]
    widths: np.ndarray
    places: np.ndarray  # int64 [rows of the manifest], byte where reading begins: near rows are read together
    kind: str  # in words, for the console and resolved.yaml

    def read(self, row: int) -> np.ndarray:
        """uint8 [height, width, 3] of one manifest row; read-only."""
        ...


class MappedPack:
    """A pack in the page cache, shared by all processes of the machine; `read` copies nothing."""

    kind = "pack, memory-mapped"

    def __init__(self, pack: Pack, manifest: Manifest):
        self._slots = pack.slots(manifest)
        self._pack = pack
        self.heights, self.widths = pack.sizes(self._slots)
        self.places = pack.starts(self._slots)
        self._shards = [np.load(path, mmap_mode="r") for path in pack.shard_paths]

    def read(self, row: int) -> np.ndarray:
        shard, offset, height, width = self._pack.place(int(self._slots[row]))
        return self._shards[shard][offset : offset + height * width * 3].reshape(height, width, 3)


class ReadPack:
    """A pack larger than memory: each read asks the disk, so a bad sector is an error with a name, not a dead process."""

    kind = "pack, read piecewise"

    def __init__(self, pack: Pack, manifest: Manifest):
        self._slots = pack.slots(manifest)
        self._pack = pack
        self.heights, self.widths = pack.sizes(self._slots)
        self.places = pack.starts(self._slots)
        self._files = [os.open(path, os.O_RDONLY) for path in pack.shard_paths]
        self._starts = [np.load(path, mmap_mode="r").offset for path in pack.shard_paths]

    def read(self, row: int) -> np.ndarray:
        shard, offset, height, width = self._pack.place(int(self._slots[row]))
        count = height * width * 3
        pixels = np.empty((height, width, 3), np.uint8)
        try:
            got = os.preadv(self._files[shard], [pixels.data], self._starts[shard] + offset)
        except OSError as error:
            raise DataError(f"cannot read {self._pack.shard_paths[shard]}: {error.strerror}") from None
        if got != count:
            raise DataError(f"{self._pack.shard_paths[shard]} is shorter than its index says; delete the pack's folder")
        return pixels

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)


class Files:
    """Straight from the files, decoded at each read: where no disk can hold a pack."""

    kind = "files, decoded at every read"

    def __init__(self, manifest: Manifest, *, canvas_px: int):
        self._manifest, self._canvas_px = manifest, canvas_px
        widths, heights = manifest.column("width"), manifest.column("height")
        sizes = [canvas.canvas_size(int(w), int(h), canvas_px) if w > 0 else (0, 0) for w, h in zip(widths, heights)]
        self.widths, self.heights = np.array(sizes, np.int64).reshape(-1, 2).T
        self.places = np.cumsum(manifest.column("bytes")) - manifest.column("bytes")

    def read(self, row: int) -> np.ndarray:
        try:
            pixels = canvas.to_canvas(self._manifest.read(row), self._canvas_px)
        except canvas.Unreadable as error:
            raise DataError(
                f"{self._manifest.path(row)}: {error}; run `fanlight check` so that it is quarantined"
            ) from None
        if pixels.shape[:2] != (self.heights[row], self.widths[row]):  # crops are placed by the sizes as checked
            raise DataError(f"{self._manifest.path(row)} changed since it was checked; run `fanlight check` again")
        return pixels


def fits_in_memory(pack: Pack) -> bool:
    """Whether the pack takes at most 60 % of available memory; its pages are shared by the ranks of a machine."""
    return pack.bytes <= MAPPED_SHARE * machine.memory_available()


def of_pack(pack: Pack, manifest: Manifest) -> MappedPack | ReadPack:
    """Mapped while it fits in memory, else read piecewise (mapped all the same where a system has no positioned read)."""
    if fits_in_memory(pack) or not hasattr(os, "preadv"):
        return MappedPack(pack, manifest)
    return ReadPack(pack, manifest)


def random_reads_per_s(pack: Pack, *, seconds: float = 0.3) -> float:
    """Images per second that one thread reads at random places of the pack, the page cache asked to forget it first."""
    files = [os.open(path, os.O_RDONLY) for path in pack.shard_paths]
    try:
        if hasattr(os, "posix_fadvise"):
            for file in files:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        slots = np.random.default_rng(0).integers(0, len(pack.sha256), 100_000)
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            shard, offset, height, width = pack.place(int(slots[done % len(slots)]))
            os.pread(files[shard], height * width * 3, offset)
            done += 1
        return done / (time.perf_counter() - begin)
    finally:
        for file in files:
            os.close(file)
