"""Class folders where something may be taken for what it is not: patients, a stray file, a class named as a split."""

from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


@pytest.mark.parametrize("name", ["patient{}", "{1}_{0}", "p-{0}"])
def test_patients_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for number in range(4):
        kind = ("cancer", "normal")[number % 2]
        layouts.write(tmp_path, {f"{kind}/{name.format(number, kind)}/{each}.jpg": b"x" for each in range(3)})
    assert sorted(set(listing(tmp_path).labels)) == ["cancer", "normal"]
    told = capsys.readouterr().out
    assert "the outer folders, such as cancer, are the classes, and not the inner ones" in told
    assert "give a list file with the columns path and label" in told and "--group-by" in told


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (("lung_image_sets/lung_aca", "lung_image_sets/lung_n", "colon_image_sets/colon_n"), "colon_n lung_aca lung_n"),
        (("birds/robin", "birds/owl", "fish/trout"), "birds fish"),
        (("image_set_a/image_x", "image_set_b/image_y"), "image_set_a image_set_b"),
        (tuple(f"cat/cat_{letter}" for letter in "abcdefghijkl") + ("dog/dog_x",), "cat dog"),
    ],
    ids=["kinds", "no word", "a word of all", "many"],
)
def test_inner_folders_are_classes_where_they_share_a_word_and_are_few(
    tmp_path: Path, files: tuple[str, ...], classes: str
) -> None:
    layouts.write(tmp_path, {f"{folder}/1.jpg": b"x" for folder in files})
    assert sorted(set(listing(tmp_path).labels)) == classes.split()


STRAYS = {
    "train.bin": b"weights", "captions.json": b"{", "x.parquet": b"PAR1 cut off", "model-idx3-ubyte": b"weights",
    "data_batch_1": b"\x80\x02cut off",
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "train/"])
@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_file_beside_class_folders_is_named_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, prefix: str
) -> None:
    layouts.write(tmp_path, layouts.class_files(prefix=prefix, classes=("cat", "dog"), count=2) | {name: STRAYS[name]})
    assert sorted(set(listing(tmp_path).labels)) == ["cat", "dog"]
    told = capsys.readouterr().err
    assert f"{tmp_path / name}" in told and "The class folders beside it are read, and it is not." in told
    assert "lacks" not in told


def test_a_list_with_a_mistake_is_no_stray(tmp_path: Path) -> None:
    """It says labels, and reading the folders instead would be another data set."""
    layouts.write(tmp_path, layouts.class_files(classes=("photos_a", "photos_b"), count=4))
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{number}.jpg,{number % 2}\n" for number in range(4))
    )
    with pytest.raises(DataError, match=r"photos_a/ and photos_b/ both have its files"):
        listing(tmp_path)


def test_a_class_called_train_is_refused_by_name(tmp_path: Path) -> None:
    layouts.write(tmp_path, layouts.class_files(classes=("bus", "plane", "train"), count=2))
    with pytest.raises(
        DataError,
        match=r"the folder train is taken for the split, .* If train is a class as bus, plane may be, give it another",
    ):
        listing(tmp_path)
    (tmp_path / "train").rename(tmp_path / "train_class")
    assert sorted(set(listing(tmp_path).labels)) == ["bus", "plane", "train_class"]


def test_one_column_per_class_beside_another_label_is_refused(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{number % 2},{1 - number % 2},{number % 3}" for number in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["path,male,female,severity", *rows]))
    with pytest.raises(
        DataError,
        match=r"severity could be it as well as male, female, .*list\.csv\?label=severity, or take severity out",
    ):
        listing(tmp_path / "list.csv")
    assert set(listing(f"{tmp_path}/list.csv?label=severity").labels) == {"0", "1", "2"}


@pytest.mark.parametrize("name", ["val", "Test"])
def test_a_split_beside_classes_and_no_train_is_refused_where_it_holds_them(tmp_path: Path, name: str) -> None:
    """It would be a class of its own, with the images of all others in it."""
    files = layouts.class_files(classes=("cat", "dog"), count=2)
    layouts.write(tmp_path, files | layouts.class_files(prefix=f"{name}/", classes=("cat", "dog"), count=2))
    with pytest.raises(
        DataError, match=rf"the folder {name} holds cat, dog, .* put the other folders \(cat, dog\) into a folder train"
    ):
        listing(tmp_path)


def test_a_folder_called_test_beside_classes_is_a_class_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.write(tmp_path, layouts.class_files(classes=("cat", "dog", "test"), count=2))
    assert sorted(set(listing(tmp_path).labels)) == ["cat", "dog", "test"]
    told = capsys.readouterr().err
    assert "the folder test is taken as a class. It lies beside cat, dog, and there is no folder train." in told
    assert "if its images have no label, take it away" in told


def test_files_beside_folders_of_splits_and_in_them_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = layouts.class_files(prefix="train/", classes=("cat", "dog"), count=2)
    layouts.write(tmp_path, files | {"stray.jpg": b"x", "train/lost.jpg": b"x"})
    assert len(listing(tmp_path).paths) == 4
    told = capsys.readouterr().out
    assert "1 files beside the folders of the splits are not used, such as stray.jpg" in told
    assert f"{tmp_path / 'train'}: 1 files beside the class folders are not used, such as lost.jpg" in told


def test_a_link_to_a_folder_above_brings_no_other_class(tmp_path: Path) -> None:
    layouts.write(tmp_path, layouts.class_files(prefix="train/", classes=("cat", "dog"), count=2))
    (tmp_path / "train" / "cat" / "up").symlink_to("..")
    (tmp_path / "train" / "dog" / "top").symlink_to("../..")
    found = listing(tmp_path)
    assert len(found.paths) == 4
    assert all(label in path for path, label in zip(found.paths, found.labels))
