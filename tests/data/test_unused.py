"""Images and captions that are not used are counted, with the first name."""

import json
from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def test_images_that_hub_metadata_do_not_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write(tmp_path, {f"{number}.png": b"x" for number in range(7)} | {"deep/8.png": b"x", "README.md": b"x"})
    (tmp_path / "metadata.csv").write_text("file_name,label\n3.png,a\n5.png,b\n")
    assert listing(tmp_path).paths == ["3.png", "5.png"]
    assert "metadata.csv: 6 images beside those that it names are not used, such as 0.png" in capsys.readouterr().out


def test_images_beside_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only in the folders in which it names some: the rest of a disk is not its matter."""
    layouts.write(tmp_path, {f"train_images/{number}.png": b"x" for number in range(5)} | {"test_images/9.png": b"x"})
    (tmp_path / "train.csv").write_text("path,label\n1.png,a\n3.png,b\n4.png,b\n")
    for place in (tmp_path, tmp_path / "train.csv"):
        listing(place)
        told = capsys.readouterr().out
        assert "train.csv: 2 images beside those that it names are not used, such as train_images/0.png" in told
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(5)))
    listing(tmp_path)
    assert "not used" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", "image,caption\n0.jpg,A cat\n1.jpg a dog\n2.jpg,\n3.jpg,\n3.jpg,A cow\n"),
        ("captions.token.txt", "0.jpg#0\tA cat\n1.jpg a dog\n2.jpg#0\t\n3.jpg#0\t\n3.jpg#1\tA cow\n"),
    ],
)
def test_rows_of_captions_that_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    layouts.write(tmp_path, {f"images/{number}.jpg": b"x" for number in range(5)} | {name: text.encode()})
    found = listing(tmp_path)
    assert dict(zip(found.paths, map(json.loads, found.captions))) == {
        "images/0.jpg": ["A cat"],
        "images/3.jpg": ["A cow"],
    }
    told = capsys.readouterr()
    assert f"{name}: 1 of its rows are not used, first '1.jpg a dog'. They have no mark between" in told.err
    assert f"{name}: 2 of its rows are not used, first '2.jpg'. They have no caption" in told.err
    assert f"{name}: 3 images beside those that it names are not used, such as images/1.jpg" in told.out


def test_several_ids_of_one_coco_image_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.coco(tmp_path)
    path = root / "annotations/captions_train2017.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 77, "file_name": document["images"][0]["file_name"]})
    document["annotations"].append({"id": 99, "image_id": 77, "caption": "Another."})
    path.write_text(json.dumps(document))
    found = listing(root)
    assert len(set(found.paths)) == len(found.paths) == 7
    assert json.loads(found.captions[0]) == [*(f"A cat {each}." for each in range(0, 20, 4)), "Another."]
    assert (
        "captions_train2017.json: 1 images have several ids, such as 000000000000.jpg of 0, 77; each is used once"
        in capsys.readouterr().out
    )
