"""Pixels of scenes, and the folder that they are written to."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fanlight.data import builtin, copies, scan
from fanlight.data.formats import recognise
from fanlight.data.shapes import draw, judge, reading, write
from fanlight.data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIDE_PX, UNSEEN, Scene, Thing

COUNTS = {"train": 12, "val": 4, "test": 6}
AREA = {
    "circle": math.pi * 0.95**2,
    "square": 1.7**2,
    "triangle": 1.05 * 1.8,
}  # of radius 1


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_things_middle_has_its_colour_and_the_rest_has_not(background: str, colour: str) -> None:
    image = draw.pixels(Scene((Thing(colour, "square", "large", 20, 24, 10, 0.1),), background, 7)).astype(int)
    assert image.shape == (SIDE_PX, SIDE_PX, 3)
    far = np.abs(image - draw.RGB[colour]).max(-1)
    assert far[22:27, 18:23].max() <= draw.JITTER + 1
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    outside = np.hypot(x - 20, y - 24) > 14
    assert far[outside].min() > 20


@pytest.mark.parametrize("shape", AREA)
@pytest.mark.parametrize("radius", [6.0, 11.0])
def test_areas_are_those_of_the_figures(shape: str, radius: float) -> None:
    """The pixels' shares add up to the area, wherever in its pixel the middle is, and however it is turned."""
    for x, y, turn in ((30.0, 30.0, 0.0), (31.37, 29.81, 0.2)):
        image = draw.pixels(Scene((Thing("white", shape, "large", x, y, radius, turn),), "plain", 3)).astype(float)
        ground, top = image[0, 0], image.reshape(-1, 3)[image.sum(-1).argmax()]
        share = ((image - ground) / (top - ground)).mean(-1)
        assert share.sum() == pytest.approx(AREA[shape] * radius**2, rel=0.02)
        centre = (share[..., None] * np.stack(np.mgrid[:SIDE_PX, :SIDE_PX][::-1] + 0.5, -1)).sum((0, 1)) / share.sum()
        assert np.abs(centre - (x, y)).max() < 0.05 * radius


@pytest.mark.parametrize("shape", ["square", "triangle", "cross"])
def test_inside_and_distance_are_those_of_opencv(shape: str) -> None:
    corners = np.array(draw._POLYGONS[shape], np.float32) * 10
    y, x = np.mgrid[-14:14:1.0, -14:14:1.0] + 0.25
    found = draw.to_polygon(x, y, corners.astype(float))
    points = np.stack([x, y], -1).reshape(-1, 2).tolist()
    wanted = [-cv2.pointPolygonTest(corners.reshape(-1, 1, 2), point, True) for point in points]
    assert np.abs(found.ravel() - wanted).max() < 1e-4


def test_figures_differ() -> None:
    images = [
        draw.pixels(Scene((Thing("red", shape, "large", 32, 32, 10, 0),), "plain", 1)).astype(int) for shape in SHAPES
    ]
    for place, one in enumerate(images):
        assert all((np.abs(one - other).max(-1) > 60).sum() > 40 for other in images[:place])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write.write(root, counts=COUNTS)
    return root


def test_the_folder_is_read_as_captions_with_splits(folder: Path) -> None:
    found = recognise(str(folder), cache=Path("unused"))
    assert found.source == "COCO captions in annotations/"
    assert {split: found.splits.count(split) for split in COUNTS} == COUNTS
    scenes = judge.scenes_of(folder)
    assert scenes is not None and set(scenes) == set(found.paths)
    for path, captions in zip(found.paths, found.captions):
        texts = json.loads(captions)
        assert len(texts) == 5 and all(reading.true_and_complete(text, scenes[path]) for text in texts)
        pixels = cv2.imread(str(folder / path))[..., ::-1]
        assert np.array_equal(pixels, draw.pixels(scenes[path]))
        has_unseen = bool(set(scenes[path].kinds) & set(UNSEEN))
        assert has_unseen == path.startswith("test/")


def test_splits_share_no_scene(folder: Path) -> None:
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.png")]
    assert len(hashes) == len(set(hashes)) == sum(COUNTS.values())


def test_written_again_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    write.write(tmp_path, counts=COUNTS)
    for path in filter(Path.is_file, folder.rglob("*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_several_processes_write_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EACH_LEAST", 4)
    done: list[int] = []
    write.write(tmp_path, counts=COUNTS, cores=3, done=done.append)
    assert len(done) == sum(COUNTS.values())
    for path in filter(Path.is_file, folder.rglob("*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_processes_that_cannot_write_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EACH_LEAST", 4)
    (tmp_path / "gone").mkdir()
    found = write._drawn(tmp_path / "gone", [("train", number) for number in range(4)], 2)
    with pytest.raises(FileNotFoundError, match="No such file"):
        list(found)


def test_processes_that_die_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "BOOT", "import os; os._exit(3)")
    with pytest.raises(OSError, match="ended with code 3"):
        list(write._drawn(tmp_path, [("train", 0), ("train", 1)], 2))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Those that are started, of four scenes each at least."""
    monkeypatch.setattr(write, "EACH_LEAST", 4)
    found: list[subprocess.Popen[bytes]] = []
    inner = write._started

    def started(*words: Any) -> subprocess.Popen[bytes]:
        found.append(inner(*words))
        return found[-1]

    monkeypatch.setattr(write, "_started", started)
    return found


def test_an_interrupted_writing_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    """Also where somebody still holds what listened to them."""
    held: list[Any] = []
    inner = write._drawn

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    def drawn(*words: Any) -> Any:
        held.append(inner(*words))
        return held[-1]

    monkeypatch.setattr(write, "_drawn", drawn)
    with pytest.raises(KeyboardInterrupt):
        write.write(tmp_path, counts={"train": 400}, cores=2, done=interrupt)
    assert [child.poll() is None for child in children] == [False, False] and held


def test_a_file_in_the_working_folder_is_no_module(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    write.write(tmp_path / "out", counts=COUNTS, cores=2)
    assert len(children) == 2 and (tmp_path / "out/scenes.json").read_bytes() == (folder / "scenes.json").read_bytes()


def test_where_no_python_can_be_started_one_process_draws(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    write.write(tmp_path, counts=COUNTS, cores=2)
    assert not children and (tmp_path / "scenes.json").read_bytes() == (folder / "scenes.json").read_bytes()


def test_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "COUNTS", COUNTS)
    found = recognise("shapes", cache=tmp_path)
    assert (found.source, len(found.paths), found.root) == ("built-in shapes", 22, tmp_path / "builtin/shapes-v3")
    monkeypatch.setattr(write, "write", None)  # the second time nothing is drawn
    assert recognise("shapes", cache=tmp_path) == found
    assert "shapes" in builtin.NAMES


def test_no_drawn_scene_is_taken_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit looks at no colours: a green square for a yellow one would be its copy, and the splits would leak."""
    monkeypatch.setattr(write, "COUNTS", {"train": 6, "val": 2, "test": 2})
    manifest = scan.scan(recognise("shapes", cache=tmp_path))
    found, audit = copies.find(manifest, "quick")
    assert audit is None and found is manifest
    again = scan.scan(recognise(str(tmp_path / "builtin/shapes-v3"), cache=tmp_path))  # as somebody's own folder
    assert copies.find(again, "quick")[1] is not None
