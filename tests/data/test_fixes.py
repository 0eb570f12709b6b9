"""What `check --fix` puts aside, and what it must not touch."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fanlight.data.fixes import fix
from fanlight.data.manifest import SCHEMA, Manifest, audit
from fanlight.errors import DataError

Row = tuple[str, str, str, str]  # label, split, sha256, copies


def manifest(rows: list[Row], *, groups: list[str] | None = None) -> Manifest:
    names = ("label", "split", "sha256", "copies")
    columns = dict(zip(names, (list(column) for column in zip(*rows))))
    columns["path"] = [f"{number}.jpg" for number in range(len(rows))]
    columns["group"] = groups or columns["sha256"]
    columns["status"] = ["ok"] * len(rows)
    empty: dict[pa.DataType, object] = {pa.string(): "", pa.bool_(): False}
    rest = {field.name: [empty.get(field.type, 1)] * len(rows) for field in SCHEMA}
    return Manifest.of(pa.table(rest | columns, schema=SCHEMA), root=Path("/data"), source="test")


def reasons(found: Manifest) -> dict[int, str]:
    return {int(row): found.column("reason")[row] for row in np.flatnonzero(~found.ok)}


def test_clean_data_stays_as_it_is() -> None:
    before = manifest([("cat", "train", "a", ""), ("dog", "val", "b", ""), ("cat", "", "c", ""), ("dog", "", "d", "")])
    after, said = fix(before)
    assert after.table.equals(before.table)
    assert said == ["nothing had to be changed"]


def test_of_copies_under_two_classes_the_majority_stays() -> None:
    rows = [
        ("cat", "", "a", "x"),
        ("cat", "", "b", "x"),
        ("dog", "", "c", "x"),
        ("dog", "", "d", ""),
        ("cat", "", "d", ""),
    ]
    after, said = fix(manifest([*rows, ("dog", "", "e", ""), ("cat", "", "f", "")]))
    assert reasons(after) == {
        2: "copy of 0.jpg, which is filed under cat",
        3: "copy of 4.jpg, which is filed under cat",
        4: "copy of 3.jpg, which is filed under dog",
    }
    assert said[0] == "3 images left out, because copies of them are filed under another class"
    assert audit(after)["label_conflicts"] == []


def test_of_copies_in_several_splits_the_last_split_keeps_its_own() -> None:
    rows = [
        ("cat", split, sha, "x")
        for split, sha in (("train", "a"), ("val", "b"), ("test", "c"), ("", "d"), ("train", "e"))
    ]
    rows += [("dog", "train", "f", ""), ("dog", "val", "f", ""), ("dog", "train", "g", ""), ("cat", "train", "h", "")]
    after, said = fix(manifest(rows))
    assert reasons(after) == {
        0: "copy of 2.jpg in test", 1: "copy of 2.jpg in test", 4: "copy of 2.jpg in test", 5: "copy of 6.jpg in val",
    }  # fmt: skip
    assert said[0].startswith("4 images left out of train or val")
    assert audit(after)["leaks"] == []


def test_what_is_left_out_for_its_class_leaks_no_more() -> None:
    rows = [
        ("dog", "test", "a", "x"),
        ("cat", "train", "b", "x"),
        ("cat", "train", "c", "x"),
        ("dog", "train", "d", ""),
    ]
    assert list(reasons(fix(manifest(rows))[0])) == [0]  # the rows of train stay, since nothing of test is left


def test_copies_become_a_group_that_the_data_gave_where_it_did() -> None:
    rows = [("cat", "", "a", "x"), ("cat", "", "b", "x"), ("cat", "", "c", "x"), ("dog", "", "d", "")]
    after, said = fix(manifest(rows, groups=["a", "b", "patient 7", "d"]))
    assert after.column("group").tolist() == ["patient 7", "patient 7", "patient 7", "d"]
    assert said == ["2 images put into the groups of their copies or films, so that any split keeps those together"]


def test_a_fix_that_leaves_nothing_is_refused() -> None:
    rows = [("cat", "", "a", ""), ("dog", "", "a", ""), ("cat", "", "b", "x"), ("dog", "", "c", "x")]
    with pytest.raises(DataError, match="all 4 images would be left out"):
        fix(manifest(rows))


def test_films_and_given_groups_in_several_splits_leave_train() -> None:
    splits = ["train", "val", "train", "test", "val", "train", "train", "train"]
    rows = [("cat", split, f"sha {number}", "") for number, split in enumerate(splits)]
    groups = [f"sha {number}" for number in range(8)]
    groups[2] = groups[3] = groups[4] = "patient 1"
    before = manifest(rows, groups=groups).with_columns(film=["a walk", "a walk", "", "", "", "a run", "a run", ""])
    assert [(leak["of"], leak["splits"]) for leak in audit(before)["leaks"]] == [
        ("film", ["train", "val"]), ("group", ["test", "train", "val"]),
    ]  # fmt: skip
    after, said = fix(before)
    assert reasons(after) == {
        0: "frame of one film with 1.jpg in val", 2: "of one group with 3.jpg in test", 4: "of one group with 3.jpg in test",
    }  # fmt: skip
    assert audit(after)["leaks"] == [] and not after.leaked.any()
    assert said[0] == (
        "3 images left out of train or val, because copies of them, or others of their film or group, are in val or test"
    )
    assert after.column("group")[5] == after.column("group")[6], "a film is a group of the new manifest"


def test_copies_across_given_groups_join_them() -> None:
    rows = [
        ("cat", "", "a", "x"),
        ("cat", "", "b", ""),
        ("cat", "", "c", "x"),
        ("dog", "", "d", ""),
        ("dog", "", "e", ""),
    ]
    after, said = fix(manifest(rows, groups=["p0", "p0", "p9", "p9", "p5"]))
    assert after.column("group").tolist() == ["p0", "p0", "p0", "p0", "p5"]
    assert said == ["2 images put into the groups of their copies or films, so that any split keeps those together"]


def test_a_fix_that_leaves_a_class_untrained_is_refused() -> None:
    rows = [("cat", "train", "a", ""), ("cat", "val", "b", ""), ("dog", "train", "c", ""), ("dog", "val", "d", "")]
    found = manifest(rows).with_columns(film=["film", "film", "", ""])
    with pytest.raises(DataError, match=r"no image of class cat would be left in train.*leave the splits out"):
        fix(found)
