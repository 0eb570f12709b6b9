"""Dropout, number by number (Srivastava et al. 2014): values that are kept are divided by the share that is kept.

It is linear, so its gradient is itself, with the same mask or the same keys. Random numbers are a hash of (a row's key,
position in the row): the caller makes a key of (seed, step, sample), and no number depends on how a batch is divided.
"""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch import shapes

WHOLE = 1 << 64  # hashes are 0 … WHOLE − 1


def dropout(x: np.ndarray, keep: np.ndarray, *, rate: float, out: np.ndarray | None = None) -> np.ndarray:
    """x / (1 − rate) where `keep`, else 0."""
    shapes.masked(keep, x, rate=rate)
    y = shapes.room(out, x.shape, shapes.number_type(x))
    for place in np.ndindex(x.shape):
        y[place] = float(x[place]) / (1 - rate) if keep[place] else 0.0
    return y


def dropout_keyed(x: np.ndarray, keys: np.ndarray, *, rate: float, out: np.ndarray | None = None) -> np.ndarray:
    """As `dropout`, with the mask that `dropout_keep` makes of the rows' keys."""
    return dropout(x, dropout_keep(keys, x.shape, rate=rate), rate=rate, out=out)


def dropout_keep(keys: np.ndarray, shape: tuple[int, ...], *, rate: float) -> np.ndarray:
    """bool [N, …]: of keys uint64 [N], which values of each row stay; each with probability 1 − rate."""
    shapes.keyed(keys, shape, rate=rate)
    limit = round(rate * WHOLE)
    found = np.empty((len(keys), math.prod(shape[1:])), bool)
    for n, i in np.ndindex(found.shape):
        found[n, i] = _hash(int(keys[n]), i) >= limit
    return found.reshape(shape)


def _hash(key: int, position: int) -> int:
    """The position-th number of SplitMix64 from `key` (Steele, Lea and Flood 2014)."""
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) % WHOLE
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WHOLE
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WHOLE
    return z ^ (z >> 31)
