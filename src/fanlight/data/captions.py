"""Captions of a manifest, and which of them a batch has (their words as numbers: spoken.py). No torch, no state.

N images of a split, C captions of one at most, L numbers of a caption at most, START and END included. B images of a batch, k
captions of each in it. An image's captions fill the first of its C slots; the others are PAD all through.
"""

from __future__ import annotations

import json

import numpy as np

from fanlight.data import order
from fanlight.data.manifest import Manifest
from fanlight.errors import DataError, shown
from fanlight.types import PAD

_TURN_DRAW = (1 << 40) + 16  # draws from here on order an image's captions; those before it order the epoch


def captions_of(manifest: Manifest, rows: np.ndarray, *, may_lack: bool = False) -> list[list[str]]:
    """The captions of each of manifest `rows`, without empty ones. DataError that names the image which has none, unless it
    `may_lack` them."""
    found = []
    for row, text in zip(np.asarray(rows).tolist(), manifest.column("captions")[rows]):
        try:
            captions = json.loads(text) if text else []
        except (ValueError, RecursionError):
            captions = None
        if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
            raise DataError(f"{manifest.path(row)}: its captions are no JSON list of texts; run `fanlight check` again")
        try:
            "".join(captions).encode()
        except UnicodeEncodeError as error:  # JSON can escape it, and no table of what was written could be kept
            broken = next(each for each in captions if error.object[error.start] in each)
            raise DataError(
                f"{manifest.path(row)}: its caption {shown(broken)!r} holds half of a letter and cannot be kept; write it anew"
            ) from None
        if not may_lack and not any(each.strip() for each in captions):
            raise DataError(f"{manifest.path(row)} has no caption; give it one, or take it out of the list")
        found.append([each for each in captions if each.strip()])
    return found


def lengths(targets_NCL: np.ndarray) -> np.ndarray:
    """int64 [N, C]: numbers of each caption, START and END included; 0 of an empty slot."""
    return (targets_NCL != PAD).sum(-1)


def counts(targets_NCL: np.ndarray) -> np.ndarray:
    """int64 [N]: the captions of each image."""
    return (lengths(targets_NCL) > 0).sum(-1)


def chosen(samples: np.ndarray, counts: np.ndarray, *, k: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [B, k]: which captions of each image an epoch takes. `samples` [B] are keys of the epoch's order, `counts` [B] how
    many captions each has, at least 1.

    An image's captions have a keyed order, and epochs take them in turn, k at a time: none twice in an epoch while there
    are k, and over the epochs each as often as any other, to within one."""
    counts = np.asarray(counts)
    if len(counts) and counts.min() < 1:
        raise ValueError(f"sample {np.asarray(samples)[counts.argmin()]} has no caption")
    most = int(counts.max(initial=1))
    keys_BC = order.bits(samples, seed=seed, epoch=0, draws=most, first_draw=_TURN_DRAW)
    keys_BC[np.arange(most) >= counts[:, None]] = np.iinfo(np.uint64).max  # empty slots last
    turns_BC = np.argsort(keys_BC, axis=1, kind="stable")
    places_Bk = (epoch * k + np.arange(k)) % counts[:, None]
    return np.take_along_axis(turns_BC, places_Bk, axis=1)


def words(targets_BCL: np.ndarray, chosen_Bk: np.ndarray) -> np.ndarray:
    """[B, k, L'] of targets [B, C, L]: the chosen captions, as `narrow` has them."""
    return narrow(np.take_along_axis(targets_BCL, chosen_Bk[..., None], axis=1))


def narrow(targets_BCL: np.ndarray) -> np.ndarray:
    """[B, C, L'], without the columns at the end that are PAD in all captions."""
    return targets_BCL[..., : int(lengths(targets_BCL).max(initial=0))]
