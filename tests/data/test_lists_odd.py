"""List files that say something else than they seem to: one file twice, several labels, no names of columns."""

from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.errors import DataError


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def write(folder: Path, rows: list[str], *, head: str = "path,label") -> Path:
    layouts.write(folder, {f"im/{number}.jpg": b"x" for number in range(6)})
    (folder / "list.csv").write_text("\n".join([head, *rows]))
    return folder / "list.csv"


@pytest.mark.parametrize("name", ["./im/0.jpg", "im//0.jpg", "im/../im/0.jpg", "{root}/im/0.jpg"])
def test_a_file_under_two_names_is_there_twice(tmp_path: Path, name: str) -> None:
    name = name.format(root=tmp_path)
    place = write(tmp_path, [*(f"im/{number}.jpg,{number % 2}" for number in range(6)), f"{name},1"])
    with pytest.raises(DataError) as caught:
        listing(place)
    assert "twice, as entries 1 and 7; keep one of them" in str(caught.value)


@pytest.mark.parametrize("label", ['["a", "b"]', "[]", '{"a": 1}'])
def test_a_label_that_is_several_is_refused(tmp_path: Path, label: str) -> None:
    quoted = '"' + label.replace('"', '""') + '"'
    place = write(tmp_path, ["im/0.jpg,a", f"im/1.jpg,{quoted}", "im/2.jpg,[b]"])
    with pytest.raises(DataError, match=r"entry 2: the label .* is a list or an object, not a name; .* one class per"):
        listing(place)


def test_brackets_alone_are_a_name(tmp_path: Path) -> None:
    assert listing(write(tmp_path, ["im/0.jpg,[a]", "im/1.jpg,{b"])).labels == ["[a]", "{b"]


def test_a_list_without_names_of_columns_loses_no_image(tmp_path: Path) -> None:
    place = write(tmp_path, [f"im/{number}.jpg,{'ab'[number % 2]}" for number in range(1, 6)], head="im/0.jpg,a")
    with pytest.raises(
        DataError, match=r"its first line is not the names of its columns, but im/0\.jpg, a; put a line"
    ):
        listing(place)


def test_numbers_that_are_one_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(listing(write(tmp_path, ["im/0.jpg,1", "im/1.jpg,1.0", "im/2.jpg,2", "im/3.jpg,1e0"])).labels) == {
        "1", "1.0", "2", "1e0",
    }  # fmt: skip
    told = capsys.readouterr().err
    assert "classes '1' and '1.0' differ only in case or in how accents or numbers are written" in told


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x89PNG\r\n", r"is one image; give the folder of its class folders"),
        (b"Rar!\x1a", r"is a RAR archive, which is not read; unpack it"),
        (b"\x28\xb5\x2f\xfd", r"is compressed by Zstandard, which is not read; unpack it"),
        ("path,label".encode("utf-16"), r"is text in UTF-16, as some programs save it; save it as UTF-8"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(head + b"more")
    with pytest.raises(DataError, match=message):
        listing(tmp_path / "x")


def test_a_path_of_two_lines_is_refused_in_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/no\\nsuch does not exist\.") as caught:
        listing(tmp_path / "no\nsuch")
    assert "\n" not in str(caught.value)
