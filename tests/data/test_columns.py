"""Columns of every source that has some can be grouped by, and what cannot be kept in a table is refused by entry."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.data.grouping import regroup
from fanlight.data.scan import scan
from fanlight.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def sites(found: Listing) -> dict[str, str]:
    return dict(zip(found.paths, regroup(found, "site").groups))


def test_hub_metadata_keep_their_columns(tmp_path: Path) -> None:
    for split in ("train", "test"):
        layouts.write(tmp_path / split, {f"{number}.png": b"x" for number in range(4)})
        lines = [f"{number}.png,{number % 2},{split[0]}{number // 2}" for number in range(4)]
        (tmp_path / split / "metadata.csv").write_text("\n".join(["file_name,label,site", *lines]))
    assert sites(listing(tmp_path)) == {
        f"{split}/{number}.png": f"{split[0]}{number // 2}" for split in ("train", "test") for number in range(4)
    }


def test_hub_tables_keep_their_columns(tmp_path: Path) -> None:
    """Also where one of them lacks a column."""
    layouts.hub_parquet(tmp_path)
    file = tmp_path / "data/train-00000-of-00001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("site", pa.array([f"s{number // 3}" for number in range(12)])), file)
    found = sites(listing(tmp_path))
    assert found["data/train-00000-of-00001.parquet/00004"] == "s1"
    assert found["data/test-00000-of-00001.parquet/00004"] == ""


def test_lists_of_captions_keep_their_columns(tmp_path: Path) -> None:
    layouts.write(tmp_path, {f"images/{number}.jpg": b"x" for number in range(4)})
    rows = [f'{number}.jpg,s{number // 2},"A dog, {each}"' for number in range(4) for each in range(2)]
    wanted = {f"images/{number}.jpg": f"s{number // 2}" for number in range(4)}
    (tmp_path / "captions.txt").write_text("\n".join(["image,site,caption", *rows]))
    assert sites(listing(tmp_path)) == wanted, "Flickr's way"
    (tmp_path / "list.csv").write_text("\n".join(["path,site,text", *rows]))
    assert sites(listing(tmp_path / "list.csv")) == wanted, "any list"


def test_a_label_beside_a_comment_is_a_label(tmp_path: Path) -> None:
    layouts.write(tmp_path, {f"{number}.jpg": b"x" for number in range(4)})
    (tmp_path / "list.csv").write_text("image,label,comment\n" + "".join(f"{n}.jpg,{n % 2},odd\n" for n in range(4)))
    assert (listing(tmp_path / "list.csv").labels, listing(tmp_path / "list.csv").captions) == (["0", "1"] * 2, [])


def test_a_manifest_keeps_its_columns(tmp_path: Path) -> None:
    layouts.write(tmp_path / "set", layouts.class_files(count=3))
    scan(listing(tmp_path / "set"), workers=1).save(tmp_path / "m.parquet")
    found = regroup(listing(tmp_path / "m.parquet"), "label")
    assert found.groups == found.labels
    with pytest.raises(
        ConfigError, match=r"'site' is no column of manifest m\.parquet\. The columns: path, label, split, "
    ):
        regroup(listing(tmp_path / "m.parquet"), "site")


def test_a_word_that_is_no_column_is_no_pattern(tmp_path: Path) -> None:
    """The word is in every path, and would put whatever it is in into one group."""
    layouts.write(tmp_path, layouts.class_files(prefix="photos/", count=2) | {"other/1.jpg": b"x"})
    with pytest.raises(ConfigError, match=r"'blue' cannot be a column, because there are none in class folders\."):
        regroup(listing(tmp_path), "blue")
    (tmp_path / "list.csv").write_text("path,label,site\nphotos/blue/0.jpg,a,x\nphotos/red/0.jpg,b,y\n")
    with pytest.raises(
        ConfigError, match=r"'photos' is no column of list file list\.csv\. The columns: path, label, site\."
    ):
        regroup(listing(tmp_path / "list.csv"), "photos")
    assert regroup(listing(tmp_path / "list.csv"), "photos/(blue|red)").groups == ["blue", "red"]


@pytest.mark.parametrize("column", ["label", "path", "group", "weight", "site"])
def test_half_a_letter_in_a_list_is_refused_by_entry(tmp_path: Path, column: str) -> None:
    row = {"path": "1.jpg", "label": "a", "group": "g", "weight": "1", "site": "s"} | {column: r"\ud800x"}
    text = "{" + ", ".join(f'"{name}": "{value}"' for name, value in row.items()) + "}"
    (tmp_path / "list.jsonl").write_text('{"path": "0.jpg", "label": "b"}\n' + text)
    with pytest.raises(
        DataError, match=rf"list\.jsonl, entry 2: {column} is '\\+ud800x', which holds half of a letter"
    ):
        listing(tmp_path / "list.jsonl")


def test_half_a_letter_in_a_class_of_the_hub_is_refused_by_entry(tmp_path: Path) -> None:
    file = layouts.hub_parquet(tmp_path) / "data/train-00000-of-00001.parquet"
    table = pq.read_table(file)
    about = table.schema.metadata[b"huggingface"].replace(b'"dog"', rb'"\ud800x"')
    pq.write_table(table.replace_schema_metadata({b"huggingface": about}), file)
    with pytest.raises(
        DataError, match=r"train-00000-of-00001\.parquet, entry 2: label is '\\+ud800x', which holds half"
    ):
        listing(tmp_path)


def test_half_a_letter_in_a_shard_is_counted_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        label = rb"\ud800x" if number == 3 else b"%d" % (number % 2)
        files |= {f"{number}.jpg": layouts.jpeg(0, number), f"{number}.json": b'{"label": "%s"}' % label}
    manifest = scan(listing(layouts.tarred(tmp_path / "s.tar", files)), workers=1)
    assert manifest.classes == ("0", "1") and len(manifest) == 5
    assert "1 images without a label are not used, such as 3.jpg (its label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "1", "label": "a", "Label": "b"}', r"has several columns 'label'; keep one of them"),
        ('{"path": "1", "label": "a"}\n{"path": "2", "Label": "b"}', r"has several columns 'label'; keep one of them"),
        ('{"path": "1", "label": "a", "label": "b"}', r"the key 'label' is twice in one object"),
    ],
)
def test_a_doubled_column_of_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        listing(tmp_path / "list.jsonl")


def test_a_doubled_column_of_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["1", "2"], "label": ["a", "b"], "Label": ["c", "d"]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"list\.parquet has several columns 'label'; keep one of them"):
        listing(tmp_path / "list.parquet")
