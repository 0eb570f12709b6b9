"""Labels and captions beside folders that hold files of the same names: they land on the right images, or are refused."""

from collections import Counter
from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError

NAMES = [f"{number}.jpg" for number in range(20)]


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def written(root: Path, *folders: str, names: list[str] = NAMES) -> Path:
    return layouts.write(root, {f"{folder}/{name}": b"x" for folder in folders for name in names})


def listed(root: Path, name: str, text: list[str]) -> Path:
    (root / name).write_text("\n".join(text))
    return root


LABELS = ["path,label", *(f"{name},{number % 2}" for number, name in enumerate(NAMES))]
CAPTIONS = ["image,caption", *(f"{name},A dog ." for name in NAMES)]


@pytest.mark.parametrize(("list_name", "folder"), [("train.csv", "train_images"), ("labels_test.csv", "test_images")])
def test_the_folder_of_the_lists_own_split_is_taken(tmp_path: Path, list_name: str, folder: str) -> None:
    listed(written(tmp_path, "train_images", "test_images"), list_name, LABELS)
    for found in (listing(tmp_path), listing(tmp_path / list_name)):
        assert found.paths == [f"{folder}/{name}" for name in NAMES]


def test_a_missing_image_of_train_is_not_taken_from_test(tmp_path: Path) -> None:
    listed(written(tmp_path, "train_images", "test_images"), "train.csv", LABELS)
    (tmp_path / "train_images/3.jpg").unlink()
    assert listing(tmp_path).paths[3] == "3.jpg", "quarantined by this name"
    written(tmp_path, "test_images").joinpath("train_images").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(DataError, match=r"its files are in test_images/ only, and it is a list of train"):
        listing(tmp_path / "train.csv")


def test_rows_of_a_split_are_in_the_folder_of_it(tmp_path: Path) -> None:
    rows = [
        f"{name},{number % 2},{split}" for split in ("train", "valid", "test") for number, name in enumerate(NAMES[:8])
    ]
    rows = [row for row in rows if "valid" not in row]
    rows += ["18.jpg,0,valid", "19.jpg,1,valid"]
    listed(written(tmp_path, "test_images", "train_images"), "all.csv", ["path,label,split", *rows])
    found = listing(tmp_path / "all.csv")
    assert set(found.paths) == {
        *(f"{split}_images/{name}" for split in ("train", "test") for name in NAMES[:8]), "train_images/18.jpg",
        "train_images/19.jpg",
    }  # fmt: skip


@pytest.mark.parametrize("folders", [("train_images", "test_images"), ("images_a", "images_b")])
@pytest.mark.parametrize("text", [LABELS, CAPTIONS], ids=["labels", "captions"])
def test_what_is_left_undecided_is_refused_with_both_folders(
    tmp_path: Path, folders: tuple[str, str], text: list[str]
) -> None:
    listed(written(tmp_path, *folders), "captions.txt", text)
    first, second = sorted(folders)
    with pytest.raises(
        DataError, match=rf"{first}/ and {second}/ both have its files, such as 0\.jpg, .* \({first}/0\.jpg\), give it"
    ):
        listing(tmp_path / "captions.txt")


def test_captions_of_a_split_are_of_its_folder(tmp_path: Path) -> None:
    listed(written(tmp_path, "train_images", "test_images"), "captions_train.txt", CAPTIONS)
    assert {path.split("/")[0] for path in listing(tmp_path).paths} == {"train_images"}


def test_two_folders_that_share_no_name_are_both_used(tmp_path: Path) -> None:
    written(tmp_path, "part_1", names=NAMES[:10])
    listed(written(tmp_path, "part_2", names=NAMES[10:]), "labels.csv", LABELS)
    assert Counter(path.split("/")[0] for path in listing(tmp_path / "labels.csv").paths) == {
        "part_1": 10,
        "part_2": 10,
    }
