"""A manifest that Fanlight wrote, of a run or by `check --out` or `--fix`, as data: the same files, splits, groups and copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fanlight import console
from fanlight.data import manifest as manifests
from fanlight.data.formats.listing import Listing
from fanlight.errors import DataError, RunError


def manifest_file(place: Path) -> Listing | None:
    """The usable rows of a manifest; None where the file is none. What it puts aside stays aside, and is said."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not place.is_file():  # a pipe would be waited for
        return None
    try:
        with open(place, "rb") as file:
            if file.read(4) != b"PAR1":
                return None
        if b"fanlight" not in (pq.read_schema(place).metadata or {}):
            return None
    except (OSError, pa.ArrowException):
        return None  # a table that cannot be read is refused as a list
    try:
        manifest = manifests.load(place)
    except RunError as error:
        raise DataError(str(error)) from None
    rows = manifest.rows()
    if not rows.size:
        raise DataError(f"{place} is a manifest without a usable image; check the data anew")
    if aside := len(manifest) - rows.size:
        console.say(f"{place}: {aside} files that it puts aside are not used")
    of = {
        name: manifest.column(name)[rows]
        for name in ("path", "label", "split", "group", "copies", "film", "weight", "captions", "sha256")
    }
    groups = np.where(of["group"] == of["sha256"], "", of["group"])
    columns = {name: manifest.column(name)[rows].tolist() for name in manifests.SCHEMA.names if name != "captions"}
    return Listing(
        root=manifest.root, source=f"manifest {place.name}", paths=of["path"].tolist(), labels=of["label"].tolist(),
        splits=of["split"].tolist(), groups=groups.tolist(), weights=of["weight"].tolist() if any(of["weight"]) else [],
        captions=of["captions"].tolist() if any(of["captions"]) else [],
        columns={name: list(map(str, values)) for name, values in columns.items()} | {"group": groups.tolist()},
        copies=of["copies"].tolist(), films=of["film"].tolist(),
    )  # fmt: skip
