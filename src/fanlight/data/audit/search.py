"""From a manifest to an audit: every picture decoded once and small, candidates found by hashing, each one confirmed.

R rows of the manifest, D different contents ("pictures") of its usable rows, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from fanlight import machine
from fanlight.console import Progress, warn
from fanlight.data import canvas, pending
from fanlight.data.audit import components, frames, judge, result, store
from fanlight.data.audit.result import KINDS, Audit
from fanlight.data.audit.signature import Signature, Signatures, empty, of_canvas, signature
from fanlight.data.manifest import Manifest
from fanlight.errors import FanlightError

MEMORY_SHARE = 0.5  # of what is available, where no other bound is given
CHUNK = 32  # pictures per task of a thread
STILL = 0.98  # correlation of spectra from which even frames of one run are copies


@dataclass(frozen=True)
class Pixels:
    """Canvases that need not be decoded: `read(row)` gives uint8 [h, w, 3], and `source` names what decides them."""

    read: Callable[[int], np.ndarray]
    source: str


def find(
    manifest: Manifest, *, thorough: bool, workers: int, memory_bytes: int | None = None, pixels: Pixels | None = None
) -> Audit:
    """The copies among the usable rows. `thorough`: also those turned by any angle, cropped or zoomed.

    `memory_bytes` bounds the arrays (None: half of what is available); beyond it they lie in temporary files, and work
    is done in several passes. Kept in the cache: an audit of the same files is not made again, and a file that was seen
    before is not decoded again. `pixels`: canvases at hand, so that no file is decoded at all."""
    source = pixels.source if pixels is not None else store.FILES
    kept = store.audit_path(manifest, thorough=thorough, version=result.VERSION, source=source)
    try:
        return result.load(kept)
    except FanlightError:
        pass  # not made yet, or of another version
    memory_bytes = memory_bytes or int(machine.memory_available() * MEMORY_SHARE)
    with (
        threadpoolctl.threadpool_limits(1, user_api="blas"),  # its threads would wait for ours, and ours for them
        ThreadPoolExecutor(workers, thread_name_prefix="audit") as pool,
    ):
        pictures = _pictures(
            manifest, thorough=thorough, workers=workers, memory_bytes=memory_bytes, pool=pool, pixels=pixels
        )
        found = _audit(manifest, pictures, thorough=thorough, memory_bytes=memory_bytes, pool=pool)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        result.save(found, kept)
    except OSError as error:
        why = error.strerror or str(error)
        warn(f"the audit cannot be kept in {kept.parent}", why=why, do="Set FANLIGHT_CACHE to a writable folder")
    return found


def _pictures(
    manifest: Manifest,
    *,
    thorough: bool,
    workers: int,
    memory_bytes: int,
    pool: ThreadPoolExecutor,
    pixels: Pixels | None,
) -> Signatures:
    source = pixels.source if pixels is not None else store.FILES
    rows = manifest.rows()
    hashes, first = np.unique(manifest.column("sha256")[rows].astype(str), return_index=True)
    pictures = empty(hashes.astype(object), thorough=thorough, memory_bytes=memory_bytes // 2)
    path = store.signatures_path(manifest, thorough=thorough, source=source)
    end = store.load(path, pictures, thorough=thorough, source=source)
    missing = np.flatnonzero(~pictures.known)
    if not missing.size:
        return pictures

    def of(places: np.ndarray) -> list[Signature | None]:
        return [_signature(manifest, int(rows[first[place]]), thorough=thorough, pixels=pixels) for place in places]

    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    with Progress("Looking for copies", total=len(missing), unit="images") as progress:
        for places, made in pending.in_order(chunks, lambda chunk: pool.submit(of, chunk), ahead=4 * workers):
            for place, one in zip(places.tolist(), made):
                end = end if one is None else pictures.fill(place, one, start=end)
            progress.advance(len(places))
    try:
        store.save(path, pictures, thorough=thorough, source=source)
    except OSError as error:
        why = error.strerror or str(error)
        warn(f"signatures cannot be kept in {path.parent}", why=why, do="Set FANLIGHT_CACHE to a writable folder")
    return pictures


def _signature(manifest: Manifest, row: int, *, thorough: bool, pixels: Pixels | None) -> Signature | None:
    if pixels is not None:
        return of_canvas(pixels.read(row), thorough=thorough)
    try:
        return signature(manifest.read(row), thorough=thorough)
    except canvas.Unreadable:
        return None  # the scan quarantines it once it decodes it; an audit is no reason to stop


def _audit(
    manifest: Manifest, pictures: Signatures, *, thorough: bool, memory_bytes: int, pool: ThreadPoolExecutor
) -> Audit:
    rows = manifest.rows()
    hashes, paths = manifest.column("sha256"), manifest.column("path")
    rows = rows[np.argsort(paths[rows], kind="stable")]  # in path order, so that the first of a group names it
    _, first, picture_R = np.unique(hashes[rows].astype(str), return_index=True, return_inverse=True)
    pairs = judge.copies(
        manifest, pictures, rows[first], thorough=thorough, memory_bytes=memory_bytes - pictures.bytes, pool=pool
    )
    film, likeness = frames.runs(paths[rows].tolist(), pictures.colours[picture_R])
    run_R = np.full(len(rows), -1)
    for number, places in enumerate(film):
        run_R[places] = number
    is_still = (pairs.evidence >= STILL) & (
        pairs.kind != KINDS.index("turned")
    )  # a moving camera's frames are turned, too
    is_copy = is_still | ~_share_a_run(pairs.both, run_R, picture_R, count=len(pictures))
    both, kind, evidence = pairs.both[is_copy], pairs.kind[is_copy], pairs.evidence[is_copy]
    group_D = components.grow(both, is_strong=pairs.is_strong[is_copy], count=len(pictures))
    together = group_D[both[:, 0]] == group_D[both[:, 1]]  # pairs without support are not reported either
    both, kind, evidence = both[together], kind[together], evidence[together]

    again = np.setdiff1d(np.arange(len(rows)), first)
    films = [np.stack([places[:-1], places[1:]], 1) for places in film]
    places_P2 = np.concatenate([np.stack([first[picture_R[again]], again], 1), first[both], *films])
    row_a, row_b = np.sort(rows[places_P2], axis=1).T
    kinds = [np.full(len(again), KINDS.index("bytes")), kind, np.full(sum(map(len, films)), KINDS.index("frame"))]
    evidences = [np.ones(len(again)), evidence, *likeness]
    component, names = _named(group_D[picture_R], rows, hashes, count=len(manifest))
    run, run_names = _named(
        np.where(run_R >= 0, run_R, len(film) + np.arange(len(rows))), rows, hashes, count=len(manifest)
    )
    judged = np.zeros(len(manifest), bool)
    judged[rows] = pictures.has_structure[picture_R]
    order = np.lexsort((row_b, row_a, np.concatenate(kinds)))
    return Audit(
        row_a=row_a[order],
        row_b=row_b[order],
        kind=np.concatenate(kinds).astype(np.int8)[order],
        evidence=np.concatenate(evidences).astype(np.float64)[order],
        component=component,
        names=names,
        run=run,
        run_names=run_names,
        judged=judged,
        unjudged=int((~judged[rows]).sum()),
        thorough=thorough,
        near_limit=pairs.near_limit,
        capped=pairs.capped,
    )


def _share_a_run(both: np.ndarray, run_R: np.ndarray, picture_R: np.ndarray, *, count: int) -> np.ndarray:
    """bool [P]: the two are frames of one run. A picture that stands in several places is of its first run."""
    run_D = np.full(count, -1)
    run_D[picture_R[::-1]] = run_R[::-1]
    return (run_D[both[:, 0]] == run_D[both[:, 1]]) & (run_D[both[:, 0]] >= 0)


def _named(
    group_R: np.ndarray, rows: np.ndarray, hashes: np.ndarray, *, count: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 [count] by manifest row, -1 for what is alone, and the names: the hash of each group's first member. `rows` are
    in path order, and groups are numbered in the order of their first members."""
    _, first, back, sizes = np.unique(group_R, return_index=True, return_inverse=True, return_counts=True)
    large = np.flatnonzero(sizes > 1)
    large = large[np.argsort(first[large])]
    number = np.full(len(sizes), -1)
    number[large] = np.arange(len(large))
    found = np.full(count, -1)
    found[rows] = number[back]
    return found, tuple(str(hashes[rows[first[group]]]) for group in large)
