"""What `check --fix` changes: a new manifest, never the user's files. Rows that would make a false result are put aside with
the reason; nothing is moved, renamed or relabelled."""

from collections import Counter

import numpy as np

from fanlight.data.manifest import SPLITS, Manifest
from fanlight.errors import DataError


def fix(manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The manifest without the copies that contradict or leak, and what was done, as sentences.

    Of copies under several classes those of the class that has more than half of them stay, else none. Of copies in several
    given splits those in test stay, else those in val. Copies that stay are one group from then on."""
    pictures = _pictures(manifest)
    conflicts = _conflicts(manifest, pictures)
    found = manifest.quarantine(conflicts)
    leaks = _leaks(found, pictures)
    found = found.quarantine(leaks)
    group, copies = found.column("group").copy(), found.column("copies")
    is_own = group == found.column("sha256")  # the data gave none
    group[is_own & (copies != "")] = copies[is_own & (copies != "")]
    joined = int((group != found.column("group")).sum())
    if not found.ok.any():
        raise DataError(
            f"--fix: all {int(manifest.ok.sum())} images would be left out, because copies of them are filed under several "
            "classes; look at them with --report, and decide by hand"
        )
    said = []
    if conflicts:
        said.append(f"{len(conflicts)} images left out, because copies of them are filed under another class")
    if leaks:
        said.append(f"{len(leaks)} images left out of train or val, because copies of them are in val or test")
    if joined:
        said.append(f"{joined} images put into the groups of their copies, so that any split keeps those together")
    return found.with_columns(group=group), said or ["nothing had to be changed"]


def _pictures(manifest: Manifest) -> list[np.ndarray]:
    """Usable rows that show one picture, two or more of each."""
    copies = manifest.column("copies")
    keys = np.where(copies == "", manifest.column("sha256"), copies)
    found: dict[str, list[int]] = {}
    for row in manifest.rows().tolist():
        found.setdefault(keys[row], []).append(row)
    return [np.array(rows) for rows in found.values() if len(rows) > 1]


def _conflicts(manifest: Manifest, pictures: list[np.ndarray]) -> dict[int, str]:
    """Row -> why, of the copies whose class is not that of most."""
    labels, paths = manifest.column("label"), manifest.column("path")
    aside: dict[int, str] = {}
    for rows in pictures:
        (name, count), *others = Counter(labels[rows].tolist()).most_common()
        if not others:
            continue
        kept = name if count * 2 > len(rows) else None
        for row in rows[labels[rows] != kept].tolist():
            other = next(each for each in rows.tolist() if labels[each] != labels[row])
            aside[row] = f"copy of {paths[other]}, which is filed under {labels[other]}"
    return aside


def _leaks(manifest: Manifest, pictures: list[np.ndarray]) -> dict[int, str]:
    """Row -> why, of the usable copies outside the last split that has one; rows without a given split follow no rule."""
    splits, paths = manifest.column("split"), manifest.column("path")
    aside: dict[int, str] = {}
    for rows in pictures:
        given = [row for row in rows.tolist() if manifest.ok[row] and splits[row] in SPLITS]
        if len({splits[row] for row in given}) < 2:
            continue
        kept = max((splits[row] for row in given), key=SPLITS.index)
        example = next(row for row in given if splits[row] == kept)
        aside |= {row: f"copy of {paths[example]} in {kept}" for row in given if splits[row] != kept}
    return aside
