import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.data.formats import recognise
from fanlight.data.manifest import SCHEMA, Manifest, arrow, audit, file_state, load
from fanlight.errors import DataError, RunError


def manifest(root: Path, rows: list[tuple[str, str, str, str]], *, quarantined: tuple[int, ...] = ()) -> Manifest:
    """Rows of (path, label, split, content); the files are written."""
    table = []
    for number, (path, label, split, content) in enumerate(rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
        size, mtime_ns = file_state(root / path)
        sha = f"sha of {content}"
        status = ("quarantined", "odd") if number in quarantined else ("ok", "")
        table.append((path, label, split, sha, "", "", "", "", 4, 3, "PNG", size, mtime_ns, sha, *status, False))
    columns = dict(zip(SCHEMA.names, zip(*table)))
    return Manifest.of(pa.table({name: list(values) for name, values in columns.items()}), root=root, source="test")


def pets(root: Path) -> Manifest:
    rows = [
        ("d/1", "dog", "train", "a"),
        ("c/1", "cat", "train", "b"),
        ("o/1", "owl", "", "c"),
        ("c/2", "cat", "val", "d"),
    ]
    return manifest(root, rows, quarantined=(2,))


def test_columns_labels_and_rows(tmp_path: Path) -> None:
    pet = pets(tmp_path)
    assert (len(pet), pet.classes) == (4, ("cat", "dog"))
    assert pet.ok.tolist() == [True, True, False, True]
    assert pet.ok.dtype == bool
    assert pet.labels.tolist() == [1, 0, -1, 0]
    assert pet.labels.dtype == np.int64
    assert pet.rows().tolist() == [0, 1, 3]
    assert pet.rows("train").tolist() == [0, 1]
    assert pet.rows("val").dtype == np.int64
    assert pet.column("path").tolist() == ["d/1", "c/1", "o/1", "c/2"]
    assert pet.column("width").dtype == np.int32
    assert pet.path(np.int64(1)) == tmp_path / "c/1"
    assert pet.read(1) == b"b"


def test_vanished_file_is_named(tmp_path: Path) -> None:
    pet = pets(tmp_path)
    (tmp_path / "c/1").unlink()
    with pytest.raises(DataError, match=r"c/1: No such file.*fanlight check"):
        pet.read(1)


def test_changed_names_changed_and_missing_files(tmp_path: Path) -> None:
    pet = pets(tmp_path)
    assert pet.changed() == []
    (tmp_path / "c/1").write_text("longer")
    (tmp_path / "c/2").unlink()
    assert pet.changed() == ["c/1", "c/2"]


def test_quarantine_take_and_with_columns_are_copies(tmp_path: Path) -> None:
    pet = pets(tmp_path)
    less = pet.quarantine({0: "truncated"})
    assert less.classes == ("cat",)
    assert (less.column("status")[0], less.column("reason")[0]) == ("quarantined", "truncated")
    assert pet.ok[0] and pet.classes == ("cat", "dog")
    part = pet.take(np.array([3, 1]))
    assert part.column("path").tolist() == ["c/2", "c/1"]
    assert part.classes == pet.classes and part.labels.tolist() == [0, 0]
    split = np.array(["test"] * 4, object)
    assert pet.with_columns(split=split).rows("test").tolist() == [0, 1, 3]
    assert pet.with_columns(label=["x", "y", "z", "y"]).classes == ("x", "y")


def test_fingerprint_follows_what_names_the_data(tmp_path: Path) -> None:
    pet = pets(tmp_path)
    assert len(pet.fingerprint) == 64
    assert pets(tmp_path).fingerprint == pet.fingerprint
    assert pet.with_columns(mtime_ns=[1, 2, 3, 4], reason=["", "", "why", ""]).fingerprint == pet.fingerprint
    for name in ("path", "label", "split", "sha256", "weight"):
        assert pet.with_columns(**{name: ["p", "q", "r", "s"]}).fingerprint != pet.fingerprint
    assert pet.quarantine({0: "odd"}).fingerprint != pet.fingerprint


def test_save_and_load(tmp_path: Path) -> None:
    pet = pets(tmp_path / "data").quarantine({0: "truncated"})
    pet.save(tmp_path / "manifest.parquet")
    again = load(tmp_path / "manifest.parquet")
    assert again.table.equals(pet.table)
    assert again.table.schema.equals(SCHEMA)
    assert (again.root, again.classes, again.source) == (pet.root, pet.classes, pet.source)
    assert again.fingerprint == pet.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "manifest.parquet"]
    names = set(pq.read_schema(tmp_path / "manifest.parquet").names)
    assert {"path", "label", "split", "group", "width", "height", "sha256", "status"} <= names


