"""Karpathy's split files, Flickr30k's results.csv, and lists whose images lack captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import layouts
from fanlight.data.formats import Listing, karpathy, recognise
from fanlight.data.formats.tree import Tree
from fanlight.errors import DataError


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def entry(name: str, split: str, *texts: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": text, "tokens": text.split(), "sentid": number} for number, text in enumerate(texts)]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, **more}


COCO = [
    entry("COCO_val2014_1.jpg", "test", "A dog.", "Two  dogs\nrun", filepath="val2014", cocoid=1),
    entry("COCO_val2014_2.jpg", "restval", "A cat.", filepath="val2014", cocoid=2),
    entry("COCO_train2014_3.jpg", "train", "A bird.", filepath="train2014", cocoid=3),
    entry("COCO_val2014_4.jpg", "val", "A cow.", filepath="val2014", cocoid=4),
]


def coco(root: Path, images: Any = COCO, *, place: str = "dataset_coco.json") -> Path:
    files = {f"{each['filepath']}/{each['filename']}": layouts.jpeg(0, n) for n, each in enumerate(COCO)}
    return layouts.write(root, {**files, place: json.dumps({"dataset": "coco", "images": images}).encode()})


@pytest.mark.parametrize(
    "place", ["dataset_coco.json", "annotations/dataset_coco.json", "karpathy_splits/dataset_coco.json"]
)
def test_coco_by_karpathy(tmp_path: Path, place: str) -> None:
    found = listing(coco(tmp_path, place=place))
    assert found.source == "Karpathy's split, dataset_coco.json"
    assert dict(zip(found.paths, found.splits)) == {
        "val2014/COCO_val2014_1.jpg": "test", "val2014/COCO_val2014_2.jpg": "train",
        "train2014/COCO_train2014_3.jpg": "train", "val2014/COCO_val2014_4.jpg": "val",
    }  # fmt: skip
    assert found.captions[found.paths.index("val2014/COCO_val2014_1.jpg")] == json.dumps(["A dog.", "Two dogs run"])
    assert set(found.labels) == {""}


def test_its_own_annotations_stand_back(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "COCO_val2014_1.jpg"}],
        "annotations": [{"image_id": 1, "caption": "no"}],
    }
    layouts.write(tmp_path, {"annotations/captions_val2014.json": json.dumps(document).encode()})
    assert listing(coco(tmp_path)).source == "Karpathy's split, dataset_coco.json"


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    coco(tmp_path)
    assert listing(tmp_path / "dataset_coco.json") == listing(tmp_path)


def test_it_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO's has 140 MB of JSON."""
    read: list[str] = []
    inner = karpathy.json_document

    def counted(tree: Tree, path: str) -> Any:
        read.append(path)
        return inner(tree, path)

    monkeypatch.setattr(karpathy, "json_document", counted)
    listing(coco(tmp_path))
    assert read == ["dataset_coco.json"]


def test_flickr_has_its_images_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [entry("1.jpg", "train", "a dog", ""), entry("2.jpg", "val", "a cat"), entry("3.jpg", "test", " ")]
    files = {f"Images/{number}.jpg": layouts.jpeg(0, number) for number in range(1, 6)}
    document = json.dumps({"images": images, "dataset": "flickr8k"}).encode()
    # the archive of split files has three, of which one is meant
    others = json.dumps({"images": [entry("9.jpg", "train", "x")]}).encode()
    layouts.write(tmp_path, {**files, "dataset_flickr8k.json": document, "dataset_flickr30k.json": others})
    found = listing(tmp_path)
    assert (found.paths, found.splits) == (["Images/1.jpg", "Images/2.jpg"], ["train", "val"])
    out, err = capsys.readouterr()
    assert "dataset_flickr8k.json: 2 captions are empty, first of 1.jpg" in err
    assert "dataset_flickr8k.json: 1 of 3 images have no caption and are not used, such as 3.jpg" in out
    assert "2 images beside those that it names are not used, such as Images/4.jpg" in out


