import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path(str(path)) / "unused-cache")


def rows(found: Listing) -> list[tuple[str, str, str]]:
    return list(zip(found.paths, found.labels, found.splits))


def test_class_folders_whatever_the_extension(tmp_path: Path) -> None:
    touch(tmp_path, "cat/b.JPG", "cat/a.webp", "cat/day 1/noname", "dog/x.jpeg", "README.md")
    found = listing(tmp_path)
    assert rows(found) == [
        ("cat/a.webp", "cat", ""),
        ("cat/b.JPG", "cat", ""),
        ("cat/day 1/noname", "cat", ""),
        ("dog/x.jpeg", "dog", ""),
    ]
    assert (found.root, found.source, found.groups) == (tmp_path, "class folders", [""] * 4)


def test_leftovers_are_not_data(tmp_path: Path) -> None:
    touch(tmp_path, "cat/.hidden.jpg", "cat/Thumbs.db", "cat/desktop.ini", "cat/a.jpg", "dog/b.jpg")
    touch(tmp_path, "__MACOSX/cat/._a.jpg", ".git/config")
    assert listing(tmp_path).paths == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("trn", "validation", "eval"),
        ("TRAIN", "dev", "Test"),
    ],
)
def test_split_folders(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name in names:
        touch(tmp_path, f"{name}/cat/1.png", f"{name}/dog/2.png")
    found = listing(tmp_path)
    assert {(path.split("/")[0], split) for path, _, split in rows(found)} == set(zip(names, ("train", "val", "test")))
    assert set(found.labels) == {"cat", "dog"}
    assert found.source == f"class folders in {names[0]}/ and {names[1]}/ and {names[2]}/"


def test_single_folders_are_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "photos/photos/cat/1", "photos/photos/dog/2")
    found = listing(tmp_path)
    assert (found.root, found.paths) == (tmp_path / "photos/photos", ["cat/1", "dog/2"])


def test_single_folders_in_splits_are_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "set/train/train/cat/1", "set/train/train/dog/2", "set/test/cat/3", "set/test/dog/4", "set/notes/x")
    assert rows(listing(tmp_path)) == [
        ("set/test/cat/3".removeprefix("set/"), "cat", "test"),
        ("test/dog/4", "dog", "test"),
        ("train/train/cat/1", "cat", "train"),
        ("train/train/dog/2", "dog", "train"),
    ]


def test_inner_folders_with_distinct_names_are_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "lung_image_sets/lung_aca/1", "lung_image_sets/lung_n/2", "colon_image_sets/colon_n/3")
    assert listing(tmp_path).labels == ["colon_n", "lung_aca", "lung_n"]
    assert "the inner folders are the classes" in capsys.readouterr().out


def test_inner_folders_with_equal_names_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "cat/day1/1", "cat/day2/2", "dog/day1/3")
    assert listing(tmp_path).labels == ["cat", "cat", "dog"]
    assert "folders named day1 occur in several" in capsys.readouterr().err


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "data/cat/1", "data/dog/2", "elsewhere/3")
    (tmp_path / "data/cat/loop").symlink_to(tmp_path / "data/cat")
    (tmp_path / "data/cat/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/dog/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog/one").symlink_to(tmp_path / "elsewhere/3")
    (tmp_path / "data/dog/lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data/dog/self").symlink_to("self")
    (tmp_path / "data/self").symlink_to("self")
    found = listing(tmp_path / "data")
    dogs = ["dog/2", "dog/lost", "dog/more/3", "dog/one", "dog/self"]
    assert [path for path in found.paths if path.startswith("dog")] == dogs
    assert "cat/1" in found.paths
    assert len(found.paths) < 14


def test_names_that_are_not_utf8_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "cat/1", "dog/2")
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    assert listing(tmp_path).paths == ["cat/1", "dog/2"]
    assert "Its name is not UTF-8" in capsys.readouterr().err


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    touch(folder, "cat/1", "dog/2")
    with pytest.raises(DataError, match=r"caf\\udce9': a folder's name is not UTF-8 .*; rename it"):
        listing(folder)


def test_classes_that_look_alike_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "Cat/1", "cat/2", "caf\u00e9/3", "cafe\u0301/4", "dog/5")
    assert len(set(listing(tmp_path).labels)) == 5
    told = capsys.readouterr().err
    assert "classes 'Cat' and 'cat' differ only in case or in how accents or numbers are written" in told
    assert told.count("differ only") == 2


