"""What the data is: one row per file, with its label, split, group, size, hash and whether it can be used.

A Manifest is a frozen value over one Arrow table, so that 87,000 rows are a few arrays and not a million objects.
"""

import errno
import hashlib
import json
import os
import stat
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fanlight.data import inside
from fanlight.errors import DataError, RunError

SPLITS = ("train", "val", "test")
TOGETHER = ("sha256", "copies", "film", "group")  # rows that share a value of one of these belong into one split
VERSION = 4  # of the columns below; files of another version are refused
SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the root, with forward slashes
        ("label", pa.string()),
        ("split", pa.string()),  # train, val, test, or empty where the data gives none
        ("group", pa.string()),  # rows of one group stay in one split; the file's hash where the data gives none
        (
            "copies",
            pa.string(),
        ),  # names the rows that show one picture, as an audit found; empty where it found no other
        (
            "film",
            pa.string(),
        ),  # names the rows that are frames of one film, as an audit found; empty where it found none
        ("captions", pa.string()),  # JSON list of sentences; empty where the data gives none
        ("weight", pa.string()),  # as a list file says it, read when sampling asks; empty where the data gives none
        ("width", pa.int32()),  # pixels after EXIF orientation; 0 where unreadable
        ("height", pa.int32()),
        ("format", pa.string()),  # by the bytes, not by the name
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("sha256", pa.string()),
        ("status", pa.string()),  # ok or quarantined
        ("reason", pa.string()),  # why quarantined
        ("decoded", pa.bool_()),  # whether the whole file was decoded, not only its header
    ]
)


