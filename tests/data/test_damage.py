"""Damaged and crafted files: each is kept, or quarantined, or refused by name; never a crash, a hang or much memory."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import layouts
from fanlight.data.formats import recognise
from fanlight.data.scan import scan
from fanlight.errors import DataError

ROUNDS = 24
PYTHON_BYTES_MOST = 64 << 20  # of Python's own allocations, of files of a few kB


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def mutated(data: bytes, *, seed: int) -> bytes:
    """Some bytes changed, a piece taken out or doubled, the end cut off, or a number made as large as can be."""
    draws = np.random.default_rng(seed)
    out = bytearray(data)
    start = int(draws.integers(0, max(1, len(out))))
    end = start + int(draws.integers(0, 64))
    kind = seed % 5
    if kind == 0:
        for at in draws.integers(0, max(1, len(out)), draws.integers(1, 9)):
            out[at] = draws.integers(0, 256)
    elif kind == 1:
        del out[start:end]
    elif kind == 2:
        out[start:start] = out[start:end] * 3
    elif kind == 3:
        del out[start:]
    else:
        out[start : start + 4] = b"\xff\xff\xff\x7f"
    return bytes(out)


def image(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(layouts.pixels(1, 1, px=24)).save(file, format, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_mutated_images_are_kept_or_quarantined_with_a_reason(tmp_path: Path, format: str) -> None:
    whole = image(format)
    files = {f"{'ab'[seed % 2]}/{seed}.img": mutated(whole, seed=seed) for seed in range(ROUNDS)}
    layouts.write(tmp_path / "set", files | {"a/good.img": whole, "b/good.img": whole})
    manifest = scan(recognise(str(tmp_path / "set"), cache=tmp_path), workers=1, decode=True)
    assert len(manifest) == ROUNDS + 2
    assert all(bool(ok) != bool(reason) for ok, reason in zip(manifest.ok, manifest.column("reason")))
    assert manifest.ok[[path.endswith("good.img") for path in manifest.column("path")]].all()


def small_zip(root: Path) -> Path:
    root.mkdir()
    return layouts.zipped(root / "p.zip", layouts.class_files(count=2))


def small_tar(root: Path) -> Path:
    root.mkdir()
    return layouts.tarred(root / "p.tar", layouts.class_files(count=2))


def small_tar_gz(root: Path) -> Path:
    root.mkdir()
    return layouts.tarred(root / "p.tar.gz", layouts.class_files(count=2), mode="w:gz")


def small_tar_xz(root: Path) -> Path:
    root.mkdir()
    return layouts.tarred(root / "p.tar.xz", layouts.class_files(count=2), mode="w:xz")


SETS = {  # writer -> the file of it that is damaged
    small_zip: "p.zip", small_tar: "p.tar", small_tar_gz: "p.tar.gz", small_tar_xz: "p.tar.xz",
    layouts.cifar10_python: "cifar-10-batches-py/data_batch_1", layouts.cifar10_binary: "cifar-10-batches-bin/data_batch_1.bin",
    layouts.mnist: "train-images-idx3-ubyte.gz", layouts.web_dataset: "train-0000.tar", layouts.kaggle_csv: "train.csv",
    layouts.hub_folder: "train/metadata.csv", layouts.json_lines: "list.jsonl", layouts.coco: "annotations/captions_val2017.json",
    layouts.flickr8k: "captions.txt", layouts.hub_parquet: "data/train-00000-of-00001.parquet",
}  # fmt: skip


@pytest.mark.parametrize("write", SETS, ids=lambda write: write.__name__)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mutated_sets_are_read_or_refused(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """Headers are damaged most often, since most bytes of an archive are images."""
    place = write(tmp_path / "set")
    file = tmp_path / "set" / SETS[write]
    whole = file.read_bytes()
    tracemalloc.start()
    try:
        outcomes = set()
        for seed in range(ROUNDS):
            near = 600 if seed % 3 else len(whole)
            first, last = (
                mutated(whole[:near], seed=seed) + whole[near:],
                whole[:-near] + mutated(whole[-near:], seed=seed),
            )
            damaged = first if seed % 2 else last
            file.write_bytes(damaged)
            try:
                manifest = scan(recognise(str(place), cache=tmp_path), workers=1, decode=True)
                assert all(bool(ok) != bool(reason) for ok, reason in zip(manifest.ok, manifest.column("reason")))
                outcomes.add("read")
            except DataError as error:
                outcomes.add("refused")
                told = str(error)
                assert "\n" not in told.strip(), told
        assert tracemalloc.get_traced_memory()[1] < PYTHON_BYTES_MOST
    finally:
        tracemalloc.stop()
    assert outcomes, "every round ended"


def test_a_png_that_says_60000_by_60000(tmp_path: Path) -> None:
    whole = image("PNG")
    head = whole[12:16] + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    crafted = whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]
    layouts.write(tmp_path / "set", {"a/1.png": crafted, "a/2.png": whole, "b/1.png": image("PNG", compress_level=0)})
    manifest = scan(recognise(str(tmp_path / "set"), cache=tmp_path), workers=1, decode=True)
    assert dict(zip(manifest.column("path"), manifest.column("reason"))) == {
        "a/1.png": "60000x60000 pixels, limit is 200 million", "a/2.png": "", "b/1.png": "",
    }  # fmt: skip
