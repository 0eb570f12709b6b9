"""Which pictures share visual words: candidates for copies turned by any angle, cropped or zoomed.

A word is the signs of some numbers of a keypoint's code, or of the mirrored code if that is the lesser word, and the same
with its least certain signs reversed. Two sets of numbers make two words. D pictures, T keypoints, C numbers of a code.
"""

from __future__ import annotations

import math

import numpy as np

from fanlight.data.audit import buckets
from fanlight.data.audit.keypoints import MIRROR
from fanlight.data.audit.signature import Signatures

CANDIDATES = 6  # most pairs that one picture proposes: those with most words in common
SHARED_LEAST = 2
WINDOW = 12  # of a large bucket, see `buckets.pairs`
ORDERS = (np.arange(0, 44), np.r_[1:44:3, 0:44:3, 2:44:3])  # orders in which signs are taken, most certain first
BITS_MORE = 7  # than the logarithm of the number of words: signs are not independent, and strangers must be few
TIE_BITS = 16
BYTES_PER_WORD = 80  # of memory, while words are sorted and pairs counted
PASSES_MOST = 32  # each looks at every keypoint anew


def candidates(pictures: Signatures, members: np.ndarray, *, memory_bytes: int) -> tuple[np.ndarray, int]:
    """int64 [P, 2], a < b, in order, and how many words lay in large buckets. In several passes over the words where
    one would not fit into `memory_bytes`."""
    count = len(pictures)
    counts = pictures.counts[members]
    owners = np.repeat(members, counts)
    rows = np.repeat(pictures.starts[members] - np.cumsum(counts) + counts, counts) + np.arange(len(owners))
    bits = int(np.clip(math.ceil(math.log2(max(3 * len(rows), 2))) + BITS_MORE, 18, 40))
    passes = int(np.clip(math.ceil(3 * len(rows) * BYTES_PER_WORD / max(memory_bytes, 1)), 1, PASSES_MOST))
    codes, times, capped = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    for order in ORDERS:
        for number in range(passes):
            words, of = _words(pictures.codes, rows, order=order[:bits], passes=passes, number=number)
            both, more = buckets.pairs(words, tie_bits=TIE_BITS, owners=owners[of], window=WINDOW)
            capped += more
            codes, times = _added(codes, times, *buckets.counted(both, count=count))
    enough = times >= SHARED_LEAST
    return _strongest(np.stack(np.divmod(codes[enough], count), 1).reshape(-1, 2), times[enough]), capped


def _words(
    codes: np.ndarray, rows: np.ndarray, *, order: np.ndarray, passes: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """int64 words with their ties, and where in `rows` their keypoints are; those words that leave `number` over when
    divided by `passes`."""
    ties = np.setdiff1d(np.arange(len(MIRROR)), order)[:TIE_BITS]
    powers, tie_powers = np.int64(1) << np.arange(len(order)), np.int64(1) << np.arange(len(ties))
    flips = int(powers[MIRROR[order] < 0].sum())
    tie_flips = int(tie_powers[MIRROR[ties] < 0].sum())
    found_words, found_places = [], []
    for start in range(0, len(rows), 1 << 16):
        here = codes[rows[start : start + (1 << 16)]]
        place = np.arange(start, start + len(here))
        word, tie = (here[:, order] > 0) @ powers, (here[:, ties] > 0) @ tie_powers
        doubtful = np.argsort(np.abs(here[:, order].astype(np.int16)), axis=1, kind="stable")[:, :2]
        for reversed in (0, powers[doubtful[:, 0]], powers[doubtful[:, 1]]):
            plain = word ^ reversed
            mirrored = plain ^ flips
            least = np.minimum(plain, mirrored)
            mine = least % passes == number
            whole = least << TIE_BITS | np.where(plain < mirrored, tie, tie ^ tie_flips)
            found_words.append(whole[mine])
            found_places.append(place[mine])
    if not found_words:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(found_words), np.concatenate(found_places)


def _added(
    codes: np.ndarray, times: np.ndarray, more: np.ndarray, more_times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of two counts by code."""
    every, place = np.unique(np.concatenate([codes, more]), return_inverse=True)
    sums = np.zeros(len(every), np.int64)
    np.add.at(sums, place, np.concatenate([times, more_times]))
    return every, sums


def _strongest(both: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Pairs that are among the CANDIDATES of either picture with most words in common; of equals the nearest numbers."""
    kept = np.zeros(len(both), bool)
    for side in (0, 1):
        order = np.lexsort((both[:, 1 - side], -times, both[:, side]))
        mine = both[order, side]
        starts = np.flatnonzero(np.concatenate([[True], mine[1:] != mine[:-1]])) if len(mine) else np.zeros(0, int)
        place = np.arange(len(mine)) - np.repeat(starts, np.diff(np.append(starts, len(mine))))
        kept[order[place < CANDIDATES]] = True
    return both[kept]
