"""What an audit found: pairs, groups of copies, runs of frames. R rows of the manifest, P pairs, G groups."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fanlight.data.manifest import arrow
from fanlight.errors import RunError

KINDS = ("bytes", "pixels", "near", "turned", "frame")
VERSION = 3  # of what is found and how; audits of another version are made again


@dataclass(frozen=True, eq=False)
class Audit:
    """Row numbers are those of the manifest that was audited."""

    row_a: np.ndarray  # int64 [P], below row_b
    row_b: np.ndarray
    kind: np.ndarray  # int8 [P], index into KINDS
    evidence: (
        np.ndarray
    )  # float64 [P], to 1: of near the correlation of spectra, of turned that of pixels, of frame likeness
    component: np.ndarray  # int64 [R], group of copies, -1 alone
    names: tuple[str, ...]  # of G groups: sha256 of the member that comes first in path order
    run: np.ndarray  # int64 [R], run of frames, -1 in none
    run_names: tuple[str, ...]
    judged: np.ndarray  # bool [R]: usable, and enough to be seen in it for copies with other pixels to be found
    unjudged: int  # usable pictures with too little in them, such as plain black ones
    thorough: bool
    near_limit: float  # 1 - correlation, calibrated on the data set
    capped: int  # entries of buckets too large for all pairs; their neighbours were compared

    def counts(self) -> dict[str, int]:
        """Pairs by kind."""
        return {name: int((self.kind == number).sum()) for number, name in enumerate(KINDS)}

    def groups(self) -> list[np.ndarray]:
        """Rows of every group of copies, in the groups' order."""
        return _members(self.component, len(self.names))

    def runs(self) -> list[np.ndarray]:
        """Rows of every run of frames, in the runs' order."""
        return _members(self.run, len(self.run_names))

    def copies(self) -> np.ndarray:
        """str [R]: the group's name, empty where a picture has no copy; for the manifest's column."""
        names = np.array([*self.names, ""], object)
        return names[self.component]

    def films(self) -> np.ndarray:
        """str [R]: the run's name, empty where a picture is in none; for the manifest's column."""
        names = np.array([*self.run_names, ""], object)
        return names[self.run]


def _members(group_R: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(group_R, kind="stable")
    return np.split(order, np.searchsorted(group_R[order], np.arange(count + 1)))[1:-1] if count else []


def save(audit: Audit, folder: Path) -> None:
    """`rows.parquet` and `pairs.parquet` in `folder`, whole or not at all."""
    about: dict[str, Any] = {"version": VERSION, "thorough": audit.thorough}
    about |= {"near_limit": audit.near_limit, "capped": audit.capped, "unjudged": audit.unjudged}
    about |= {"names": audit.names, "run_names": audit.run_names}
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    try:
        for name, columns in _TABLES.items():
            arrays = [arrow(getattr(audit, column), kind=kind) for column, kind in columns.items()]
            table = pa.Table.from_arrays(arrays, names=list(columns))
            pq.write_table(table.replace_schema_metadata({"fanlight": json.dumps(about)}), part / f"{name}.parquet")
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(folder: Path) -> Audit:
    """What `save` wrote, or a RunError with the way out."""
    again = "make it again with `fanlight check`"
    arrays: dict[str, Any] = {}
    try:
        for name, columns in _TABLES.items():
            table = pq.ParquetFile(folder / f"{name}.parquet").read()
            about = json.loads((table.schema.metadata or {})[b"fanlight"])
            if about.pop("version") != VERSION:
                raise RunError(f"{folder} is an audit of another version; {again}")
            for column, kind in columns.items():
                arrays[column] = np.array(
                    table[column].to_pylist(), np.dtype("bool" if kind == pa.bool_() else str(kind))
                )
        about |= {name: tuple(about[name]) for name in ("names", "run_names")}
        return Audit(**arrays, **about)
    except OSError as error:
        raise RunError(f"cannot read audit {folder}: {error.strerror or error}; {again}") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        raise RunError(f"{folder} is not an audit of Fanlight; {again}") from None


_TABLES = {
    "rows": {"component": pa.int64(), "run": pa.int64(), "judged": pa.bool_()},
    "pairs": {"row_a": pa.int64(), "row_b": pa.int64(), "kind": pa.int8(), "evidence": pa.float64()},
}
