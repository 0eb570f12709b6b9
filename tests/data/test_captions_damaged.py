"""COCO's annotations as they should not be: each is refused by file, key and entry, or counted; never taken for a class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError

NAME = "annotations/captions_train2017.json"


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def written(root: Path, change: Callable[[Any], Any]) -> Path:
    layouts.coco(root)
    (root / NAME).write_text(json.dumps(change(json.loads((root / NAME).read_text()))))
    return root


def without(key: str) -> Callable[[Any], Any]:
    return lambda document: {name: value for name, value in document.items() if name != key}


def first(key: str, **fields: Any) -> Callable[[Any], Any]:
    return lambda document: document | {key: [document[key][0] | fields, *document[key][1:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("images"), "has no key images, as COCO captions have"),
        (without("annotations"), "has no key annotations, as COCO captions have"),
        (lambda document: {}, "has no key images and no key annotations"),
        (lambda document: [document], "holds a list, not an object with the keys images and annotations"),
        (lambda document: document | {"images": {}}, "images is an object, not a list"),
        (lambda document: document | {"annotations": None}, "annotations is null, not a list"),
        (lambda document: document | {"images": [7]}, "entry 1 of images is a number, not an object"),
        (lambda document: document | {"images": [{"id": 1}]}, "entry 1 of images has no file_name"),
        (first("images", id=[1]), "entry 1 of images: its id is a list"),
        (first("images", id=1.5), "entry 1 of images: its id is a number that is not whole"),
        (first("images", id=True), "entry 1 of images: its id is true or false"),
        (first("images", file_name=""), "entry 1 of images: its file_name is empty"),
        (first("images", file_name="../../etc/passwd"), "entry 1 of images: '../../etc/passwd' points out of"),
        (first("images", file_name="/etc/passwd"), "entry 1 of images: '/etc/passwd' points out of"),
        (first("images", file_name=5), "entry 1 of images: its file_name is a number"),
        (first("annotations", image_id={}), "entry 1 of annotations: its image_id is an object"),
        (lambda document: document | {"annotations": [{"image_id": 1}]}, "entry 1 of annotations has no caption"),
    ],
)
def test_refused_by_file_key_and_entry(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(DataError, match=f"{NAME}:? {message}"):
        listing(written(tmp_path, change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (first("annotations", image_id=77), "first entry 1, of image 77. Their images are not in it"),
        (first("annotations", caption=5), "first entry 1, whose caption is a number. Their captions are no text"),
    ],
)
def test_annotations_that_are_not_used_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], Any], told: str
) -> None:
    found = listing(written(tmp_path, change))
    assert sum(len(json.loads(each)) for each in found.captions) == 5 * 7 - 1
    assert f"{NAME}: 1 of 20 annotations are not used, {told}" in capsys.readouterr().err


def test_annotations_alone_are_no_class(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path)
    for split in ("train2017", "val2017"):
        for path in (root / split).iterdir():
            path.rename(path.with_name(f"{split}-{path.name}"))
    with pytest.raises(
        DataError, match=r"captions_train2017\.json, captions_val2017\.json in annotations/ leave no image"
    ):
        listing(root)


def test_boxes_without_captions_are_no_classes(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path / "coco")
    for split in ("train2017", "val2017"):
        (root / f"annotations/captions_{split}.json").rename(root / f"annotations/instances_{split}.json")
    with pytest.raises(
        DataError, match=r"holds instances_train2017\.json, instances_val2017\.json and no captions_….*put"
    ):
        listing(root)


def test_boxes_beside_class_folders_are_left_out(tmp_path: Path) -> None:
    images = {f"{name}/{n}.jpg": layouts.jpeg(n, n) for name in ("cat", "dog") for n in range(2)}
    found = listing(layouts.write(tmp_path, {**images, "annotations/instances_train2017.json": b"{}"}))
    assert {"cat", "dog"} <= set(found.labels)


def test_ids_that_several_images_have_are_counted_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A caption says an id: of two files it could mean either, and a guess would be a false caption."""
    found = listing(written(tmp_path, first("images", id=1)))
    train = [path for path in found.paths if path.startswith("train")]
    assert [path.rpartition("/")[2] for path in train] == ["000000000002.jpg", "000000000003.jpg"]
    told = capsys.readouterr()
    assert (
        f"{NAME}: 2 of 4 images share their id with another and are not used, first 000000000000.jpg, 000000000001.jpg of "
        "id 1. Which of them a caption means cannot be known. Give each image an id of its own."
    ) in told.err
    assert "such as extra.jpg" in told.out and "1 images are not in" in told.out, "those of one id are listed"
    assert "have no caption" not in told.out


def test_entries_that_are_repeated_are_counted_and_used_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = listing(written(tmp_path / "whole", lambda document: document))
    capsys.readouterr()
    twice = listing(written(tmp_path / "twice", lambda document: document | {"images": 2 * document["images"]}))
    assert (twice.paths, twice.captions) == (whole.paths, whole.captions)
    assert (
        f"{NAME}: 4 of 8 entries of images are there before, first entry 5, of image 0. Each image is used once, with all "
        "its captions. Remove the repeated entries."
    ) in capsys.readouterr().err


def copied(root: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """The annotations of train2017 once more, under another name."""
    layouts.coco(root)
    document = change(json.loads((root / NAME).read_text()))
    (root / "annotations" / name).write_text(json.dumps(document))
    return root


def test_an_image_in_several_files_is_used_once_with_the_captions_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listing(copied(tmp_path, "captions_train2017_de.json", first("annotations", caption="Eine Katze.")))
    assert len(found.paths) == len(set(found.paths)) == 7
    assert json.loads(found.captions[0]) == [f"A cat {n}." for n in range(0, 20, 4)] + ["Eine Katze."]
    told = capsys.readouterr().out
    assert "captions_train2017_de.json" in told
    assert (
        "4 images are in several of these files, such as train2017/000000000000.jpg; each is used once, with the"
        in told
    )


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    for name in ("captions_train.json", "captions_val.json"):
        document = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
        layouts.write(
            tmp_path, {f"annotations/{name}": json.dumps(document).encode(), "images/1.jpg": layouts.jpeg(0, 0)}
        )
    with pytest.raises(
        DataError, match=r"images/1\.jpg is in train by one of these files and in val by another, and an image"
    ):
        listing(tmp_path)