@pytest.mark.parametrize(
    "name", ["", "~no-such-user/photos", "a\0b", "x" * 5000], ids=["empty", "user", "zero", "long"]
)
def test_names_that_no_data_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no data is named|does not exist"):
        recognise(name, cache=tmp_path)


def test_built_in_data_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"built-in digits cannot be written below .*file: Not a directory; set FANLIGHT"
    ):
        recognise("digits", cache=tmp_path / "file")


def test_a_list_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading one waits for a writer
    with pytest.raises(DataError, match=r"cannot read .*pipe: not a regular file"):
        listing(tmp_path / "pipe")


def test_what_is_no_file_in_a_class_folder_is_listed_so_that_it_is_quarantined_by_name(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    assert listing(tmp_path).paths == ["cat/1.jpg", "cat/pipe.jpg", "dog/1.jpg"]


def test_parquet_knows_missing_values_by_several_names(tmp_path: Path) -> None:
    columns = {"path": ["1", "2", "3"], "label": [1.0, 2.0, 2.0], "group": [float("nan"), None, 7.0]}
    pq.write_table(pa.table(columns), tmp_path / "list")
    assert listing(tmp_path / "list").groups == ["", "", "7.0"]
    pq.write_table(pa.table(columns | {"label": [1.0, float("nan"), 2.0]}), tmp_path / "list")
    with pytest.raises(DataError, match="entry 2: the label is empty"):
        listing(tmp_path / "list")


def test_empty_class_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "cat/1", "dog/2")
    (tmp_path / "bird").mkdir()
    assert set(listing(tmp_path).labels) == {"cat", "dog"}
    assert "class folder bird is empty" in capsys.readouterr().err


def test_missing_class_in_val_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "train/cat/1", "train/dog/2", "train/owl/3", "val/cat/4", "val/dog/5")
    assert len(listing(tmp_path).paths) == 5
    assert "val has no images of owl" in capsys.readouterr().err


def test_unlabelled_test_folder_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "train/cat/1", "train/dog/2", "test/7", "test/8")
    assert listing(tmp_path).splits == ["train", "train"]
    assert "Its files have no class folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "is empty"),
        (("a.jpg", "b.jpg"), r"2 files, such as a\.jpg, but no folder per class"),
        (("cat/1", "cat/2"), "only one class, cat"),
        (("train/1", "val/cat/2", "val/dog/2"), "no folder per class"),
        (
            ("train/cats/1", "train/dogs/2", "val/cat/3", "val/dogs/4"),
            r"classes of val that train lacks: cat\. Near names: cats",
        ),
    ],
)
def test_refused_folders(tmp_path: Path, paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        listing(touch(tmp_path, *paths))


def test_folders_without_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="no files in the folders"):
        listing(tmp_path)
    assert "cat is empty" in capsys.readouterr().err


def test_near_names_of_a_missing_path(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"photo does not exist\. Near names: photos"):
        listing(tmp_path / "photo")
    with pytest.raises(DataError, match=r"Near names: digits"):
        listing("digit")


def test_existing_path_wins_over_the_built_in_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(touch(tmp_path, "digits/cat/1", "digits/dog/2").resolve())
    assert recognise("digits", cache=tmp_path / "cache").labels == ["cat", "dog"]
    assert "not the built-in data" in capsys.readouterr().out


def test_digits_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = recognise("digits", cache=tmp_path / "cache")
    assert (len(found.paths), len(set(found.labels)), found.source) == (1797, 10, "built-in digits")
    first = found.root / found.paths[0]
    with Image.open(first) as image:
        assert (image.size, image.getextrema()) == ((8, 8), (0, 239))
    written = first.stat().st_mtime_ns
    assert recognise("digits", cache=tmp_path / "cache") == found
    assert first.stat().st_mtime_ns == written
    assert [entry.name for entry in (tmp_path / "cache/builtin").iterdir()] == ["digits-v1"]


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_list_file(tmp_path: Path, mark: str) -> None:
    lines = [
        "Path,Label,split,patient",
        "a/1.jpg,cat,Training,p1",
        "b\\2.jpg,dog,,p2",
        '"3.jpg",dog,valid,',
        "4.jpg,cat,dev,",
    ]
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", mark).encode())
    found = listing(tmp_path / "list.csv")
    assert rows(found) == [
        ("a/1.jpg", "cat", "train"),
        ("b/2.jpg", "dog", ""),
        ("3.jpg", "dog", "val"),
        ("4.jpg", "cat", "val"),
    ]
    assert (found.root, found.source, found.groups) == (tmp_path, "list file list.csv", ["p1", "p2", "", ""])