def test_tokens_stand_for_raw_words(tmp_path: Path) -> None:
    images = [{"filename": "1.jpg", "split": "train", "sentences": [{"tokens": ["a", "dog"]}]}]
    layouts.write(
        tmp_path, {"images/1.jpg": layouts.jpeg(0, 1), "dataset_x.json": json.dumps({"images": images}).encode()}
    )
    assert listing(tmp_path).captions == ['["a dog"]']


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images: [*images, entry("5.jpg", "trian", "a")],
            "entry 5 of images: its split is 'trian'; known are train",
        ),
        (lambda images: [*images, images[0]], "entry 5 of images: val2014/COCO_val2014_1.jpg is there before"),
        (lambda images: [*images, entry("../5.jpg", "val", "a")], r"entry 5 of images: '\.\./5\.jpg' points out of"),
        (lambda images: [*images, {"filename": "5.jpg", "split": "val"}], "entry 5 of images has no sentences"),
        (
            lambda images: [*images, entry("5.jpg", "val") | {"sentences": [7]}],
            "entry 5 of images: sentence 1 is a number",
        ),
        (
            lambda images: [*images, entry("5.jpg", "val") | {"sentences": [{}]}],
            "entry 5 of images: sentence 1 has no raw",
        ),
        (
            lambda images: [*images, entry("5.jpg", "val") | {"filename": 5}],
            "entry 5 of images: its filename is a number",
        ),
        (
            lambda images: [each | {"sentences": []} for each in images],
            "none of its 4 images has a caption; fill their sentences",
        ),
    ],
)
def test_refused_by_entry(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset_coco\.json: {message}"):
        listing(coco(tmp_path, change(COCO)))


def test_a_split_file_without_its_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.coco(tmp_path)
    layouts.write(tmp_path, {"dataset_coco.json": json.dumps({"images": COCO}).encode()})
    assert listing(tmp_path).source == "COCO captions in annotations/"
    assert "dataset_coco.json: not used. None of the images of a split file is here" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("document", [[], {"images": {}}, {"images": [{"file_name": "1.jpg"}]}])
def test_other_files_of_that_name_are_let_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any) -> None:
    layouts.write(tmp_path, {f"{label}/{n}.jpg": layouts.jpeg(0, n) for n, label in enumerate(["cat", "dog"] * 3)})
    before = listing(tmp_path).paths
    layouts.write(tmp_path, {"dataset_info.json": json.dumps(document).encode()})
    capsys.readouterr()
    assert listing(tmp_path).paths == before
    assert not capsys.readouterr().err


def test_flickr30k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As published: a blank after each mark, sentences in quotation marks, and one row that lacks a mark."""
    lines = ["image_name| comment_number| comment"]
    lines += [f'{number}.jpg| {each}| "Go" says a man , side {each} .' for number in range(3) for each in range(5)]
    lines[-1] = "2.jpg| 4   A dog runs across the grass ."
    files = {f"flickr30k_images/{number}.jpg": layouts.jpeg(0, number) for number in range(3)}
    layouts.write(tmp_path, {**files, "results.csv": "\n".join(lines).encode()})
    found = listing(tmp_path)
    assert found.paths == [f"flickr30k_images/{number}.jpg" for number in range(3)]
    assert [len(json.loads(each)) for each in found.captions] == [5, 5, 4]
    assert json.loads(found.captions[0])[3] == '"Go" says a man , side 3 .'
    assert "results.csv: 1 of its rows are not used, first '2.jpg| 4   A dog runs" in capsys.readouterr().err


def test_images_of_a_list_without_captions_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write(tmp_path, {f"{number}.jpg": layouts.jpeg(0, number) for number in range(3)})
    (tmp_path / "list.csv").write_text(
        "file,caption,split\n0.jpg,a dog,train\n1.jpg,,train\n2.jpg, ,val\n0.jpg,,train\n"
    )
    found = listing(tmp_path / "list.csv")
    assert (found.paths, found.captions) == (["0.jpg"], ['["a dog"]'])
    assert "list.csv: 2 images have no caption and are not used, such as 1.jpg" in capsys.readouterr().out
    (tmp_path / "list.csv").write_text("file,caption,split\n0.jpg,,train\n1.jpg,,train\n")
    with pytest.raises(DataError, match=r"list\.csv: none of its 2 images has a caption; fill the column of captions"):
        listing(tmp_path / "list.csv")


def test_empty_captions_of_coco_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.coco(tmp_path)
    path = tmp_path / "annotations/captions_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"][3]["caption"] = " \n"
    path.write_text(json.dumps(document))
    listing(tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of 20 annotations are not used, first entry 4, whose caption is empty. Their captions are empty" in told
