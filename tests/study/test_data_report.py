"""The page about a data set: what it says, and that nothing in it can do harm."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanlight.data import formats, scan
from fanlight.data.manifest import Manifest
from fanlight.study import data_report

HOSTILE = "<script>alert(1)</script>"


def photos(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 6) -> Path:
    draws = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = draws.integers(0, 255, (20 + number, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def manifest(root: Path) -> Manifest:
    return scan.scan(formats.recognise(str(root), cache=root.parent / "cache"), decode=True)


def page(found: Manifest, folder: Path, **options) -> str:
    return data_report.write(
        found, folder / "data.html", command="fanlight check photos --report", **options
    ).read_text()


def test_what_is_odd_is_said_and_shown(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "dog/copy of a cat.png").write_bytes((root / "cat/0.png").read_bytes())
    (root / "cat/notes.txt").write_text("not a picture")
    found = manifest(root)
    splits = np.where(found.labels == 0, "train", "val").astype(object)
    text = page(found.with_columns(split=splits), tmp_path, fixes=["1 image left out"])
    assert "1 groups of copies stand in several splits; 1 images of val and test" in text
    assert "1 groups of copies are filed under more than one class" in text
    assert "1 of 13 images are copies of another one (1 byte for byte)" in text
    assert "Fewer than 20 images: cat, dog" in text
    assert "1 files cannot be used" in text and "notes.txt" in text and "not an image" in text
    assert "<li>1 image left out</li>" in text
    assert "2 images in several classes" in text  # the group, with its pictures
    assert "fanlight check photos --report" in text


def test_nothing_odd_is_said_too(tmp_path: Path) -> None:
    found = manifest(photos(tmp_path / "photos", per_class=20))
    assert data_report.verdict(found, data_report.manifests.audit(found)) == ["Nothing odd was found."]
    assert "No file is in quarantine." in page(found, tmp_path)


def test_names_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    found = manifest(photos(tmp_path / "photos"))
    labels = np.where(found.labels == 0, HOSTILE, "dog").astype(object)
    text = page(found.with_columns(label=labels, status=np.full(len(found), "ok", object)), tmp_path)
    assert HOSTILE not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_an_image_that_vanished_is_a_grey_tile(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    found = manifest(root)
    for path in root.rglob("*.png"):
        path.unlink()
    assert page(found, tmp_path).count("<figure>") >= 2


@pytest.mark.parametrize("classes", [30, 45])
def test_many_classes(tmp_path: Path, classes: int) -> None:
    found = manifest(photos(tmp_path / "photos", classes=tuple(f"c{n:02d}" for n in range(classes)), per_class=1))
    text = page(found, tmp_path)
    assert ("The first 40 of 45 classes." in text) == (classes == 45)
