"""Near copies: re-encoded, resized, brighter or darker, flipped, turned by 90°. D pictures, F = 16 frequencies a side.

Two pictures are compared by the correlation of their whitened spectra, the best of the 8 flips and turns: a flip changes
signs of the cosine transform, a quarter turn transposes it too. Candidates share the signs of some random projections;
a key is the least of the 8 that a picture has, so that all its flips and turns share it. How far apart copies may be is
calibrated on the data set (`limit`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np

from fanlight.data.audit import buckets
from fanlight.data.audit.signature import FREQUENCIES, Signatures

BANDS = (
    32  # keys per picture: copies that correlate by .95 meet in one with probability .98 or more to 100,000 pictures
)
CEILING = 0.10  # 1 - correlation: at most this far, on any data set
FLOOR = 0.004  # and never asked to be nearer: what rounding to float16 and JPEG at high quality do
FALSE_SHARE = 0.0005  # false pairs expected over the whole data set, per picture
STRANGERS = 60_000  # random pairs looked at to know how near strangers come
FULL_SPREAD = 12.0  # effective frequencies from which the limit holds; below, it shrinks in proportion
CHUNK = 2048

_odd = np.arange(FREQUENCIES) % 2
_SECTOR = (_odd[:, None] * 2 + _odd).ravel()  # parity down and across: what a flip does to a number
_SIGNS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)  # flip by sector


def limit(pictures: Signatures, members: np.ndarray) -> float:
    """The distance, 1 - correlation, within which fewer than FALSE_SHARE · D false pairs are expected among `members`.

    The number of strangers within a distance grows as a power of it (as the volume of a ball). The power is fitted to
    the nearest percent of random pairs, without those so near that they may be copies themselves."""
    count = len(members)
    if count < 3:
        return CEILING
    number = np.arange(min(STRANGERS, count * (count - 1) // 2))
    step = 1 + (number * 40503 + number // count * 2654435761) % (count - 1)
    first = number % count
    far = np.concatenate(
        [
            1 - correlation(pictures, members[first[part]], members[(first[part] + step[part]) % count])
            for part in _chunks(len(number), CHUNK)
        ]
    )
    far = np.sort(far[far > CEILING])
    if len(far) < 100:
        return CEILING
    outer, inner = far[len(far) // 50], far[len(far) // 400]
    power = math.log(8) / max(math.log(outer / inner), 0.02)
    wanted = 2 * FALSE_SHARE / count  # of random pairs
    reach = outer * (wanted * 50) ** (1 / power)
    return min(CEILING, max(FLOOR, float(reach)))


def correlation(pictures: Signatures, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [P]: of the spectra of a and b, the best over the 8 flips and turns of b."""
    one = pictures.spectrum[a].astype(np.float32)
    other = pictures.spectrum[b].astype(np.float32)
    best = np.full(len(a), -1, np.float32)
    for turned in (other, _transposed(other)):
        by_sector = _by_sector(one * turned)
        best = np.maximum(best, (by_sector @ _SIGNS.T).max(1))
    return best


def find(
    pictures: Signatures, members: np.ndarray, *, within: float, pool: Executor
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of pictures, int64 [P, 2] with a < b, their distances, and how many entries of large buckets were chained."""
    keys = _keys(pictures, members, pool=pool)
    kept = np.zeros(0, np.int64)
    distances = np.zeros(0, np.float32)
    capped, count = 0, len(pictures)
    allowed = within * np.minimum(1, pictures.spread / FULL_SPREAD)
    bits = _bits(len(members))
    for band in range(BANDS):
        words = keys[band] << bits | keys[(band + 1) % BANDS]
        both, more = buckets.pairs(words, tie_bits=bits, owners=members)
        capped += more
        codes = np.setdiff1d(both[:, 0] * count + both[:, 1], kept)
        a, b = np.divmod(codes, count)
        parts = list(_chunks(len(codes), CHUNK))
        far = 1 - np.concatenate(
            [
                np.zeros(0, np.float32),
                *pool.map(lambda part, a=a, b=b: correlation(pictures, a[part], b[part]), parts),
            ]
        )
        good = far <= np.minimum(allowed[a], allowed[b])
        kept, distances = np.concatenate([kept, codes[good]]), np.concatenate([distances, far[good]])
    order = np.argsort(kept, kind="stable")
    return np.stack(np.divmod(kept[order], count), 1).reshape(-1, 2), distances[order], capped


def _bits(count: int) -> int:
    return int(np.clip(math.ceil(math.log2(max(count, 2))) + 5, 12, 30))


def _keys(pictures: Signatures, members: np.ndarray, *, pool: Executor) -> np.ndarray:
    """int64 [BANDS, members], longer keys for more pictures, so that strangers in a bucket stay as few."""
    bits = _bits(len(members))
    throw = buckets.coins(FREQUENCIES * FREQUENCIES, BANDS * bits, name="near")
    parts = [throw[sector == _SECTOR] for sector in range(4)]

    def of(part: slice) -> np.ndarray:
        spectra = pictures.spectrum[members[part]].astype(np.float32)
        least = np.full((len(spectra), BANDS), np.iinfo(np.int64).max)
        for turned in (spectra, _transposed(spectra)):
            a, b, c, d = (turned[:, sector == _SECTOR] @ parts[sector] for sector in range(4))
            for one, two in ((a + b, c + d), (a - b, c - d)):  # a row of _SIGNS is their sum or their difference
                for other in (-two, two):
                    np.minimum(least, buckets.keys(one > other, bits=bits), out=least)
        return least

    found = list(pool.map(of, _chunks(len(members), 512)))
    return np.concatenate(found).T.copy() if found else np.zeros((BANDS, 0), np.int64)


def _transposed(spectra: np.ndarray) -> np.ndarray:
    return spectra.reshape(-1, FREQUENCIES, FREQUENCIES).transpose(0, 2, 1).reshape(len(spectra), -1)


def _by_sector(products: np.ndarray) -> np.ndarray:
    """float32 [P, 4], summed over the numbers that a flip treats alike."""
    square = products.reshape(-1, FREQUENCIES // 2, 2, FREQUENCIES // 2, 2)
    return square.sum(axis=(1, 3)).reshape(len(products), 4)


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
