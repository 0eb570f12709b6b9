"""Dropout over all cores (Srivastava et al. 2014): values that are kept are divided by the share that is kept.

It is linear, so its gradient is itself, with the same mask or the same keys. Random numbers are a hash of (a row's key,
position in the row), made where they are needed: a mask is never stored.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu.compiled import compiled, parallel

WHOLE = 1 << 64  # hashes are 0 … WHOLE − 1
_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def dropout(x: np.ndarray, keep: np.ndarray, *, rate: float, out: np.ndarray | None = None) -> np.ndarray:
    """x / (1 − rate) where `keep`, else 0."""
    shapes.masked(keep, x, rate=rate)
    y = shapes.room(out, x.shape, shapes.number_type(x))
    kept = np.ascontiguousarray(keep, bool).reshape(-1)
    _masked(np.ascontiguousarray(x).reshape(-1), kept, x.dtype.type(1 / (1 - rate)), y.reshape(-1))
    return y


def dropout_keyed(x: np.ndarray, keys: np.ndarray, *, rate: float, out: np.ndarray | None = None) -> np.ndarray:
    """As `dropout`, with the mask that `dropout_keep` makes of the rows' keys."""
    shapes.keyed(keys, x.shape, rate=rate)
    y = shapes.room(out, x.shape, shapes.number_type(x))
    rows, limit, scale = np.ascontiguousarray(x), np.uint64(round(rate * WHOLE)), x.dtype.type(1 / (1 - rate))
    _hashed(rows.reshape(len(x), -1), np.ascontiguousarray(keys), limit, scale, y.reshape(len(x), -1))
    return y


def dropout_keep(keys: np.ndarray, shape: tuple[int, ...], *, rate: float) -> np.ndarray:
    """bool [N, …]: of keys uint64 [N], which values of each row stay; each with probability 1 − rate."""
    shapes.keyed(keys, shape, rate=rate)
    keep = np.empty((len(keys), math.prod(shape[1:])), bool)
    _keeps(np.ascontiguousarray(keys), np.uint64(round(rate * WHOLE)), keep)
    return keep.reshape(shape)


@parallel
def _masked(x, keep, scale, y):
    for i in prange(len(x)):
        y[i] = x[i] * scale if keep[i] else x.dtype.type(0)


@parallel
def _hashed(x, keys, limit, scale, y):
    for n in prange(len(x)):
        for i in range(x.shape[1]):
            y[n, i] = x[n, i] * scale if _hash(keys[n], np.uint64(i)) >= limit else x.dtype.type(0)


@parallel
def _keeps(keys, limit, keep):
    for n in prange(len(keep)):
        for i in range(keep.shape[1]):
            keep[n, i] = _hash(keys[n], np.uint64(i)) >= limit


@compiled
def _hash(key, position):
    """The position-th number of SplitMix64 from `key` (Steele, Lea and Flood 2014); uint64 wraps around."""
    z = key + (position + np.uint64(1)) * _STEP
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
