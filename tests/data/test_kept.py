"""Manifests that somebody edited, as data: what they say is taken, or refused by entry; never another thing in silence."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise
from fanlight.data.scan import scan
from fanlight.errors import DataError


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    layouts.write(tmp_path / "set", layouts.class_files(count=3))
    scan(listing(tmp_path / "set"), workers=1).save(tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def edit(place: Path, column: str, change: Any) -> None:
    """`change` of the column's values, as whatever type these are then."""
    table = pq.read_table(place)
    values = pa.array(change(table[column].to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(column), column, values), place)


def first(value: Any) -> Any:
    return lambda values: [value, *values[1:]]


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("label", first(""), r"entry 1: the label is empty; fill it or remove the row"),
        ("label", first(None), r"1 cells of the column label are null; write an empty text for none, or "),
        ("path", first(""), r"entry 1: the path is empty"),
        ("path", first(None), r"1 cells of the column path are null"),
        ("group", lambda values: [None] * len(values), r"cells of the column group are null"),
        ("split", first("holdout"), r"entry 1: split 'holdout' is unknown; use train, val or test"),
        ("status", first("OK"), r"entry 1: status 'OK' is unknown; use ok or quarantined"),
        ("width", lambda values: ["wide"] * len(values), r"the column width is string, and its values are no int32"),
        ("path", lambda values: [values[1], *values[1:]], r" twice, as entries 1 and 2; keep one of them"),
    ],
)  # fmt: skip
def test_an_edit_that_nobody_can_train_on_is_refused(kept: Path, column: str, change: Any, message: str) -> None:
    edit(kept, column, change)
    with pytest.raises(DataError, match=message):
        listing(kept)


def test_words_of_splits_and_numbers_as_labels_are_taken(kept: Path) -> None:
    edit(kept, "split", lambda values: ["Train", "validation", "TEST"] * (len(values) // 3))
    edit(kept, "label", lambda values: [int(value != values[0]) for value in values])
    found = listing(kept)
    assert found.splits == ["train", "val", "test"] * (len(found.paths) // 3)
    assert set(found.labels) == {"0", "1"}


def test_a_manifest_of_data_that_were_moved_names_the_place(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"is a manifest of {tmp_path}/set, which does not exist; where the data were"):
        listing(kept)
    about = json.loads(pq.read_schema(kept).metadata[b"fanlight"])
    pq.write_table(
        pq.read_table(kept).replace_schema_metadata(
            {"fanlight": json.dumps(about | {"root": str(tmp_path / "moved")})}
        ),
        kept,
    )
    assert listing(kept).root == tmp_path / "moved"
