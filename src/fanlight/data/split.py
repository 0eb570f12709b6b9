"""Which rows train, which validate, which test. G groups (families), C classes, F folds.

Groups never straddle: copies of one picture, or frames of one film, on both sides would be a false result. A group's side
is a hash of (seed, group) alone, so that it stays when files are added; only where that leaves a class far from its share
do others count. A group is of every class that it holds an image of. Images with captions are one class. NumPy only.
"""

import hashlib
import heapq
from dataclasses import dataclass

import numpy as np

from fanlight.console import warn
from fanlight.data.families import families
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError

VAL_FRACTION_MAX = 0.9
# Of a class's share of val, less one image: farther off, groups change sides, in 1 of 50 classes of 200 images.
UNEVEN_MOST = 0.35
TIE = 1.0  # share of val of a class: groups that leave it as far from that share, within this, are taken by their hash
FAR = 0.5  # of val_fraction, between it and what validation gets: farther is said
CAPTIONED = "images with captions"  # in place of a class, where there are none


@dataclass(frozen=True)
class Kinds:
    """What a split is in proportion by: the classes, or one of all images that have captions."""

    names: tuple[str, ...]
    of_row: np.ndarray  # int64 [rows], -1: not used

    @property
    def usable(self) -> np.ndarray:
        """bool [rows]"""
        return self.of_row >= 0


@dataclass(frozen=True)
class Families:
    """Rows that must stay together. Family g of G has `size_GC[g]` images of each class; in the order of their hash."""

    family_R: np.ndarray  # family of each row of the pool
    size_GC: np.ndarray
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
    kinds = _kinds(manifest)
    split = manifest.column("split").copy()
    split[(split == "") & kinds.usable] = "train"
    if (silent := manifest.ok & ~kinds.usable).any():
        first = manifest.column("path")[silent][0]
        warn(
            f"{int(silent.sum())} images without captions are not used, first {first}",
            why="There is nothing to learn from them, and nothing to score them by", do="Give them captions",
        )  # fmt: skip
        split[silent] = ""
    is_pool = kinds.usable & ((split == "train") | ((split == "val") & (folds is not None)))
    pool = np.flatnonzero(is_pool)
    if not pool.size:
        raise DataError(f"{manifest.root} has no images to train on; put some into train, or leave out the splits")
    if folds is None and (kinds.usable & (split == "val")).any():
        return manifest.with_columns(split=split)

    found = _families(manifest, kinds, pool, seed=seed)
    if folds is None:
        is_val_G = _carve(kinds.names, found, val_fraction=val_fraction)
    else:
        is_val_G = _deal(kinds.names, found, folds=folds) == fold
    _warn_of_gaps(kinds.names, found, is_val_G, val_fraction=val_fraction if folds is None else 1 / folds)
    split[pool] = np.where(is_val_G[found.family_R], "val", "train")
    return manifest.with_columns(split=split)


def limit(manifest: Manifest, count: int, *, seed: int) -> Manifest:
    """Exactly min(count, usable) usable rows, in proportion by class and given split, at least one to train per class.

    Quarantined rows stay listed. ConfigError where `count` is less than the number of classes."""
    kinds = _kinds(manifest)
    classes = len(kinds.names)
    if count < classes:
        raise ConfigError(
            f"limit {count} is less than one image for each of {classes} classes; try limit={10 * classes}"
        )
    rows = np.flatnonzero(kinds.usable)
    if count >= rows.size:
        return manifest
    split_R, label_R = manifest.column("split")[rows], kinds.of_row[rows]
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


def _kinds(manifest: Manifest) -> Kinds:
    """DataError where there is nothing to learn: no classes and no captions, or one class only."""
    if manifest.is_captioned:
        return Kinds((CAPTIONED,), np.where(manifest.captioned, 0, -1))
    if len(manifest.classes) < 2:
        only = ", ".join(manifest.classes) or "none"
        raise DataError(
            f"{manifest.root} has usable images of one class only ({only}); a classifier needs at least two"
        )
    return Kinds(manifest.classes, manifest.labels)


def _hashes(names: np.ndarray, *, seed: int) -> np.ndarray:
    """uint64 per name, uniform."""
    digests = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    return np.frombuffer(digests, "<u8")


def _families(manifest: Manifest, kinds: Kinds, pool: np.ndarray, *, seed: int) -> Families:
    names, family_R = families(manifest, pool)
    hashes_G = _hashes(names, seed=seed)
    order = np.argsort(hashes_G, kind="stable")
    family_R = np.argsort(order)[family_R]
    size_GC = np.zeros((names.size, len(kinds.names)), np.int64)
    np.add.at(size_GC, (family_R, kinds.of_row[pool]), 1)
    return Families(family_R, size_GC, uniform_G=hashes_G[order] / 2.0**64)


