"""Lists that name files outside of where they may, and words after the ? that belong to no list."""

import json
import os
from pathlib import Path

import pytest

from data import layouts
from fanlight.data import inside
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError

OUTSIDE = ("../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "/etc/passwd", "\\\\host\\x", "C:\\x.jpg")


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def rows(name: str, *, column: str = "path") -> bytes:
    lines = [f"{column},label", "0.jpg,cat", "1.jpg,dog", f"{name},dog"]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_list_in_an_archive_stays_in_it(tmp_path: Path, kind: str, name: str) -> None:
    files = {"list.csv": rows(name), "0.jpg": b"x", "1.jpg": b"x"}
    pack = layouts.zipped if kind == "zip" else layouts.tarred
    packed = pack(tmp_path / f"p.{kind}", files)
    with pytest.raises(DataError, match=rf"list\.csv, entry 3: .* points out of .*p\.{kind}; name files in it"):
        listing(packed / "list.csv")


@pytest.mark.parametrize("name", OUTSIDE)
def test_metadata_of_the_hub_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    layouts.write(tmp_path / "set", {"metadata.csv": rows(name, column="file_name"), "0.jpg": b"x", "1.jpg": b"x"})
    with pytest.raises(DataError, match=r"metadata\.csv, entry 3: .* points out of .*set; name files in it"):
        listing(tmp_path / "set")


def test_a_list_in_a_folder_may_name_files_elsewhere(tmp_path: Path) -> None:
    layouts.write(tmp_path, {"set/list.csv": rows("../2.jpg"), "2.jpg": b"x"})
    assert listing(tmp_path / "set/list.csv").paths[2] == "../2.jpg"


def test_captions_stay_where_they_are(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path / "coco")
    file = root / "annotations/captions_train2017.json"
    document = json.loads(file.read_text())
    document["images"][1]["file_name"] = "../../secret.jpg"
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"entry 2 of images: '\.\./\.\./secret\.jpg' points out of"):
        listing(root)
    files = {"captions.txt": b"image,caption\n0.jpg,a dog\n/etc/passwd,a cat\n", "0.jpg": b"x"}
    with pytest.raises(DataError, match=r"captions\.txt, image 2: '/etc/passwd' points out of"):
        listing(layouts.zipped(tmp_path / "f.zip", files))


def test_columns_are_chosen_of_lists_only(tmp_path: Path) -> None:
    layouts.write(tmp_path / "set", layouts.class_files())
    layouts.zipped(tmp_path / "p.zip", layouts.class_files(prefix="deep/"))
    layouts.web_dataset(tmp_path / "web")
    for place, what in (
        ("set", "is a folder"), ("p.zip", "is an archive"), ("p.zip/deep", "is in an archive, and a folder"),
        ("web/train-{0000..0001}.tar", "is a pattern of shards"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=rf"{what}, not a list, so \?label=x says nothing of it; leave it out"):
            listing(f"{tmp_path}/{place}?label=x")


def test_columns_that_are_chosen_twice(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(rows("2.jpg"))
    with pytest.raises(DataError, match=r"list\.csv\?label=a&label=b: label= is there twice; say it once"):
        listing(f"{tmp_path}/list.csv?label=a&label=b")
    with pytest.raises(DataError, match=r"no column is left for the path, because label=path takes 'path'"):
        listing(f"{tmp_path}/list.csv?label=path")


def test_a_label_that_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n1,cat\n2,{'x' * 201}\n")
    with pytest.raises(DataError, match=r"entry 2: the label 'x{39}…' has 201 letters; at most 200 are a class's name"):
        listing(tmp_path / "list.csv")


@pytest.mark.parametrize("files", [{}, {".hidden": b"x"}])
def test_an_archive_of_no_files_is_said_where_images_are_named(tmp_path: Path, files: dict[str, bytes]) -> None:
    packed = layouts.zipped(tmp_path / "p.zip", files)
    with pytest.raises(DataError, match=r"p\.zip is an empty archive: there is no file in it"):
        inside.files(os.fspath(packed))
