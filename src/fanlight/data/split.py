"""Which rows train, which validate, which test. G groups (families), C classes, F folds.

Groups never straddle: copies of one picture, or frames of one film, on both sides would be a false result. A group's side
is a hash of (seed, group) alone, so that it stays when files are added; only where that leaves a class far from its share
do others count. NumPy only.
"""

import hashlib
import heapq
from dataclasses import dataclass

import numpy as np

from fanlight.console import warn
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError

VAL_FRACTION_MAX = 0.9
# Of a class's share of val, less one image: farther off, groups change sides, in 1 of 50 classes of 200 images.
UNEVEN_MOST = 0.35
FAR = 0.5  # of val_fraction, between it and what validation gets: farther is said


@dataclass(frozen=True)
class Families:
    """Rows that must stay together. Family g of G has `size_GC[g]` images of each class; in the order of their hash."""

    family_R: np.ndarray  # family of each row of the pool
    size_GC: np.ndarray
    label_G: np.ndarray  # majority label; of equals the first class
    uniform_G: np.ndarray  # in [0, 1), ascending: the hash


def assign(manifest: Manifest, *, val_fraction: float, seed: int, folds: int | None = None, fold: int = 0) -> Manifest:
    """Fills `split` of the usable rows; rows without a given split count as train, a given test stays as it is.

    A given val is kept; otherwise whole groups go from train to val: those whose hash is below `val_fraction`, and as many
    more or less as bring each class near that share (within a third of a large one, less of a small one), or as near as
    its groups allow, with at least one group where it has two. With `folds`, train and val are pooled and dealt into
    folds, and val is number `fold`: over all folds every row of the pool is in val exactly once."""
    if folds is None and not 0 < val_fraction <= VAL_FRACTION_MAX:
        raise ConfigError(f"val_fraction {val_fraction} is outside (0, {VAL_FRACTION_MAX}]; try 0.2")
    if folds is not None and not (folds >= 2 and 0 <= fold < folds):
        raise ConfigError(f"fold {fold} of folds={folds}: there must be at least 2 folds, and fold is 0 … folds-1")
    _check_classes(manifest)
    split = manifest.column("split").copy()
    split[(split == "") & manifest.ok] = "train"
    is_pool = manifest.ok & ((split == "train") | ((split == "val") & (folds is not None)))
    pool = np.flatnonzero(is_pool)
    if not pool.size:
        raise DataError(f"{manifest.root} has no images to train on; put some into train, or leave out the splits")
    if folds is None and (manifest.ok & (split == "val")).any():
        return manifest.with_columns(split=split)

    families = _families(manifest, pool, seed=seed)
    if folds is None:
        is_val_G = _carve(manifest, families, val_fraction=val_fraction)
    else:
        is_val_G = _deal(manifest, families, folds=folds) == fold
    split[pool] = np.where(is_val_G[families.family_R], "val", "train")
    return manifest.with_columns(split=split)


