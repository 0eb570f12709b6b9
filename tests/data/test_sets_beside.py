"""Two sets in one place, or half of one: what would be left out in silence is refused or said."""

from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def hub_files(**texts: str) -> dict[str, bytes]:
    """Images of train and test, and metadata: `train_csv` is train/metadata.csv."""
    files = {f"{split}/{number}.jpg": b"x" for split in ("train", "test") for number in range(4)}
    return files | {
        f"{name.partition('_')[0]}/metadata.{name.partition('_')[2]}": text.encode() for name, text in texts.items()
    }


def rows(head: str = "file_name") -> str:
    return f"{head},label\n" + "".join(f"{number}.jpg,{'ab'[number % 2]}\n" for number in range(4))


def test_shards_beside_class_folders_are_refused(tmp_path: Path) -> None:
    layouts.write(tmp_path / "set", layouts.class_files(classes=("cat", "dog"), count=2))
    samples = {f"{number}.{kind}": str(number % 2).encode() for number in range(4) for kind in ("jpg", "cls")}
    tar = layouts.tarred(tmp_path / "set" / "backup.tar", samples)
    with pytest.raises(
        DataError, match=r"holds two sets: WebDataset, 1 shard, .* and folders of images, cat, dog; move"
    ):
        listing(tmp_path / "set")
    assert listing(tar).source == "WebDataset, 1 shard"
    tar.rename(tmp_path / "backup.tar")
    assert listing(tmp_path / "set").source == "class folders"


def test_shards_in_folders_of_splits_are_one_set(tmp_path: Path) -> None:
    samples = {f"{number}.{kind}": str(number % 2).encode() for number in range(4) for kind in ("jpg", "cls")}
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        layouts.tarred(tmp_path / split / "0.tar", samples)
    assert len(listing(tmp_path).paths) == 8


def test_metadata_of_one_split_without_file_name_is_refused(tmp_path: Path) -> None:
    layouts.write(tmp_path, hub_files(train_csv=rows("name"), test_csv=rows()))
    with pytest.raises(DataError, match=r"train/metadata\.csv has no column file_name, as other metadata here have"):
        listing(tmp_path)


def test_metadata_that_name_a_file_twice_are_refused(tmp_path: Path) -> None:
    layouts.write(tmp_path, hub_files(train_csv=rows(), train_jsonl='{"file_name": "0.jpg", "label": "b"}'))
    with pytest.raises(DataError, match=r"lists train/0\.jpg twice, as entries 1 and 5; keep one of them"):
        listing(tmp_path)


def test_a_split_without_metadata_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write(tmp_path, hub_files(train_csv=rows()))
    assert len(listing(tmp_path).paths) == 4
    assert f"{tmp_path / 'test'} is not used. Other folders of splits have metadata in them, and it has none." in (
        capsys.readouterr().err
    )


def test_labels_without_images_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = layouts.mnist(tmp_path, packed=False)
    (place / "t10k-images-idx3-ubyte").unlink()
    assert set(listing(place).splits) == {"train"}
    assert "t10k-labels-idx1-ubyte is not used. It has no file of images beside it." in capsys.readouterr().err
