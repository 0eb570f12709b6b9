import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanlight import machine
from fanlight.data import canvas, pack
from fanlight.data.formats import recognise
from fanlight.data.manifest import Manifest
from fanlight.data.scan import scan
from fanlight.data.source import MAPPED_SHARE, Files, MappedPack, ReadPack, of_pack, random_reads_per_s
from fanlight.errors import DataError

SIZES = [(40, 60), (60, 40), (17, 90), (25, 25), (9, 7), (1, 1), (1, 50), (200, 120)]  # height, width
CANVAS_PX = 24


def scanned(root: Path) -> Manifest:
    """A picture per size, PNG and JPEG in turn, and a file that is none."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        path = root / ("cat", "dog")[number // 2 % 2] / f"{number}.{('png', 'jpg')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    (root / "cat/1.txt").write_text("no image")
    return scan(recognise(str(root), cache=root / "unused"), workers=2)


def packed(manifest: Manifest, parent: Path) -> pack.Pack:
    made = pack.make(manifest, canvas_px=CANVAS_PX, parent=parent, workers=2, shard_bytes=4000)
    assert len(made.shard_paths) > 2
    return made


def test_pixels_are_the_same_from_each(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    mapped, read, files = MappedPack(made, manifest), ReadPack(made, manifest), Files(manifest, canvas_px=CANVAS_PX)
    assert len(manifest) == len(SIZES) + 1
    for row in manifest.rows().tolist():
        wanted = canvas.to_canvas(manifest.path(row).read_bytes(), CANVAS_PX)
        for each in (mapped, read, files):
            found = each.read(row)
            assert found.dtype == np.uint8
            assert np.array_equal(found, wanted), (each.kind, row)
            assert found.shape == (each.heights[row], each.widths[row], 3)
    for each in (mapped, read, files):
        assert np.flatnonzero(each.heights == 0).tolist() == np.flatnonzero(~manifest.ok).tolist()
        assert (each.widths == files.widths).all() and (each.heights == files.heights).all()
    assert len({mapped.kind, read.kind, files.kind}) == 3


def test_rows_are_the_manifest_s_own(tmp_path: Path) -> None:
    """Of a part, and of another order, of the rows that were packed."""
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    part = manifest.take(manifest.rows()[[6, 2, 4]])
    for each in (MappedPack(made, part), ReadPack(made, part), Files(part, canvas_px=CANVAS_PX)):
        for row in range(3):
            wanted = canvas.to_canvas(part.path(row).read_bytes(), CANVAS_PX)
            assert np.array_equal(each.read(row), wanted)


def test_a_mapped_canvas_cannot_be_written(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    found = MappedPack(packed(manifest, tmp_path), manifest).read(int(manifest.rows()[0]))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1


@pytest.mark.parametrize("kind", ["mapped", "read", "files"])
def test_many_threads_read_at_once(tmp_path: Path, kind: str) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    of_kind = {
        "mapped": lambda: MappedPack(made, manifest),
        "read": lambda: ReadPack(made, manifest),
        "files": lambda: Files(manifest, canvas_px=CANVAS_PX),
    }
    each = of_kind[kind]()
    wanted = {row: each.read(row).copy() for row in manifest.rows().tolist()}
    rows = np.random.default_rng(0).choice(manifest.rows(), 300).tolist()
    with ThreadPoolExecutor(8) as threads:
        for row, found in zip(rows, threads.map(each.read, rows)):
            assert np.array_equal(found, wanted[row])


def test_a_pack_is_mapped_while_it_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    enough = int(np.ceil(made.bytes / MAPPED_SHARE))
    monkeypatch.setattr(machine, "memory_available", lambda: enough)
    assert isinstance(of_pack(made, manifest), MappedPack)
    monkeypatch.setattr(machine, "memory_available", lambda: enough - 2)
    assert isinstance(of_pack(made, manifest), ReadPack)


def test_a_vanished_file_is_named(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    files = Files(manifest, canvas_px=CANVAS_PX)
    row = int(manifest.rows()[2])
    manifest.path(row).unlink()
    with pytest.raises(DataError, match=rf"cannot read {re.escape(str(manifest.path(row)))}: No such file"):
        files.read(row)
    assert files.read(int(manifest.rows()[1])).any()  # others go on


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty file"), (b"\x89PNG\r\n\x1a\n", "truncated PNG")])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    manifest = scanned(tmp_path / "data")
    files = Files(manifest, canvas_px=CANVAS_PX)
    row = int(manifest.rows()[0])
    manifest.path(row).write_bytes(content)
    with pytest.raises(DataError, match=rf"{re.escape(str(manifest.path(row)))}: {reason}.*; run `fanlight check`"):
        files.read(row)


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    """Crops are placed by the size that was checked: they would lie outside the new image, or in its corner."""
    manifest = scanned(tmp_path / "data")
    files = Files(manifest, canvas_px=CANVAS_PX)
    row = int(manifest.rows()[0])
    Image.new("RGB", (30, 200)).save(manifest.path(row))
    with pytest.raises(DataError, match=rf"{re.escape(str(manifest.path(row)))} changed since it was checked"):
        files.read(row)


def test_a_shard_that_was_cut_short_is_named(tmp_path: Path) -> None:
    """Read piecewise, so that it is an error: through a map the same access would kill the process."""
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    read = ReadPack(made, manifest)
    slots = made.slots(manifest)
    shards = np.where(slots >= 0, made.shards[slots], -1)
    last = max(np.flatnonzero(shards == 1), key=lambda row: made.offsets[slots[row]])
    path = made.shard_paths[1]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is shorter than its index says; delete the pack"):
        read.read(int(last))
    assert read.read(int(np.flatnonzero(shards == 0)[0])).size


def test_an_error_of_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    read = ReadPack(made, manifest)

    def bad_sector(*_: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", bad_sector)
    with pytest.raises(DataError, match=r"cannot read .*/pixels-0000\d\.npy: Input/output error"):
        read.read(int(manifest.rows()[0]))


def test_a_pack_without_a_row_is_refused(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest.take(manifest.rows()[:-1]), tmp_path)
    for kind in (MappedPack, ReadPack):
        with pytest.raises(DataError, match=rf"{re.escape(str(manifest.path(int(manifest.rows()[-1]))))} is not in"):
            kind(made, manifest)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files")
def test_read_pack_closes_its_files(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)

    def shards_open() -> int:
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link).endswith(".npy") for link in links if os.path.islink(link))

    before = shards_open()
    read = ReadPack(made, manifest)
    assert shards_open() == before + len(made.shard_paths)
    del read
    assert shards_open() == before


def test_places_follow_the_pack_so_that_blocks_are_read_together(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    rows = manifest.rows()
    for each in (MappedPack(made, manifest), ReadPack(made, manifest)):
        order = rows[np.argsort(each.places[rows], kind="stable")]
        counts = each.heights[order] * each.widths[order] * 3
        assert each.places[order].tolist() == (np.cumsum(counts) - counts).tolist()
        slots = made.slots(manifest)[order]
        assert list(zip(made.shards[slots], made.offsets[slots])) == sorted(
            zip(made.shards[slots], made.offsets[slots])
        )


def test_random_reads_are_measured_on_the_pack_itself(tmp_path: Path) -> None:
    manifest = scanned(tmp_path / "data")
    made = packed(manifest, tmp_path)
    assert random_reads_per_s(made, seconds=0.02) > 0
