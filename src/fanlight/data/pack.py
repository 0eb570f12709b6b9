"""Pixels decoded and resized once, ready for random access: `pack.json`, `index.parquet`, `pixels-*.npy`.

A pack is a cache. It is named by its content (the files' hashes), canvas and decoder, so a changed file or decoder
makes another pack, and renaming or relabelling files does not. Every canvas's place is known before anything is
decoded, so workers write without waiting for each other and an interrupted pack continues at its last whole shard.
"""

import contextlib
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fanlight import machine
from fanlight.console import Progress, bytes_text, say
from fanlight.data import cache, canvas, engines, leftovers
from fanlight.data.engines import Engine, Job, Operation
from fanlight.data.manifest import Manifest, arrow
from fanlight.data.writeback import Writeback
from fanlight.errors import DataError, DiskError, disk_is_full

SHARD_BYTES = 512 << 20  # what an interruption can lose, and small enough that every file system takes it
LOCK = ".lock"
DISK_RESERVE = 0.05  # of the disk's free bytes stay free


@dataclass(frozen=True)
class Plan:
    """Where every distinct image goes, by arithmetic on sizes alone. N distinct images, ordered by hash."""

    sha256: np.ndarray  # str [N], sorted
    rows: np.ndarray  # int64 [N], a manifest row with that content
    heights: np.ndarray  # int64 [N]
    widths: np.ndarray  # int64 [N]
    shards: np.ndarray  # int64 [N]
    offsets: np.ndarray  # int64 [N], bytes from the shard's first pixel
    canvas_px: int

    @property
    def bytes(self) -> int:
        return int((self.heights * self.widths * 3).sum())

    @property
    def key(self) -> str:
        """Names the pack: content, canvas, decoder, and the shards' layout, so that an interrupted pack is continued by
        the same plan only."""
        content = hashlib.sha256("\n".join(self.sha256).encode()).hexdigest()
        places = hashlib.sha256(np.stack([self.shards, self.offsets]).tobytes()).hexdigest()
        text = f"{content} {places} {self.canvas_px} {canvas.decoder_version()}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def plan(manifest: Manifest, *, canvas_px: int, shard_bytes: int = SHARD_BYTES) -> Plan:
    """Lays out every image of `manifest` whose size is known; copies share one place.

    Quarantined ones as well: an image found damaged while packing must not change the key of what was packed.
    """
    rows = np.flatnonzero(manifest.column("width") > 0)
    hashes, first = np.unique(manifest.column("sha256")[rows].astype(str), return_index=True)
    rows = rows[first]
    widths, heights = manifest.column("width")[rows], manifest.column("height")[rows]
    sizes = [canvas.canvas_size(int(w), int(h), canvas_px) for w, h in zip(widths, heights)]
    widths, heights = np.array(sizes, np.int64).reshape(-1, 2).T
    shards, offsets, shard, end = [], [], 0, 0
    for count in (heights * widths * 3).tolist():
        if end and end + count > shard_bytes:
            shard, end = shard + 1, 0
        shards.append(shard)
        offsets.append(end)
        end += count
    return Plan(hashes, rows, heights, widths, np.array(shards), np.array(offsets), canvas_px)


