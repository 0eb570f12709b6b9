"""A manifest that Fanlight wrote, of a run or by `check --out` or `--fix`, as data: the same files, splits, groups and copies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fanlight import console
from fanlight.data import inside
from fanlight.data import manifest as manifests
from fanlight.data.formats import lists
from fanlight.data.formats.listing import SPLIT_OF, Listing
from fanlight.data.manifest import Manifest
from fanlight.errors import DataError, RunError, shown


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
    _check(manifest, place)
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
        splits=[SPLIT_OF.get(word.lower(), "") for word in of["split"]], groups=groups.tolist(),
        weights=of["weight"].tolist() if any(of["weight"]) else [],
        captions=of["captions"].tolist() if any(of["captions"]) else [],
        columns={name: list(map(str, values)) for name, values in columns.items()} | {"group": groups.tolist()},
        copies=of["copies"].tolist(), films=of["film"].tolist(),
    )  # fmt: skip


def _check(manifest: Manifest, place: Path) -> None:
    """DataError for what only an edit by hand, or data that were moved, can have made of a manifest."""
    told = str(place)
    if not (os.path.exists(manifest.root) or inside.outermost(str(manifest.root))):
        raise DataError(
            f"{told} is a manifest of {manifest.root}, which does not exist; where the data were moved, check them again there"
        )
    columns = {name: manifest.column(name).tolist() for name in ("path", "label", "split", "status")}
    if not any(columns["label"]) and any(manifest.column("captions")):
        columns["label"] = []
    lists.check_rows(columns, told=told)
    for number, word in enumerate(columns["status"], 1):
        if word not in ("ok", "quarantined"):
            raise DataError(f"{told}, entry {number}: status {shown(word)!r} is unknown; use ok or quarantined")
    lists.refuse_twice(columns["path"], columns["path"], root=manifest.root, told=told)
