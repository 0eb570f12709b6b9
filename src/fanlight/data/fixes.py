"""What `check --fix` changes: a new manifest, never the user's files. Rows that would make a false result are put aside with
the reason; nothing is moved, renamed or relabelled."""

from collections import Counter

from fanlight.data.families import families
from fanlight.data.manifest import SPLITS, Manifest, together
from fanlight.errors import DataError

RELATION = {"copies": "copy of", "film": "frame of one film with", "group": "of one group with"}


def fix(manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The manifest without the copies that contradict, and without what leaks, and what was done, as sentences.

    Of copies under several classes those of the class that has more than half of them stay, else none. Of copies, frames of a
    film or a given group in several given splits those in test stay, else those in val. What stays and belongs together is
    one group from then on."""
    conflicts = _conflicts(manifest)
    without = manifest.quarantine(conflicts)
    leaks = _leaks(without)
    found = without.quarantine(leaks)
    if not found.ok.any():
        raise DataError(
            f"--fix: all {int(manifest.ok.sum())} images would be left out, because copies of them are filed under several "
            "classes; look at them with --report, and decide by hand"
        )
    if gone := sorted(_trained(without) - _trained(found)):
        raise DataError(
            f"--fix: no image of class {gone[0]} would be left in train, because all have copies, or others of their film or "
            "group, in val or test; leave the splits out, and Fanlight makes them"
        )
    rows = found.rows()
    names, family_R = families(found, rows)
    group = found.column("group").copy()
    group[rows] = names[family_R]
    joined = int((group != found.column("group")).sum())
    said = []
    if conflicts:
        said.append(f"{len(conflicts)} images left out, because copies of them are filed under another class")
    if leaks:
        said.append(
            f"{len(leaks)} images left out of train or val, because copies of them, or others of their film or group, are in "
            "val or test"
        )
    if joined:
        said.append(
            f"{joined} images put into the groups of their copies or films, so that any split keeps those together"
        )
    return found.with_columns(group=group), said or ["nothing had to be changed"]


def _trained(manifest: Manifest) -> set[str]:
    """Classes that have an image in a given train."""
    return set(manifest.column("label")[manifest.rows("train")].tolist())


def _conflicts(manifest: Manifest) -> dict[int, str]:
    """Row -> why, of the copies whose class is not that of most."""
    labels, paths = manifest.column("label"), manifest.column("path")
    aside: dict[int, str] = {}
    for kind, rows in together(manifest):
        (name, count), *others = Counter(labels[rows].tolist()).most_common()
        if kind != "copies" or not others:
            continue
        kept = name if count * 2 > len(rows) else None
        for row in rows[labels[rows] != kept].tolist():
            other = next(each for each in rows.tolist() if labels[each] != labels[row])
            aside[row] = f"copy of {paths[other]}, which is filed under {labels[other]}"
    return aside


def _leaks(manifest: Manifest) -> dict[int, str]:
    """Row -> why, of the rows outside the last split that has one they belong together with; rows without a given split
    follow no rule."""
    splits, paths = manifest.column("split"), manifest.column("path")
    aside: dict[int, str] = {}
    for kind, rows in together(manifest):
        given = [row for row in rows.tolist() if row not in aside and splits[row] in SPLITS]
        if len({splits[row] for row in given}) < 2:
            continue
        kept = max((splits[row] for row in given), key=SPLITS.index)
        example = next(row for row in given if splits[row] == kept)
        why = f"{RELATION[kind]} {paths[example]} in {kept}"
        aside |= {row: why for row in given if splits[row] != kept}
    return aside