@dataclass(frozen=True, eq=False)
class Manifest:
    """Records of a data set. Row numbers are positions in `table`, quarantined rows included."""

    root: Path  # absolute; the paths are relative to it
    table: pa.Table
    classes: tuple[str, ...]  # sorted; an index into it is the label that models see
    source: str  # where the labels came from, in words

    @classmethod
    def of(cls, table: pa.Table, *, root: Path, source: str) -> "Manifest":
        """A manifest whose classes are the labels of its usable rows, in plain order; none where they have captions only."""
        table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        rows = zip(table["label"].to_pylist(), table["status"].to_pylist())
        classes = tuple(sorted({label for label, status in rows if status == "ok" and label}))
        return cls(root=root, table=table, classes=classes, source=source)

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def ok(self) -> np.ndarray:
        """bool [rows]: can be used."""
        return self.column("status") == "ok"

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [rows]: index into `classes`, -1 for quarantined rows."""
        index = {name: number for number, name in enumerate(self.classes)}
        found = [index.get(name, -1) for name in self.table["label"].to_pylist()]
        return np.where(self.ok, np.array(found, np.int64), -1)

    @cached_property
    def is_captioned(self) -> bool:
        """Whether it has sentences in place of classes."""
        return not self.classes and bool(self.captioned.any())

    @cached_property
    def captioned(self) -> np.ndarray:
        """bool [rows]: usable, and with a sentence at least."""
        return self.ok & ~np.isin(self.column("captions"), ("", "[]"))

    @cached_property
    def fingerprint(self) -> str:
        """Names the data set: sha256 over path, label, split and sha256 of the usable rows, in their order, and over their
        weights and captions where the data gives any."""
        names = ["path", "label", "split", "sha256"]
        names += [name for name in ("weight", "captions") if (self.column(name) != "").any()]
        columns = [self.column(name)[self.ok] for name in names]
        return hashlib.sha256("\n".join("\t".join(row) for row in zip(*columns)).encode()).hexdigest()

    @cached_property
    def leaked(self) -> np.ndarray:
        """bool [rows]: a usable row of val or test with a copy, by its bytes or as an audit found, a frame of its film, or a
        row of its own group, in train: a score over such rows says what was learned by heart."""
        leaked = np.zeros(len(self), bool)
        others = np.flatnonzero(self.ok & np.isin(self.column("split"), ("val", "test")))
        train = self.rows("train")
        for name in TOGETHER if others.size and train.size else ():
            column = self.column(name)
            known = set(column[train]) - {""}
            leaked[others] |= np.fromiter((value in known for value in column[others]), bool, others.size)
        return leaked

    def rows(self, split: str | None = None) -> np.ndarray:
        """int64: the usable rows, of one split or of all."""
        return np.flatnonzero(self.ok if split is None else self.ok & (self.column("split") == split))

    def column(self, name: str) -> np.ndarray:
        """One column; strings come as objects."""
        return np.array(self.table[name].to_pylist(), _dtype(SCHEMA.field(name).type))

    def path(self, row: int) -> Path:
        return self.root / self.table["path"][int(row)].as_py()

    def read(self, row: int) -> bytes:
        """The file's bytes, or a DataError that names it."""
        path = self.path(row)
        try:
            return read_file(path)
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}. It changed since it was checked; run `fanlight check` again"
            ) from None

    def with_columns(self, **arrays: Any) -> "Manifest":
        """A copy with some columns replaced; the classes follow where labels or status change."""
        table = self.table
        for name, values in arrays.items():
            field = SCHEMA.field(name)
            table = table.set_column(SCHEMA.get_field_index(name), field, arrow(values, kind=field.type))
        if arrays.keys() & {"label", "status"}:
            return Manifest.of(table, root=self.root, source=self.source)
        return replace(self, table=table)

    def take(self, rows: np.ndarray) -> "Manifest":
        """These rows only. Classes stay, so that a label means the same in a part as in the whole."""
        return replace(self, table=self.table.take(arrow(rows, kind=pa.int64())).combine_chunks())

    def quarantine(self, rows: dict[int, str]) -> "Manifest":
        """A copy in which these rows are not used any more: {row: reason}."""
        status, reason = self.column("status").copy(), self.column("reason").copy()
        for row, why in rows.items():
            status[row], reason[row] = "quarantined", why
        return self.with_columns(status=status, reason=reason)

    def changed(self) -> list[str]:
        """Paths whose size or time of change differs from the files now; vanished files too."""
        facts = zip(*(self.table[name].to_pylist() for name in ("path", "bytes", "mtime_ns")))
        return [path for path, size, mtime_ns in facts if file_state(self.root / path) != (size, mtime_ns)]

    def save(self, path: Path) -> None:
        """Writes Parquet, whole or not at all."""
        import pyarrow.parquet as pq

        about = {"version": VERSION, "root": str(self.root), "classes": self.classes, "source": self.source}
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            pq.write_table(self.table.replace_schema_metadata({"fanlight": json.dumps(about)}), part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def load(path: Path) -> Manifest:
    """The manifest that `save` wrote, or a RunError with the way out."""
    import pyarrow.parquet as pq

    again = "write it again with `fanlight check`"
    try:
        table = pq.ParquetFile(path).read().combine_chunks()
        about = json.loads((table.schema.metadata or {})[b"fanlight"])
        if about["version"] != VERSION:
            raise RunError(f"{path} is a manifest of version {about['version']!r}, not {VERSION}; {again}")
        if lacking := [name for name in SCHEMA.names if name not in table.column_names]:
            raise RunError(f"{path} is a manifest without the column {lacking[0]}; {again}")
        root, classes = Path(about["root"]), tuple(about["classes"])
        return Manifest(root=root, table=_typed(table, path, again=again), classes=classes, source=about["source"])
    except OSError as error:
        raise RunError(f"cannot read manifest {path}: {error.strerror or error}; {again}") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        raise RunError(f"{path} is not a manifest of Fanlight; {again}") from None


def _typed(table: pa.Table, path: Path, *, again: str) -> pa.Table:
    """The columns of the schema, which another program may have written with nulls, or as numbers."""
    columns = []
    for field in SCHEMA:
        column = table[field.name]
        if column.null_count:
            raise RunError(
                f"{path}: {column.null_count} cells of the column {field.name} are null; write an empty text for none, or {again}"
            )
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException:
            raise RunError(
                f"{path}: the column {field.name} is {column.type}, and its values are no {field.type}; {again}"
            ) from None
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def table_of(columns: dict[str, Any]) -> pa.Table:
    """A table of the schema from sequences or arrays, one per column."""
    return pa.Table.from_arrays([arrow(columns[field.name], kind=field.type) for field in SCHEMA], schema=SCHEMA)


def arrow(values: Any, *, kind: pa.DataType) -> pa.Array:
    """What `pa.array` makes of strings, integers or booleans without nulls. That imports pandas, half a second, to ask
    whether the values are a Series; so do `to_numpy` and scalars in `pyarrow.compute`."""
    if pa.types.is_string(kind):
        texts = [str(value).encode() for value in values]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.Array.from_buffers(kind, len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))])
    plain = np.ascontiguousarray(values, _dtype(kind))
    bits = np.packbits(plain, bitorder="little") if pa.types.is_boolean(kind) else plain
    return pa.Array.from_buffers(kind, len(plain), [None, pa.py_buffer(bits)])