def limit(manifest: Manifest, count: int, *, seed: int) -> Manifest:
    """Exactly min(count, usable) usable rows, in proportion by class and given split, at least one to train per class.

    Quarantined rows stay listed. ConfigError where `count` is less than the number of classes."""
    _check_classes(manifest)
    classes = len(manifest.classes)
    if count < classes:
        raise ConfigError(
            f"limit {count} is less than one image for each of {classes} classes; try limit={10 * classes}"
        )
    rows = manifest.rows()
    if count >= rows.size:
        return manifest
    split_R, label_R = manifest.column("split")[rows], manifest.labels[rows]
    rank_R = np.select([split_R == "val", split_R == "test"], [1, 2], default=0)
    strata, stratum_R, size_S = np.unique(label_R * 3 + rank_R, return_inverse=True, return_counts=True)
    least_S = np.zeros_like(size_S)
    least_S[np.unique(strata // 3, return_index=True)[1]] = 1  # each class's first stratum: train, where it has one
    if count >= 2 * classes and not (split_R == "val").any():
        least_S = np.minimum(2 * least_S, size_S)  # one of them can go to val
    quota_S = _quotas(size_S, least_S, count=count)
    keys_R = _hashes(manifest.column("path")[rows], seed=seed)
    order = np.lexsort((keys_R, stratum_R))
    position = np.arange(rows.size) - np.repeat(np.cumsum(size_S) - size_S, size_S)
    chosen = rows[order[position < quota_S[stratum_R[order]]]]
    return manifest.take(np.sort(np.concatenate([chosen, np.flatnonzero(~manifest.ok)])))


def _check_classes(manifest: Manifest) -> None:
    if not manifest.classes and any(manifest.column("captions")[manifest.ok]):
        raise DataError(
            f"{manifest.root} has captions, not classes: {manifest.source}; a classifier needs labels, such as one folder of "
            "images per class, or a list with a column label"
        )
    if len(manifest.classes) < 2:
        only = ", ".join(manifest.classes) or "none"
        raise DataError(
            f"{manifest.root} has usable images of one class only ({only}); a classifier needs at least two"
        )


def _hashes(names: np.ndarray, *, seed: int) -> np.ndarray:
    """uint64 per name, uniform."""
    digests = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    return np.frombuffer(digests, "<u8")


def _families(manifest: Manifest, pool: np.ndarray, *, seed: int) -> Families:
    """Groups, joined where they hold copies of each other's files, by their bytes or as an audit found."""
    group_R, hash_R, copies_R = (manifest.column(name)[pool] for name in ("group", "sha256", "copies"))
    links = [_codes(texts) for texts in (group_R, hash_R, np.where(copies_R == "", hash_R, copies_R))]
    family_R = links[0]
    while True:  # the lowest number spreads over what is linked until it stays
        before_R = family_R
        for code_R in links:
            lowest = np.full(code_R.max() + 1, pool.size)
            np.minimum.at(lowest, code_R, family_R)
            family_R = lowest[code_R]
        if (family_R == before_R).all():
            break
    names, family_R = _named(family_R, group_R=group_R, path_R=manifest.column("path")[pool])
    hashes_G = _hashes(names, seed=seed)
    order = np.argsort(hashes_G, kind="stable")
    family_R = np.argsort(order)[family_R]
    size_GC = np.zeros((names.size, len(manifest.classes)), np.int64)
    np.add.at(size_GC, (family_R, manifest.labels[pool]), 1)
    return Families(family_R, size_GC, label_G=size_GC.argmax(1), uniform_G=hashes_G[order] / 2.0**64)


def _named(family_R: np.ndarray, *, group_R: np.ndarray, path_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The families' names, and each row's family from 0.

    A family is named by the group of its first file in the order of paths: copies that are added later, with later names,
    leave it what it was."""
    used, family_R = np.unique(family_R, return_inverse=True)
    names = np.empty(used.size, object)
    names[family_R] = group_R
    joined_R = group_R != names[family_R]  # another group of the same family
    is_joined_F = np.zeros(used.size, bool)
    is_joined_F[family_R[joined_R]] = True
    for row in sorted(np.flatnonzero(is_joined_F[family_R]), key=path_R.__getitem__, reverse=True):
        names[family_R[row]] = group_R[row]
    return names, family_R


def _codes(texts: np.ndarray) -> np.ndarray:
    """A number per text, equal where the texts are; `np.unique` would compare texts n log n times."""
    code: dict[str, int] = {}
    return np.array([code.setdefault(name, len(code)) for name in texts], np.int64)


def _carve(manifest: Manifest, families: Families, *, val_fraction: float) -> np.ndarray:
    """bool [G]: goes to val. By the hash where that is near the class's share, else as near to it as groups allow."""
    size_GC, is_val_G = families.size_GC, np.zeros(len(families.size_GC), bool)
    total_G = size_GC.sum(1)
    alone = []
    for label, name in enumerate(manifest.classes):
        count = size_GC[:, label].sum()
        if count == 1:
            raise DataError(
                f"class {name} has a single image to train on, none is left to validate; add images or remove it"
                " (or raise --limit, where that left one)"
            )
        own = np.flatnonzero(families.label_G == label)
        if own.size < 2:
            alone += [name] if count else []
            continue
        target, taken = val_fraction * count, int(size_GC[is_val_G, label].sum())
        total_K = taken + np.cumsum([0, *size_GC[own, label]])  # in val, with the first k groups of the hash order
        allowed = max(UNEVEN_MOST * target - 1, 0.5)
        first = int(np.searchsorted(families.uniform_G[own], val_fraction))
        while first and total_K[first] > target + allowed:
            first -= 1
        while first < own.size and total_K[first] < target - allowed:
            first += 1
        if abs(total_K[first] - target) <= max(allowed, 1):
            is_val_G[own[:first]] = True
        else:  # few or large groups: in hash order, each that brings the class nearer
            for family in own.tolist():
                size = int(size_GC[family, label])
                if abs(taken + size - target) < abs(taken - target):
                    is_val_G[family], taken = True, taken + size
        smallest = own[total_G[own].argmin()]
        if is_val_G[own].all():
            is_val_G[smallest] = False
        elif not is_val_G[own].any():
            is_val_G[smallest] = True
    for guest in np.flatnonzero(size_GC[~is_val_G].sum(0) == 0):  # a class whose images are all in others' groups
        hosts = np.flatnonzero(size_GC[:, guest])
        if hosts.size:
            is_val_G[hosts[total_G[hosts].argmin()]] = False
    if alone:
        warn(
            f"no validation images for {', '.join(alone)}",
            why="All images of such a class belong to one group, which stays in train",
            do="Add images of another group",
        )
    share, largest = size_GC[is_val_G].sum() / size_GC.sum(), int(total_G.max())
    if largest > 1 and abs(share - val_fraction) > FAR * val_fraction:
        warn(
            f"validation gets {share:.0%} of the images, not {val_fraction:.0%}",
            why=f"Images that belong together stay together, and the largest group has {largest}",
            do="More films, patients or slides make a finer split; --audit exact splits what an audit joined, and scores copies",
        )
    return is_val_G


def _deal(manifest: Manifest, families: Families, *, folds: int) -> np.ndarray:
    """int [G]: fold. Each class's groups, large ones first, go to the fold that has the fewest images of the class."""
    size_GC, fold_G = families.size_GC, np.full(len(families.size_GC), -1)
    total_F = np.zeros(folds, np.int64)
    count_FC = np.zeros((folds, size_GC.shape[1]), np.int64)
    for label, name in enumerate(manifest.classes):
        own = np.flatnonzero(families.label_G == label)
        if own.size < folds and size_GC[:, label].any():
            raise ConfigError(
                f"class {name} has {own.size} groups of images, fewer than folds={folds}; "
                + (f"try folds={own.size}, or add images" if own.size > 1 else "add images or remove it")
            )
        heap = [(int(count_FC[fold, label]), int(total_F[fold]), fold) for fold in range(folds)]
        heapq.heapify(heap)
        for family in own[np.argsort(-size_GC[own, label], kind="stable")].tolist():
            count, total, fold = heap[0]
            fold_G[family] = fold
            heapq.heapreplace(heap, (count + int(size_GC[family, label]), total + int(size_GC[family].sum()), fold))
        np.add.at(count_FC, fold_G[own], size_GC[own])
        np.add.at(total_F, fold_G[own], size_GC[own].sum(1))
    return fold_G


def _quotas(size_S: np.ndarray, least_S: np.ndarray, *, count: int) -> np.ndarray:
    """int [S] with least ≤ quota ≤ size and sum `count`, as near to proportional as that allows."""
    ideal_S = count * size_S / size_S.sum()
    quota_S = np.maximum(least_S, np.floor(ideal_S).astype(np.int64))
    while (missing := count - quota_S.sum()) != 0:
        if missing > 0:
            quota_S[np.where(quota_S < size_S, ideal_S - quota_S, -np.inf).argmax()] += 1
        else:
            quota_S[np.where(quota_S > least_S, quota_S - ideal_S, -np.inf).argmax()] -= 1
    return quota_S