def _carve(names: tuple[str, ...], found: Families, *, val_fraction: float) -> np.ndarray:
    """bool [G]: goes to val. By the hash where that is near the classes' shares, else as near to them as groups allow."""
    size_GC, is_val_G = found.size_GC, found.uniform_G < val_fraction
    count_C, groups_C = size_GC.sum(0), np.count_nonzero(size_GC, axis=0)
    if (single := np.flatnonzero(count_C == 1)).size:
        if names == (CAPTIONED,):
            raise DataError(
                "a single image with captions is there to train on, none is left to validate; add images (or raise --limit, "
                "where that left one)"
            )
        raise DataError(
            f"class {names[single[0]]} has a single image to train on, none is left to validate; add images or "
            "remove it (or raise --limit, where that left one)"
        )
    target_C = val_fraction * count_C
    allowed_C = np.maximum(UNEVEN_MOST * target_C - 1, 0.5)
    val_C = size_GC[is_val_G].sum(0)
    by_hash_G = np.argsort(abs(found.uniform_G - val_fraction), kind="stable")  # who changes sides first
    order_GC = [by_hash_G[size_GC[by_hash_G, label] > 0] for label in range(len(count_C))]

    def cost(val_C: np.ndarray) -> float:
        """How far the classes are from their shares, beyond what is allowed."""
        return float((np.maximum(abs(val_C - target_C) - allowed_C, 0) / np.maximum(target_C, 1e-9)).sum())

    def flip(family: int) -> np.ndarray:
        return val_C - size_GC[family] if is_val_G[family] else val_C + size_GC[family]

    def take(allowed: np.ndarray) -> None:
        """Changes the side of that group which serves best; of those nearly as good, of the first."""
        nonlocal val_C
        costs = np.array([cost(flip(family)) for family in allowed.tolist()])
        family = int(allowed[np.flatnonzero(costs <= costs.min() + TIE)[0]])
        val_C = flip(family)
        is_val_G[family] ^= True

    moved = True
    while moved:
        moved = False
        for label in np.flatnonzero(abs(val_C - target_C) > allowed_C).tolist():
            for wanted in (val_C[label] < target_C[label], val_C[label] > target_C[label]):
                for family in order_GC[label][is_val_G[order_GC[label]] != wanted].tolist():
                    if abs(val_C[label] - target_C[label]) <= allowed_C[label]:
                        break
                    if cost(after_C := flip(family)) < cost(val_C) - 1e-9:
                        val_C, is_val_G[family], moved = after_C, wanted, True
    for label in np.flatnonzero(count_C).tolist():  # train has images of every class
        if val_C[label] == count_C[label]:
            take(order_GC[label])
    for label in np.flatnonzero(
        groups_C > 1
    ).tolist():  # and val, where a group can go without leaving train without a class
        if not val_C[label]:
            own = order_GC[label]
            own = own[((size_GC[own] + val_C < count_C) | (size_GC[own] == 0)).all(1)]
            if own.size:
                take(own)
    return is_val_G


def _deal(names: tuple[str, ...], found: Families, *, folds: int) -> np.ndarray:
    """int [G]: fold. The groups of each class, that of fewest groups first, large ones first, go to the fold that has the
    fewest images of the class."""
    size_GC, fold_G = found.size_GC, np.full(len(found.size_GC), -1)
    groups_C = np.count_nonzero(size_GC, axis=0)
    total_F = np.zeros(folds, np.int64)
    count_FC = np.zeros((folds, size_GC.shape[1]), np.int64)
    for label, name in enumerate(names):
        if 0 < groups_C[label] < folds:
            raise ConfigError(
                f"class {name} has {groups_C[label]} groups of images, fewer than folds={folds}; "
                + (f"try folds={groups_C[label]}, or add images" if groups_C[label] > 1 else "add images or remove it")
            )
    for label in np.argsort(groups_C, kind="stable").tolist():
        own = np.flatnonzero((size_GC[:, label] > 0) & (fold_G < 0))
        heap = [(int(count_FC[fold, label]), int(total_F[fold]), fold) for fold in range(folds)]
        heapq.heapify(heap)
        for family in own[np.argsort(-size_GC[own, label], kind="stable")].tolist():
            count, total, fold = heap[0]
            fold_G[family] = fold
            heapq.heapreplace(heap, (count + int(size_GC[family, label]), total + int(size_GC[family].sum()), fold))
        np.add.at(count_FC, fold_G[own], size_GC[own])
        np.add.at(total_F, fold_G[own], size_GC[own].sum(1))
    return fold_G


def _warn_of_gaps(names: tuple[str, ...], found: Families, is_val_G: np.ndarray, *, val_fraction: float) -> None:
    """Says which classes one side has nothing of, and a share of val that is far from what was asked for."""
    size_GC = found.size_GC
    count_C, val_C = size_GC.sum(0), size_GC[is_val_G].sum(0)
    for side, images_C in (("validation", val_C), ("training", count_C - val_C)):
        if (lacking := np.flatnonzero((images_C == 0) & (count_C > 0))).size:
            warn(
                f"no {side} images for {', '.join(names[label] for label in lacking)}",
                why="Groups stay whole, and no other side could be found for those of such a class",
                do="Add images of another group",
            )
    share, largest = val_C.sum() / count_C.sum(), int(size_GC.sum(1).max())
    if largest > 1 and abs(share - val_fraction) > FAR * val_fraction:
        warn(
            f"validation gets {share:.0%} of the images, not {val_fraction:.0%}",
            why=f"Images that belong together stay together, and the largest group has {largest}",
            do="More films, patients or slides make a finer split; --audit exact splits what an audit joined, and scores copies",
        )


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