def _dtype(kind: pa.DataType) -> Any:
    return object if pa.types.is_string(kind) else bool if pa.types.is_boolean(kind) else np.dtype(str(kind))


def read_file(path: Path | str) -> bytes:
    """The bytes of a regular file, or of a file inside one (`photos.zip/cats/1.jpg`). OSError for everything else: a pipe
    would be waited for, a device has no end."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except NotADirectoryError:  # the path goes through a file
        return inside.read(os.fspath(path))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def file_state(path: Path | str) -> tuple[int, int]:
    """(bytes, mtime_ns) of a file now, for one inside an archive with the archive's time; (0, 0) where there is none."""
    try:
        state = os.stat(path)
    except NotADirectoryError:
        try:
            return inside.state(os.fspath(path))
        except (OSError, DataError):  # DataError: the archive is damaged now
            return (0, 0)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return (0, 0)
    return (state.st_size, state.st_mtime_ns)


def audit(manifest: Manifest) -> dict[str, Any]:
    """What is suspicious about the usable rows: copies, copies with different labels, and what stands in several splits.

    `exact_copies` counts the images beyond the first of each group of equal bytes, `near_copies` those beyond the first of
    each group that an audit found, and that equal bytes do not explain; `leaks` has the copies, films and given groups whose
    rows are in several splits; `imbalance` is the largest class over the smallest."""
    paths, labels, splits = (manifest.column(name) for name in ("path", "label", "split"))
    exact = _alike(manifest, manifest.column("sha256"))
    sets = together(manifest)
    copies = [rows for kind, rows in sets if kind == "copies"]
    labels_R = manifest.labels[manifest.rows()]
    counts = np.bincount(labels_R[labels_R >= 0], minlength=1)  # -1: captions without classes
    exact_copies = sum(len(rows) - 1 for rows in exact)
    conflicts = [(rows, _values(labels, rows)) for rows in copies]
    leaks = [(kind, rows, _values(splits, rows)) for kind, rows in sets]
    return {
        "exact_copies": exact_copies,
        "near_copies": sum(len(rows) - 1 for rows in copies) - exact_copies,
        "copy_groups": [paths[rows].tolist() for rows in copies],
        "label_conflicts": [
            {"paths": paths[rows].tolist(), "labels": found} for rows, found in conflicts if len(found) > 1
        ],
        "leaks": [
            {"of": kind, "paths": paths[rows].tolist(), "splits": found}
            for kind, rows, found in leaks
            if len(found) > 1
        ],
        "imbalance": float(counts.max() / max(counts.min(), 1)),
    }


def together(manifest: Manifest) -> list[tuple[str, np.ndarray]]:
    """Usable rows, two or more, that belong into one split, and as what: `copies` of one picture, frames of a `film`, a given
    `group`. Rows that are several of these at once are named as the first."""
    hashes, copies, group = (manifest.column(name) for name in ("sha256", "copies", "group"))
    keys = {
        "copies": np.where(copies == "", hashes, copies),
        "film": manifest.column("film"),
        "group": np.where(group == hashes, "", group),  # the data gave none
    }
    found: dict[bytes, tuple[str, np.ndarray]] = {}
    for kind, key in keys.items():
        for rows in _alike(manifest, key):
            found.setdefault(rows.tobytes(), (kind, rows))
    return list(found.values())


def _alike(manifest: Manifest, keys: np.ndarray) -> list[np.ndarray]:
    """Usable rows with equal keys, two or more, in the order of their first; an empty key is none."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in manifest.rows().tolist():
        groups[keys[row]].append(row)
    groups.pop("", None)
    return [np.array(rows) for rows in groups.values() if len(rows) > 1]


def _values(column: np.ndarray, rows: np.ndarray) -> list[str]:
    """The different texts of these rows, sorted, without the empty one."""
    return sorted(set(column[rows].tolist()) - {""})
