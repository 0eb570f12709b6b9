"""Tables of text: CSV, TSV, JSON lines, JSON and Parquet, told apart by their bytes. Column name -> values."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from fanlight.data.formats.listing import WAYS
from fanlight.errors import DataError, shown

Table = dict[str, list[str]]


def read(data: bytes, *, told: str) -> Table:
    """Columns in lower case, values as stripped text: empty where there is none, lists as JSON. DataError that names
    `told`."""
    try:
        if data.startswith(b"PAR1"):
            return parquet(io.BytesIO(data), told=told)
        text = data.decode("utf-8-sig")
        if text.lstrip()[:1] in ("{", "["):
            return _json(text, told=told)
        heading = text.partition("\n")[0]
        delimiter = max("\t;,|", key=heading.count) if any(mark in heading for mark in "\t;,|") else ","
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except (ValueError, RecursionError, csv.Error) as error:  # also UnicodeDecodeError
        raise DataError(f"{told} is not a list file ({error}). {WAYS}") from None
    head = [name.strip().lower() for name in rows.pop(0)] if rows else []
    _refuse_twice(head, told=told)
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise DataError(
                f"{told}, entry {number}: {len(row)} fields where the first line has {len(head)}: {shown(', '.join(row[:4]))!r}; "
                f"a field that has {delimiter!r} in it needs quotation marks around it"
            )
    return {name: [row[column].strip() for row in rows] for column, name in enumerate(head)}


def parquet(file: Any, *, told: str) -> Table:
    """Plain columns of a Parquet table; whole numbers that the Hugging Face hub knows names of become those. ValueError
    where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        plain = [field.name for field in table.schema_arrow if not pa.types.is_struct(field.type)]
        names = class_names(table.schema_arrow)
        columns = table.read(columns=plain).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    _refuse_twice([str(name).strip().lower() for name in columns], told=told)
    found = {}
    for name, values in columns.items():
        of_class = names.get(name, [])
        found[str(name).strip().lower()] = [
            of_class[value] if isinstance(value, int) and 0 <= value < len(of_class) else _text(value)
            for value in values
        ]
    return found


def class_names(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, as the hub's `datasets` writes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(map(str, about["names"])) for name, about in features.items() if "names" in about}
    except (KeyError, TypeError, ValueError):
        return {}


def _json(text: str, *, told: str) -> Table:
    """One object per line, or a list of objects. A text may hold any other end of a line, such as U+2028."""
    if text.lstrip().startswith("["):
        rows = json.loads(text, object_pairs_hook=_object)
    else:
        rows = [
            json.loads(line, object_pairs_hook=_object) for line in text.replace("\r", "\n").split("\n") if line.strip()
        ]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{told}, entry {number}: {str(row)[:40]!r} is no JSON object with names and values")
    names = dict.fromkeys(name for row in rows for name in row)
    _refuse_twice([name.strip().lower() for name in names], told=told)
    return {name.strip().lower(): [_text(row.get(name)) for row in rows] for name in names}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """ValueError where a key is there twice, of which JSON would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {shown(next(name for name in names if names.count(name) > 1))!r} is twice in one object"
        )
    return found


def _refuse_twice(names: list[str], *, told: str) -> None:
    """`Label` and `label` are one column."""
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{told} has several columns {shown(twice[0])!r}; keep one of them")


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value).strip()
