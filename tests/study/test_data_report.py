"""The page about a data set: what it says, and that nothing in it can do harm."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import layouts
from fanlight.data import checkup, formats, scan
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


def mosaic(text: str, name: str) -> np.ndarray:
    """int [h, w, 3]: the picture below a name in a page."""
    found = re.search(rf"<b>{name}</b></p>\s*<figure><img src=\"data:image/jpeg;base64,([^\"]+)\"", text)
    assert found is not None, name
    return np.array(Image.open(io.BytesIO(base64.b64decode(found[1]))), int)


def test_each_picture_stands_in_its_place_and_one_that_vanished_is_grey(tmp_path: Path) -> None:
    colours = {"a/1.png": (255, 0, 0), "a/2.png": (0, 255, 0), "a/3.png": (0, 0, 255), "b/4.png": (0, 255, 0)}
    for name, colour in colours.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), colour).save(tmp_path / "photos" / name)
    found = manifest(tmp_path / "photos")
    (tmp_path / "photos/a/2.png").unlink()
    text = page(found, tmp_path)
    assert mosaic(text, "a").shape == (100, 300, 3), "tiles of 96 pixels and 4 between"
    middles, corners = mosaic(text, "a")[48, [48, 148, 248]], mosaic(text, "a")[8, [8, 108, 208]]
    grey = (data_report.GREY,) * 3
    assert np.abs(middles - [colours["a/1.png"], grey, colours["a/3.png"]]).max() < 12
    assert np.abs(corners - grey).max() < 12, "whole pictures, on grey"
    assert np.abs(mosaic(text, "b")[48, 48] - colours["b/4.png"]).max() < 12


@pytest.mark.parametrize(
    ("write", "count"), [(layouts.flickr8k, 6), (layouts.flickr8k_tokens, 5), (layouts.coco, 6)],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_captions_without_classes_are_shown_as_one(tmp_path: Path, write: Callable[[Path], Path], count: int) -> None:
    found = manifest(write(tmp_path / "set"))
    text = page(found, tmp_path)
    assert re.search(rf"<b>{count}</b><span>images with captions<br>", text)
    assert mosaic(text, "all images").shape == (100, 100 * count, 3)
    assert "<h2>Captions</h2>" in text and "different words" in text
    assert "Images per class" not in text and "Fewer than 20 images" not in text and "of each class" not in text
    assert "Share of pixels by their value, from some of the images." in text


def test_columns_are_taken_as_often_for_many_files_as_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column is made of all rows, so taking one for every bad file or group would be rows times those."""
    taken: list[str] = []
    column = Manifest.column
    monkeypatch.setattr(Manifest, "column", lambda self, name: taken.append(name) or column(self, name))

    def counts(folder: Path, *, groups: int, bad: int) -> tuple[int, int]:
        root = photos(folder / "photos", per_class=groups)
        for number in range(groups):
            (root / f"dog/copy{number}.png").write_bytes((root / f"cat/{number}.png").read_bytes())
        for number in range(bad):
            (root / f"cat/bad{number}.png").write_text(f"no picture {number}")
        found = manifest(root)
        taken.clear()
        text = page(found, folder)
        assert text.count("images in several classes") == groups and f"{bad} files cannot be used" in text
        in_page = len(taken)
        taken.clear()
        assert len(checkup.tell(str(root), found, None, out=None, level="exact")["quarantined"]) == bad
        return in_page, len(taken)

    assert counts(tmp_path / "few", groups=1, bad=1) == counts(tmp_path / "many", groups=9, bad=7)


@pytest.mark.parametrize("classes", [30, 45])
def test_many_classes(tmp_path: Path, classes: int) -> None:
    found = manifest(photos(tmp_path / "photos", classes=tuple(f"c{n:02d}" for n in range(classes)), per_class=1))
    text = page(found, tmp_path)
    assert ("The first 40 of 45 classes." in text) == (classes == 45)