@dataclass(frozen=True)
class Pack:
    """A finished pack on disk. `Pack.slots` says where a manifest's rows are."""

    folder: Path
    canvas_px: int
    sha256: np.ndarray  # str [N], sorted
    heights: np.ndarray  # int64 [N]
    widths: np.ndarray  # int64 [N]
    shards: np.ndarray  # int64 [N]
    offsets: np.ndarray  # int64 [N]
    failed: dict[str, str]  # sha256 -> why it could not be decoded

    @property
    def bytes(self) -> int:
        return int((self.heights * self.widths * 3).sum())

    @property
    def shard_paths(self) -> list[Path]:
        return [shard_path(self.folder, shard) for shard in range(int(self.shards.max()) + 1)]

    def slots(self, manifest: Manifest) -> np.ndarray:
        """int64 per manifest row: its place in this pack, −1 for rows that are not usable."""
        slots = np.full(len(manifest), -1, np.int64)
        rows = manifest.rows()
        wanted = manifest.column("sha256")[rows].astype(str)
        found = np.minimum(np.searchsorted(self.sha256, wanted), len(self.sha256) - 1)
        missing = np.flatnonzero(self.sha256[found] != wanted)
        if len(missing):
            raise DataError(f"{manifest.path(int(rows[missing[0]]))} is not in pack {self.folder}; pack again")
        slots[rows] = found
        return slots

    def sizes(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths by slot; 0 where the slot is −1."""
        known = slots >= 0
        return np.where(known, self.heights[slots], 0), np.where(known, self.widths[slots], 0)

    def starts(self, slots: np.ndarray) -> np.ndarray:
        """int64, where each slot's pixels begin in the pack read from first to last; 0 where the slot is −1."""
        counts = self.heights * self.widths * 3
        return np.where(slots >= 0, (np.cumsum(counts) - counts)[slots], 0)

    def place(self, slot: int) -> tuple[int, int, int, int]:
        """Shard, offset in bytes, height, width."""
        return int(self.shards[slot]), int(self.offsets[slot]), int(self.heights[slot]), int(self.widths[slot])

    def mark_failed(self, manifest: Manifest) -> Manifest:
        """The manifest with the images that could not be decoded quarantined by name and reason."""
        if not self.failed:
            return manifest
        hashes = manifest.column("sha256")
        return manifest.quarantine(
            {int(r): self.failed[hashes[r]] for r in manifest.rows() if hashes[r] in self.failed}
        )


def parent(pack_dir: str | None) -> Path:
    """The folder that holds packs: the one given, else the user's cache."""
    return Path(os.path.expanduser(pack_dir)) if pack_dir else cache.folder() / "packs"


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"pixels-{shard:05d}.npy"


def load(folder: Path) -> Pack | None:
    """The pack in `folder`, or None where there is none that is whole."""
    try:
        about = json.loads((folder / "pack.json").read_text())
        # Not `to_numpy`, nor `pa.table` in `_finish`: both import pandas, to ask whether something is a Series.
        columns = pq.ParquetFile(folder / "index.parquet").read().to_pydict()
        heights, widths, shards_N, offsets = (
            np.array(columns[name], np.int64) for name in ("height", "width", "shard", "offset")
        )
        hashes = np.array(columns["sha256"], str)
        pack = Pack(folder, about["canvas_px"], hashes, heights, widths, shards_N, offsets, about["failed"])
        lengths = np.zeros(len(pack.shard_paths), np.int64)
        np.maximum.at(lengths, pack.shards, pack.offsets + pack.heights * pack.widths * 3)
        shards = [np.load(path, mmap_mode="r") for path in pack.shard_paths]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # a shard that was cut short is a ValueError
        return None
    return pack if [len(shard) for shard in shards] == lengths.tolist() else None


def find(manifest: Manifest, *, canvas_px: int, parent: Path) -> Pack | None:
    """The pack of `manifest` below `parent`, or None where it has not been made."""
    return load(parent / plan(manifest, canvas_px=canvas_px).key)


def make(
    manifest: Manifest, *, canvas_px: int, parent: Path, workers: int = 1, engine: Engine | None = None,
    shard_bytes: int = SHARD_BYTES, otherwise: str = "choose a folder on another disk",
) -> Pack:  # fmt: skip
    """The pack of `manifest` below `parent`: opened when it is there, else made, by `workers` threads or by `engine`,
    which stays open. The same bytes by any.

    Raises DiskError when the disk lacks room, before anything is decoded, with the canvas that would fit, and when nothing
    can be written: `otherwise` is what can be done instead, in the words of the command that packs. Raises DataError when a
    file is not what the manifest says, with its name. Whole shards stay then, and are not made again.
    """
    if engine is None:
        with engines.of("threads", workers=workers) as threads:
            return make(
                manifest,
                canvas_px=canvas_px,
                parent=parent,
                engine=threads,
                shard_bytes=shard_bytes,
                otherwise=otherwise,
            )
    layout = plan(manifest, canvas_px=canvas_px, shard_bytes=shard_bytes)
    folder = parent / layout.key
    if (ready := load(folder)) is not None:
        say(f"Pack: {len(ready.sha256)} images, {bytes_text(ready.bytes)}, kept from before in {folder}")
        return ready
    try:
        with _locked(folder):
            if (ready := load(folder)) is not None:  # another process made it while this one waited
                return ready
            _check_room(layout, manifest, folder, otherwise=otherwise)
            count, size = len(layout.sha256), bytes_text(layout.bytes)
            say(f"Packing {count} images, short side {canvas_px} px, {size}, into {folder}")
            return _finish(layout, folder, _write_shards(layout, manifest, folder, engine))
    except BrokenPipeError:  # of the console's reader, not of the disk
        raise
    except OSError as error:
        room = "free some room and give the same command again, or " if disk_is_full(error) else ""
        raise DiskError(f"cannot make a pack in {parent}: {error.strerror or error}; {room}{otherwise}") from None


def _write_shards(layout: Plan, manifest: Manifest, folder: Path, engine: Engine) -> dict[str, str]:
    failed: dict[str, str] = {}
    count = int(layout.shards.max()) + 1
    jobs = engines.jobs(manifest, layout.rows)
    with Progress("Packing", total=len(layout.sha256), unit="images") as bar:
        for shard in range(count):
            slots = np.flatnonzero(layout.shards == shard)
            notes = folder / f"failed-{shard:05d}.json"
            if shard_path(folder, shard).exists() and notes.exists():
                failed |= json.loads(notes.read_text())
                bar.advance(len(slots))
            else:
                failed |= _write_shard(layout, jobs, shard_path(folder, shard), slots, engine, bar)
    return failed


def _write_shard(
    layout: Plan, jobs: list[Job], path: Path, slots: np.ndarray, engine: Engine, bar: Progress
) -> dict[str, str]:
    part = path.with_suffix(".part")
    total = int((layout.heights[slots] * layout.widths[slots] * 3).sum())
    failed: dict[str, str] = {}
    with open(part, "w+b") as file:
        try:
            header = {"descr": "|u1", "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            first = file.tell()  # the byte where its pixels begin
            if hasattr(os, "posix_fallocate"):  # what the disk cannot take is known before anything is decoded
                os.posix_fallocate(file.fileno(), 0, first + total)
            else:
                file.truncate(first + total)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} for the next {bytes_text(total)}") from None
        placed = [jobs[slot]._replace(place=first + int(layout.offsets[slot])) for slot in slots.tolist()]
        with Writeback(file) as disk:
            for reasons in engines.write(engine, Operation("canvas", layout.canvas_px), placed, out=part):
                failed |= {placed[number].sha256: reason for number, reason in reasons.items() if reason}
                disk.wrote(total * len(reasons) // len(placed))
                bar.advance(len(reasons))
    (path.parent / f"failed-{path.stem.split('-')[1]}.json").write_text(json.dumps(dict(sorted(failed.items()))))
    part.rename(path)
    return failed


def _finish(layout: Plan, folder: Path, failed: dict[str, str]) -> Pack:
    numbers = {"shard": layout.shards, "offset": layout.offsets, "height": layout.heights, "width": layout.widths}
    columns = {"sha256": arrow(layout.sha256, kind=pa.string())}
    columns |= {name: arrow(values, kind=pa.int64()) for name, values in numbers.items()}
    pq.write_table(pa.Table.from_pydict(columns), folder / "index.parquet")
    about = {
        "images": len(layout.sha256), "bytes": layout.bytes, "canvas_px": layout.canvas_px,
        "decoder": canvas.decoder_version(), "failed": failed,
    }  # fmt: skip
    part = folder / "pack.json.part"
    part.write_text(json.dumps(about, indent=1))
    _sync(part)
    part.rename(folder / "pack.json")
    for notes in folder.glob("failed-*.json"):
        notes.unlink()
    pack = load(folder)
    assert pack is not None, folder
    return pack


def _check_room(layout: Plan, manifest: Manifest, folder: Path, *, otherwise: str) -> None:
    done = sum(path.stat().st_size for path in folder.glob("pixels-*"))
    free = int(machine.disk_free(folder) * (1 - DISK_RESERVE))
    if layout.bytes > free + done:
        fits = bisect_right(range(1, layout.canvas_px), free, key=lambda px: plan(manifest, canvas_px=px).bytes)
        raise DiskError(
            f"the pack needs {bytes_text(layout.bytes)} and {folder.parent} has {bytes_text(free + done)} free"
            + (f", where images of a short side of {fits} px would fit" if fits else "")
            + f"; free some room, or {otherwise}"
        )


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _tidy(folder: Path) -> None:
    """Leaves what a later try continues: whole shards. Without any the folder goes, too."""
    for part in folder.glob("*.part"):
        part.unlink()
    if not list(folder.glob("pixels-*.npy")):
        for path in (*folder.glob("failed-*.json"), folder / LOCK):
            path.unlink()
        folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process packs; others that want the same pack wait for it. What ends before a shard is whole leaves nothing."""
    new = leftovers.missing(folder)
    try:
        with contextlib.ExitStack() as held:
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(folder / LOCK, "w"))
                with contextlib.suppress(
                    ImportError
                ):  # without it: packed twice at worst, shards are renamed when whole
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                        break  # else who held it before has failed, and removed it
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    _tidy(folder)
                raise
    except BaseException:
        leftovers.remove(new)
        raise
