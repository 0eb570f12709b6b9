"""From a listing to a manifest: every file read once, in parallel; bad ones are quarantined by name.

Files whose size and time of change are as in an earlier manifest are not read again.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fanlight import machine
from fanlight.console import Progress, warn
from fanlight.data import pending
from fanlight.data.canvas import Unreadable, header, to_canvas
from fanlight.data.formats import Listing
from fanlight.data.manifest import Manifest, file_state, read_file, table_of
from fanlight.errors import DataError, shown

CHUNK_FILES = 64  # files per task of a thread
FACTS = ("width", "height", "format", "bytes", "mtime_ns", "sha256", "status", "reason", "decoded")
NOTHING: dict[str, Any] = dict(zip(FACTS, (0, 0, "", 0, 0, "", "quarantined", "", False)))


def scan(
    listing: Listing,
    *,
    known: Manifest | None = None,
    workers: int | None = None,
    decode: bool = False,
    canvas_px: int = 256,
) -> Manifest:
    """Looks at every listed file with `workers` threads (None: four per usable core, since files are waited for).

    `decode` also makes every image's canvas, which finds files that break off after a good header. DataError where no
    image is left."""
    earlier = _earlier(known, listing=listing)
    chunks = [listing.paths[start : start + CHUNK_FILES] for start in range(0, len(listing.paths), CHUNK_FILES)]

    def examine_chunk(paths: list[str]) -> list[dict[str, Any]]:
        return [_examine(listing.root, path, earlier.get(path), decode=decode, canvas_px=canvas_px) for path in paths]

    facts: list[dict[str, Any]] = []
    workers = workers or min(32, 4 * machine.cores_usable())
    with (
        Progress("Checking images", total=len(listing.paths), unit="files") as progress,
        ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool,
    ):
        for _, found in pending.in_order(chunks, lambda chunk: pool.submit(examine_chunk, chunk), ahead=2 * workers):
            facts += found
            progress.advance(len(found))
    return _manifest(listing, facts)


def _earlier(known: Manifest | None, *, listing: Listing) -> dict[str, dict[str, Any]]:
    if known is None or known.root != listing.root:
        return {}
    names = known.table["path"].to_pylist()
    return dict(zip(names, known.table.select(FACTS).to_pylist()))


def _examine(root: Path, path: str, before: dict[str, Any] | None, *, decode: bool, canvas_px: int) -> dict[str, Any]:
    """What a file is, now. An earlier finding stands while the file is unchanged, unless it was not decoded and should
    be now."""
    size, mtime_ns = file_state(root / path)
    is_same = before and before["sha256"] and (before["bytes"], before["mtime_ns"]) == (size, mtime_ns)
    if before and is_same and (before["decoded"] or before["status"] != "ok" or not decode):
        return before
    try:
        data = read_file(root / path)
    except (FileNotFoundError, ValueError):  # ValueError: a name with a zero byte
        return NOTHING | {"reason": "file not found"}
    except OSError as error:
        return NOTHING | {"reason": f"cannot be read: {error.strerror}", "bytes": size, "mtime_ns": mtime_ns}
    facts = NOTHING | {"bytes": size, "mtime_ns": mtime_ns, "sha256": hashlib.sha256(data).hexdigest()}
    try:
        head = header(data)
        facts |= {"width": head.width, "height": head.height, "format": head.format}
        if decode:
            to_canvas(data, canvas_px)
    except Unreadable as error:
        return facts | {"reason": error.reason}
    return facts | {"status": "ok", "decoded": decode}


def _manifest(listing: Listing, facts: list[dict[str, Any]]) -> Manifest:
    if not any(found["status"] == "ok" for found in facts):
        first = f"{listing.paths[0]}: {facts[0]['reason']}" if facts else "it lists no files"
        way = "Give a folder with one folder of images per class"
        if listing.captions:
            way = "Put the images that the captions name where they are looked for, as files that can be read"
        raise DataError(f"none of the {len(facts)} files of {listing.root} can be used ({first}). {way}")
    _warn_of_lost_classes(listing, facts)
    groups = [group or found["sha256"] for group, found in zip(listing.groups, facts)]
    columns: dict[str, list[Any]] = {
        "path": listing.paths,
        "label": listing.labels,
        "split": listing.splits,
        "group": groups,
        "copies": listing.copies or [""] * len(listing.paths),
        "film": listing.films or [""] * len(listing.paths),
        "captions": listing.captions or [""] * len(listing.paths),
        "weight": listing.weights or [""] * len(listing.paths),
    }
    columns |= {name: [found[name] for found in facts] for name in FACTS}
    return Manifest.of(table_of(columns), root=listing.root, source=listing.source)


def _warn_of_lost_classes(listing: Listing, facts: list[dict[str, Any]]) -> None:
    left = {label for label, found in zip(listing.labels, facts) if found["status"] == "ok"}
    for label in sorted(set(listing.labels) - left):
        bad = [
            (path, found["reason"]) for path, name, found in zip(listing.paths, listing.labels, facts) if name == label
        ]
        warn(
            f"class {shown(label)} has no image that can be read, and is left out",
            why=f"{len(bad)} file(s), such as {bad[0][0]}: {bad[0][1]}",
            do="Add images, or remove the class",
        )
