"""Photos to pack, and what a pack of them should hold."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fanlight.data import canvas, pack
from fanlight.data.formats import recognise
from fanlight.data.manifest import SCHEMA, Manifest, table_of
from fanlight.data.scan import scan

SIZES = [(40, 60), (60, 40), (17, 90), (25, 25), (9, 7), (1, 1), (1, 50), (200, 120)]  # height, width
CANVAS_PX = 24
SHARD_BYTES = 4000  # two or three images of SIZES each
NPY_HEAD = 128  # bytes of a .npy file before its pixels
KINDS = ("png", "jpg")


def photos(root: Path, *, sizes: list[tuple[int, int]] = SIZES, seed: int = 0) -> Path:
    """One smooth picture per size, PNG and JPEG in turn, in two classes; one JPEG lies on its side."""
    rng = np.random.default_rng(seed)
    for number, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
        path = root / ("cat", "dog")[number // 2 % 2] / f"{number}.{KINDS[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        image.save(path, **({"quality": 95, "exif": exif} if path.suffix == ".jpg" else {}))
    return root


def scanned(root: Path) -> Manifest:
    return scan(recognise(str(root), cache=root / "unused"), workers=2)


def make(manifest: Manifest, parent: Path, *, canvas_px: int = CANVAS_PX, shard_bytes: int = SHARD_BYTES) -> pack.Pack:
    return pack.make(manifest, canvas_px=canvas_px, parent=parent, workers=2, shard_bytes=shard_bytes)


def pixels(made: pack.Pack, slot: int) -> np.ndarray:
    """Read by the format's own words: a flat .npy array per shard, places in index.parquet."""
    shard, offset, height, width = made.place(slot)
    flat = np.load(made.folder / f"pixels-{shard:05d}.npy")
    return flat[offset : offset + height * width * 3].reshape(height, width, 3)


def assert_right(made: pack.Pack, manifest: Manifest, *, canvas_px: int = CANVAS_PX) -> None:
    """Every usable row's pixels are those of its file."""
    slots = made.slots(manifest)
    for row in manifest.rows().tolist():
        wanted = canvas.to_canvas(manifest.path(row).read_bytes(), canvas_px)
        assert np.array_equal(pixels(made, int(slots[row])), wanted), manifest.path(row)


def of_sizes(sizes: list[tuple[int, int]], hashes: list[str]) -> Manifest:
    """A manifest without files."""
    count = len(sizes)
    columns = {field.name: [""] * count if str(field.type) == "string" else [0] * count for field in SCHEMA}
    columns |= {"path": [f"{number}.png" for number in range(count)], "label": ["a"] * count, "status": ["ok"] * count}
    columns |= {"sha256": hashes, "width": [w for w, _ in sizes], "height": [h for _, h in sizes]}
    return Manifest.of(table_of(columns), root=Path("/nowhere"), source="test")


def spoil(path: Path) -> None:
    """A PNG whose header is good and whose pixels break off."""
    good = path.read_bytes()
    start = good.index(b"IDAT")
    path.write_bytes(good[: start + 20] + good[-12:])
