"""Signatures kept in the cache by the hash of the file, so that only new files are decoded again. Parquet."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fanlight.data import cache, canvas
from fanlight.data.audit.signature import SHAPES, VERSION, WHOLE, Signature, Signatures
from fanlight.data.manifest import Manifest, arrow

BLOCK = 4096  # pictures written, and read, at a time
_BINARY = {name: pa.large_binary() for name in SHAPES}


def folder() -> Path:
    return cache.folder() / "audits"


FILES = "files"  # decoded for the signature alone


def signatures_path(manifest: Manifest, *, thorough: bool, source: str = FILES) -> Path:
    """Where the signatures of the data at the manifest's root are kept."""
    place = hashlib.sha256(os.fsencode(manifest.root)).hexdigest()[:24]
    kind = "thorough" if thorough else "quick"
    if source != FILES:
        kind += "-" + hashlib.sha256(source.encode()).hexdigest()[:8]
    return folder() / f"signatures-{place}" / f"{kind}.parquet"


def covers(manifest: Manifest, *, thorough: bool) -> bool:
    """Whether signatures of all usable files are kept: such an audit was made before, and decodes nothing now."""
    try:
        with pq.ParquetFile(signatures_path(manifest, thorough=thorough)) as file:
            if (file.schema_arrow.metadata or {}).get(b"fanlight") != _about(thorough=thorough, source=FILES).encode():
                return False
            known = set(file.read(["sha256"])["sha256"].to_pylist())
    except (OSError, pa.ArrowException, KeyError):
        return False
    return known.issuperset(manifest.column("sha256")[manifest.ok])


def audit_path(manifest: Manifest, *, thorough: bool, version: int, source: str = FILES) -> Path:
    """Named by everything that decides what is found: rows, paths and contents of the usable files, and how it is done."""
    rows = manifest.rows()
    facts = zip(rows.tolist(), manifest.column("path")[rows], manifest.column("sha256")[rows])
    how = f"{version} {_about(thorough=thorough, source=source)}"
    text = f"{how} {len(manifest)}" + "".join(f"\n{row}\t{path}\t{sha}" for row, path, sha in facts)
    return folder() / hashlib.sha256(text.encode()).hexdigest()[:24]


def load(path: Path, pictures: Signatures, *, thorough: bool, source: str = FILES) -> int:
    """Fills in what is kept at `path` of these pictures; returns the next free row of keypoints. A file that is missing,
    damaged or of another version fills nothing."""
    place = {sha: number for number, sha in enumerate(pictures.sha256.tolist())}
    end = 0
    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"fanlight") != _about(thorough=thorough, source=source).encode():
                return 0
            for block in file.iter_batches(BLOCK):
                kept: dict[str, Any] = {name: block.column(name).cast(pa.large_binary()) for name in SHAPES}
                for row, sha in enumerate(block.column("sha256").to_pylist()):
                    if sha in place:
                        one = Signature(
                            **{name: _array(name, column[row].as_buffer()) for name, column in kept.items()}
                        )
                        end = pictures.fill(place[sha], one, start=end)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        pictures.known[:] = False
        return 0
    return end


def save(path: Path, pictures: Signatures, *, thorough: bool, source: str = FILES) -> None:
    """Writes all that is known, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    schema = pa.schema(
        [("sha256", pa.string()), *_BINARY.items()], metadata={"fanlight": _about(thorough=thorough, source=source)}
    )
    known = np.flatnonzero(pictures.known)
    try:
        with pq.ParquetWriter(part, schema, compression="none") as writer:
            for start in range(0, len(known), BLOCK):
                rows = known[start : start + BLOCK]
                columns = [arrow(pictures.sha256[rows], kind=pa.string())]
                columns += [_column(pictures, name, rows) for name in SHAPES]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _about(*, thorough: bool, source: str) -> str:
    about = {"signature": VERSION, "thorough": thorough, "source": source, "decoder": canvas.decoder_version()}
    return json.dumps(about)


def _array(name: str, data: pa.Buffer) -> Any:
    tail, kind = SHAPES[name]
    return np.frombuffer(data, kind).reshape(tail if name in WHOLE else (-1, *tail))


def _column(pictures: Signatures, name: str, rows: np.ndarray) -> pa.Array:
    array = getattr(pictures, name)
    if name in WHOLE:
        pieces = [array[row].tobytes() for row in rows]
    else:
        starts, counts = pictures.starts[rows], pictures.counts[rows]
        pieces = [array[start : start + count].tobytes() for start, count in zip(starts, counts)]
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return pa.Array.from_buffers(
        pa.large_binary(), len(pieces), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))]
    )
