"""Dropout of whole arrays (Srivastava et al. 2014): values that are kept are divided by the share that is kept.

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
    y[...] = np.where(keep, x / (1 - rate), 0)
    return y


def dropout_keyed(x: np.ndarray, keys: np.ndarray, *, rate: float, out: np.ndarray | None = None) -> np.ndarray:
    """As `dropout`, with the mask that `dropout_keep` makes of the rows' keys."""
    return dropout(x, dropout_keep(keys, x.shape, rate=rate), rate=rate, out=out)


def dropout_keep(keys: np.ndarray, shape: tuple[int, ...], *, rate: float) -> np.ndarray:
    """bool [N, …]: of keys uint64 [N], which values of each row stay; each with probability 1 − rate."""
    shapes.keyed(keys, shape, rate=rate)
    positions = np.arange(math.prod(shape[1:]), dtype=np.uint64)
    return (_hash(keys[:, None], positions) >= np.uint64(round(rate * WHOLE))).reshape(shape)


def _hash(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The position-th number of SplitMix64 from each key (Steele, Lea and Flood 2014); uint64 wraps around."""
    z = keys + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