def test_weights_are_kept_as_the_list_says_them(tmp_path: Path) -> None:
    """What is wrong with one matters to a run that draws by them, and to no other."""
    (tmp_path / "list.csv").write_text("path,label,weight\n1,cat, 2.5\n2,dog,\n3,dog,heavy\n")
    assert listing(tmp_path / "list.csv").weights == ["2.5", "", "heavy"]
    columns = {"path": ["1", "2", "3"], "label": ["cat", "dog", "dog"], "Weight": [0.5, None, 3.0]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    assert listing(tmp_path / "list.parquet").weights == ["0.5", "", "3.0"]
    (tmp_path / "none.csv").write_text("path,label\n1,cat\n2,dog\n")
    assert listing(tmp_path / "none.csv").weights == []


def test_parquet_list_without_the_extension(tmp_path: Path) -> None:
    pq.write_table(pa.table({"filename": ["1", "2"], "class": [3, 4]}), tmp_path / "list")
    assert rows(listing(tmp_path / "list")) == [("1", "3", ""), ("2", "4", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,caption\n1,x\n",
            "its column caption has captions, and most of the files in its column image are not here",
        ),
        ("", "list.csv is empty; download or make it again"),
        (
            "path,a,b\n1,0,1\n2,1,1\n3,0,0\n4,1,0\n",
            r"entry 2: a, b of the columns a, b are 1, .* \(2 of 4 rows are not so\)",
        ),
        ("path,a,b\n1,0,1\n2,1,0\n3,0,0\n", r"entry 3: none of the columns a, b is 1, and one .* list\.csv\?label=a"),
        ("k" * 99 + ",\x1b[31m\n1,cat\n", r"only k{39}…, \\x1b\[31m\. Rename one to path"),
        (",".join(f"c{n}" for n in range(20)) + "\n", r"only c0, .*, c7 and 12 more\. Rename"),
        ("path,label\n", "lists no files"),
        ("path,label\n1,cat\n2,\n", "entry 2: the label is empty"),
        ("path,label\n1,cat\n1,dog\n", "lists 1 twice, as entries 1 and 2"),
        ("path,label\n1,cat\n2\n", "entry 2: 1 fields where the first line has 2"),
        ("path,label,split\n1,cat,train\n2,dog,holdout\n", "entry 2: split 'holdout' is unknown"),
        ("path,label\n1,cat\n2,cat\n", "only one class, cat"),
        ("path,label,split\n1,cat,train\n2,dog,train\n3,dgo,test\n", "classes of test that train lacks: dgo"),
        ('path,label\n"1,cat\n', "is not a list file"),
        ("path,label,Label\n1,cat,dog\n", "has several columns 'label'; keep one of them"),
    ],
)
def test_refused_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        listing(tmp_path / "list.csv")


@pytest.mark.parametrize("most", [0, 1])
def test_rows_of_two_ones_are_refused_where_many_are_so_and_a_column_may_be_chosen(tmp_path: Path, most: int) -> None:
    lines = ["path,a,b", *(f"{number},{number % 2},{most}" for number in range(12))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"one column per class needs a single 1 in each row \(6 of 12"):
        listing(tmp_path / "list.csv")
    assert set(listing(f"{tmp_path}/list.csv?label=a").labels) == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.tar", bytes(10240), r"p\.tar is empty: 10240 bytes of zeros or blanks, as an archive of nothing has"),
        ("p.tar", b"", r"p\.tar is empty; download"),
        ("p.zip", b"hello" * 99, r"p\.zip is called \.zip and is no such archive: .* b'hellohellohe'; download"),
        ("p.tar.gz", gzip.compress(b"a,b\n" * 99, mtime=0), r"is called \.tar\.gz and is no such archive: .* b'a,b.na"),
    ],
)
def test_what_has_an_archives_name_and_is_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        listing(tmp_path / name)


def test_an_image_is_no_list(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match="is one image; give the folder of its class folders"):
        listing(tmp_path / "photo.jpg")


names = st.text(st.sampled_from("abcxyzAZ09 ,;'\"äß中"), min_size=1, max_size=8).filter(
    lambda name: name == name.strip()
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, names, min_size=2, max_size=20).filter(lambda rows: len(set(rows.values())) > 1))
def test_lists_of_any_names_come_back(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str]) -> None:
    import csv

    path = tmp_path_factory.mktemp("lists") / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *entries.items()])
    found = listing(path)
    assert dict(zip(found.paths, found.labels)) == entries
