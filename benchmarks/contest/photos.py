"""The data of the contests: one split for everybody, large photos made from small ones, small copies of large ones, CIFAR.

Everything is written once, into the work folder, and is the same for the same source and seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

BYTES_LOW, BYTES_HIGH = 2_000_000, 4_000_000  # of a photo from a camera or phone
PIXELS_LOW, PIXELS_HIGH = 6e6, 12e6
QUALITY = 92
NOISE_PX = 2048  # side of the tile that the sensor's noise is cut from

Split = dict[str, dict[str, list[str]]]  # train or val -> class -> names of files


def split(folder: Path, *, val_share: float = 0.2, seed: int = 0, limit: int | None = None) -> Split:
    """Files of the class folders, dealt by the hash of their bytes: exact copies of a class stay on one side.

    `limit`: at most so many images in all, equally many of each class."""
    classes = sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    found: Split = {"train": {}, "val": {}}
    for name in classes:
        files = sorted(path for path in (folder / name).iterdir() if path.is_file() and not path.name.startswith("."))
        keyed = sorted((hashlib.sha256(b"%d:" % seed + path.read_bytes()).hexdigest(), path.name) for path in files)
        keyed = keyed[: max(2, limit // len(classes))] if limit is not None else keyed
        cut = max(1, round(len(keyed) * val_share))
        while cut < len(keyed) and keyed[cut][0] == keyed[cut - 1][0]:
            cut += 1
        found["val"][name] = [file for _, file in keyed[:cut]]
        found["train"][name] = [file for _, file in keyed[cut:]]
    return found


def lay_out(source: Path, parts: Split, out: Path) -> Path:
    """out/train/<class>/<file> and out/val/…, links to the photos; the list beside them as split.json."""
    if (out / "split.json").exists():
        return out
    for part, classes in parts.items():
        for name, files in classes.items():
            (out / part / name).mkdir(parents=True, exist_ok=True)
            for file in files:
                link = out / part / name / file
                if not link.is_symlink():
                    link.symlink_to((source / name / file).resolve())
    (out / "split.json").write_text(json.dumps(parts, indent=1))
    return out


def counts(out: Path) -> tuple[int, int, int]:
    """Training images, validation images, classes."""
    train, val = ([len(os.listdir(place)) for place in (out / part).iterdir()] for part in ("train", "val"))
    return sum(train), sum(val), len(train)


def make_large(source: Path, out: Path, *, count: int, seed: int = 0) -> Path:
    """`count` photos of 6 to 12 megapixels and 2 to 4 MB, a fifth of them val, equally many of each class."""
    if (out / "made").exists():
        return out
    parts = split(source, seed=seed)
    jobs = []
    for part, classes in parts.items():
        share = 0.2 if part == "val" else 0.8
        for name, files in classes.items():
            (out / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(max(1, round(share * count / len(classes)))):
                key = int.from_bytes(hashlib.sha256(f"{seed}:{part}:{name}:{index}".encode()).digest()[:8], "big")
                jobs.append((source / name / files[index % len(files)], out / part / name / f"{index:05d}.jpg", key))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and NumPy let other threads compute meanwhile
        list(pool.map(_make_one, *zip(*jobs)))
    (out / "made").write_text(str(len(jobs)))
    return out


def _make_one(source: Path, path: Path, key: int) -> None:
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_bytes(large_photo(read_rgb(source), key=key))
        part.rename(path)


def read_rgb(path: Path) -> np.ndarray:
    """[H, W, 3] uint8. Pillow, since some photos are GIFs."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def large_photo(small: np.ndarray, *, key: int) -> bytes:
    """A JPEG of quality 92 with 6 to 12 megapixels, with so much noise that it has 2 to 4 MB: what a sensor's photo weighs.

    The strength of the noise is found by halving; both sizes are drawn from `key`. An upscaled photo alone would be
    smooth, a fraction of a real one's bytes, and quicker to decode."""
    random = np.random.default_rng(key)
    pixels = random.uniform(PIXELS_LOW * 1.02, PIXELS_HIGH * 0.98)
    wanted = random.uniform(BYTES_LOW * 1.1, BYTES_HIGH * 0.9)
    height, width = small.shape[:2]
    aspect = min(2.0, max(0.5, width / height))
    size = (round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5))
    photo = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    tile = random.normal(size=(NOISE_PX, NOISE_PX, 3)).astype(np.float32)
    rows, columns = -(-size[1] // NOISE_PX), -(-size[0] // NOISE_PX)
    noise = np.tile(tile, (rows, columns, 1))[: size[1], : size[0]]
    low, high, data = 0.0, 40.0, b""
    for strength in (3.0, *[None] * 12):
        sigma = (low + high) / 2 if strength is None else strength
        noisy = np.clip(photo + (noise * sigma).astype(np.int16), 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        if abs(len(data) - wanted) < 0.1 * BYTES_LOW:
            break
        low, high = (sigma, high) if len(data) < wanted else (low, sigma)
    if not BYTES_LOW <= len(data) <= BYTES_HIGH:
        raise ValueError(f"a photo of {pixels / 1e6:.1f} megapixels came to {len(data):,} bytes; use other photos")
    return data


def make_small(large: Path, out: Path, *, short_px: int = 256) -> Path:
    """Copies with a short side of 256 px, as people make them beforehand for their trainer."""
    if (out / "made").exists():
        return out
    files = sorted(large.glob("*/*/*.jpg"))
    targets = [out / path.relative_to(large) for path in files]
    for place in {target.parent for target in targets}:
        place.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_shrink, files, targets, [short_px] * len(files)))
    (out / "made").write_text(str(len(files)))
    return out


def _shrink(source: Path, path: Path, short_px: int) -> None:
    image = cv2.imread(str(source))
    height, width = image.shape[:2]
    scale = short_px / min(height, width)
    small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, 95])


def unpack_cifar(archive: Path, out: Path, *, train: int = 10_000, val: int = 2_000) -> Path:
    """out/train/<class>/ and out/val/<class>/ from an archive of train/<class>/<file> and test/<class>/<file>.

    The first images of each class by name. Only plain files of exactly that depth are read, and their bytes are written
    under names of our own, so an archive cannot write elsewhere."""
    if (out / "made").exists():
        return out
    if out.exists():
        shutil.rmtree(out)  # a stopped attempt
    names: dict[tuple[str, str], list[str]] = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = PurePosixPath(member.name).parts
            if member.isfile() and len(parts) == 3 and parts[0] in ("train", "test") and parts[1].isidentifier():
                names.setdefault((parts[0], parts[1]), []).append(member.name)
        classes = sorted({name for _, name in names})
        if len(classes) < 2:
            raise ValueError(f"{archive} has no train/<class>/<file> of at least two classes")
        wanted = {}
        for part, folder, total in (("train", "train", train), ("test", "val", val)):
            for name in classes:
                for index, inner in enumerate(sorted(names.get((part, name), []))[: total // len(classes)]):
                    wanted[inner] = out / folder / name / f"{index:05d}{PurePosixPath(inner).suffix.lower()}"
        for member in tar:  # in the archive's order: seeking in a compressed one would unpack it again and again
            if member.name in wanted:
                stream = tar.extractfile(member)
                assert stream is not None
                wanted[member.name].parent.mkdir(parents=True, exist_ok=True)
                wanted[member.name].write_bytes(stream.read())
    (out / "made").write_text(str(len(wanted)))
    return out