def test_refused_manifests(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(RunError, match=r"cannot read manifest .*No such file.*fanlight check"):
        load(path)
    path.write_text("no parquet at all")
    with pytest.raises(RunError, match="is not a manifest of Fanlight"):
        load(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RunError, match="is not a manifest of Fanlight"):
        load(path)
    table = pets(tmp_path).table
    pq.write_table(table.replace_schema_metadata({"fanlight": '{"version": 99}'}), path)
    with pytest.raises(RunError, match="version 99, not 4"):
        load(path)
    about = {"fanlight": '{"version": 4, "root": "/x", "classes": [], "source": "s"}'}
    pq.write_table(table.drop_columns("sha256").replace_schema_metadata(about), path)
    with pytest.raises(RunError, match="is a manifest without the column sha256; write it again with `fanlight check`"):
        load(path)
    with pytest.raises(DataError, match="is a manifest without the column sha256"):
        recognise(str(path), cache=tmp_path)
    pq.write_table(table.replace_schema_metadata({"fanlight": '{"version": 4}'}), path)
    with pytest.raises(RunError, match="is not a manifest of Fanlight"):
        load(path)


@given(
    st.sampled_from([(pa.string(), st.text()), (pa.bool_(), st.booleans()), (pa.int32(), st.integers(-9, 9))]).flatmap(
        lambda kind: st.tuples(st.just(kind[0]), st.lists(kind[1]))
    )
)
def test_arrow_is_pyarrow_s_array(kind_and_values: tuple[pa.DataType, list[object]]) -> None:
    kind, values = kind_and_values
    array = arrow(values, kind=kind)
    array.validate(full=True)
    assert array.equals(pa.array(values, kind))


def test_manifests_import_neither_pandas_nor_torch(tmp_path: Path) -> None:
    pets(tmp_path / "data").save(tmp_path / "manifest.parquet")
    program = """
import sys
from pathlib import Path
import numpy as np
from fanlight.data import formats, scan
from fanlight.data.manifest import audit, load
from fanlight.data.split import assign
manifest = load(Path(sys.argv[1]))
manifest.with_columns(split=["train"] * 4).take(np.array([0, 1, 2])).save(Path(sys.argv[1]))
manifest.labels, manifest.fingerprint, manifest.changed(), audit(manifest), manifest.quarantine({0: "odd"})
assign(manifest, val_fraction=0.2, seed=0)
sys.exit(", ".join({"pandas", "torch", "sklearn"} & set(sys.modules)) or 0)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "manifest.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_audit(tmp_path: Path) -> None:
    rows = [
        ("1", "cat", "train", "a"),
        ("2", "cat", "test", "a"),
        ("3", "cat", "train", "a"),
        ("4", "dog", "train", "b"),
        ("5", "cat", "train", "b"),
        ("6", "cat", "train", "c"),
        ("7", "dog", "train", "d"),
        ("8", "dog", "test", "d"),
    ]
    found = audit(manifest(tmp_path, rows, quarantined=(7,)))
    assert found == {
        "exact_copies": 3,
        "near_copies": 0,
        "copy_groups": [["1", "2", "3"], ["4", "5"]],
        "label_conflicts": [{"paths": ["4", "5"], "labels": ["cat", "dog"]}],
        "leaks": [{"of": "copies", "paths": ["1", "2", "3"], "splits": ["test", "train"]}],
        "imbalance": 2.5,
    }


def test_copies_without_given_splits_are_no_leak(tmp_path: Path) -> None:
    found = audit(manifest(tmp_path, [("1", "cat", "", "a"), ("2", "cat", "train", "a"), ("3", "dog", "", "b")]))
    assert (found["leaks"], found["exact_copies"]) == ([], 1)


def test_what_leaks(tmp_path: Path) -> None:
    """By its bytes, by what an audit found, by a given group; never a training row, nor one that is not used."""
    rows = [
        ("0", "cat", "train", "a"), ("1", "cat", "val", "a"), ("2", "dog", "train", "b"), ("3", "dog", "test", "c"),
        ("4", "dog", "val", "d"), ("5", "cat", "test", "e"), ("6", "cat", "val", "a"), ("7", "dog", "", "a"),
    ]  # fmt: skip
    found = manifest(tmp_path, rows, quarantined=(6,))
    assert found.leaked.tolist() == [False, True] + [False] * 6
    groups, copies = found.column("group"), np.full(8, "", object)
    groups[[2, 4]] = "one film"
    copies[[2, 3]] = "one picture"
    audited = found.with_columns(group=groups, copies=copies)
    assert audited.leaked.tolist() == [False, True, False, True, True, False, False, False]
    said = audit(audited)
    assert (said["exact_copies"], said["near_copies"]) == (2, 1)
    assert said["leaks"] == [
        {"of": "copies", "paths": ["0", "1", "7"], "splits": ["train", "val"]},
        {"of": "copies", "paths": ["2", "3"], "splits": ["test", "train"]},
        {"of": "group", "paths": ["2", "4"], "splits": ["train", "val"]},
    ]
    film = np.full(8, "", object)
    film[[2, 5, 7]] = "one film"
    filmed = found.with_columns(film=film)
    assert filmed.leaked.tolist() == [False, True, False, False, False, True, False, False]
    assert {"of": "film", "paths": ["2", "5", "7"], "splits": ["test", "train"]} in audit(filmed)["leaks"]
