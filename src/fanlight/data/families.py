"""Families: rows that belong on one side of a split, as they are linked by their bytes, a picture, a film or a given group.

R rows, G families."""

import numpy as np

from fanlight.data.manifest import TOGETHER, Manifest


def families(manifest: Manifest, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of G families and, int64 [R], the family of each of these rows.

    A name is the smallest group that the data gave to a member, else the smallest content hash: neither follows the order of
    files or their paths."""
    group_R, hash_R = manifest.column("group")[rows], manifest.column("sha256")[rows]
    family_R = linked(*(np.where((of := manifest.column(name)[rows]) == "", hash_R, of) for name in TOGETHER))
    is_given_R = group_R != hash_R
    names: dict[int, tuple[bool, str]] = {}
    for family, is_given, group in zip(family_R.tolist(), is_given_R.tolist(), group_R):
        name = (not is_given, group)
        if family not in names or name < names[family]:
            names[family] = name
    return np.array([names[family][1] for family in range(len(names))], object), family_R


def linked(*columns: np.ndarray) -> np.ndarray:
    """int64 [R] from 0: equal for rows that a chain of equal texts in some column links."""
    links = [_codes(texts) for texts in columns]
    found_R = links[0]
    while True:  # the lowest number spreads over what is linked until it stays
        before_R = found_R
        for code_R in links:
            lowest = np.full(code_R.max(initial=-1) + 1, len(code_R))
            np.minimum.at(lowest, code_R, found_R)
            found_R = lowest[code_R]
        if (found_R == before_R).all():
            return np.unique(found_R, return_inverse=True)[1]


def _codes(texts: np.ndarray) -> np.ndarray:
    """A number per text, equal where the texts are; `np.unique` would compare texts n log n times."""
    code: dict[str, int] = {}
    return np.array([code.setdefault(name, len(code)) for name in texts], np.int64)
