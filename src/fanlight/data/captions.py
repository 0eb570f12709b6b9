"""Captions as numbers: from a manifest's sentences to the words of a batch. No torch, no state.

N images of a split, C captions of one at most, L numbers of a caption at most, START and END included. B images of a batch, k
captions of each in it. An image's captions fill the first of its C slots; the others are PAD all through.
"""

from __future__ import annotations

import json

import numpy as np

from fanlight.data import order
from fanlight.data.manifest import Manifest
from fanlight.data.vocabulary import Vocabulary
from fanlight.errors import DataError
from fanlight.types import PAD

_TURN_DRAW = (1 << 40) + 16  # draws from here on order an image's captions; those before it order the epoch


def captions_of(manifest: Manifest, rows: np.ndarray) -> list[list[str]]:
    """The captions of each of manifest `rows`. DataError that names the image which has none."""
    found = []
    for row, text in zip(np.asarray(rows).tolist(), manifest.column("captions")[rows]):
        try:
            captions = json.loads(text) if text else []
        except ValueError:
            captions = None
        if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
            raise DataError(f"{manifest.path(row)}: its captions are no JSON list of texts; run `fanlight check` again")
        if not any(each.strip() for each in captions):
            raise DataError(f"{manifest.path(row)} has no caption; give it one, or take it out of the list")
        found.append([each for each in captions if each.strip()])
    return found


def encoded(captions: list[list[str]], vocabulary: Vocabulary, longest: int, *, slots: int | None = None) -> np.ndarray:
    """int16 (int32 for a vocabulary that needs it) [N, C, L]: START, at most `longest` words, END, PAD.

    L is that of the longest caption, so at most `longest` + 2; C is `slots`, or the captions of the image that has most."""
    kind = np.int16 if len(vocabulary) <= np.iinfo(np.int16).max else np.int32
    numbers = [[vocabulary.encode(text, longest) for text in each[:slots]] for each in captions]
    most = slots or max(map(len, numbers), default=0)
    width = max((len(each) for of_image in numbers for each in of_image), default=0)
    targets_NCL = np.full((len(captions), most, width), PAD, kind)
    for image, of_image in enumerate(numbers):
        for slot, each in enumerate(of_image):
            targets_NCL[image, slot, : len(each)] = each
    return targets_NCL


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
    """[B, k, L'] of targets [B, C, L]: the chosen captions, without the columns at the end that are PAD in all of them."""
    words_BkL = np.take_along_axis(targets_BCL, chosen_Bk[..., None], axis=1)
    return words_BkL[..., : int(lengths(words_BkL).max(initial=0))]
