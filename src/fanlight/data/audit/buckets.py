"""Pairs that fall into one bucket of a hash: all of a small bucket, neighbours of a large one. Never all pairs."""

from __future__ import annotations

import hashlib

import numpy as np

WINDOW = 16  # a member is paired with at most this many that follow it in its bucket


def pairs(words: np.ndarray, *, tie_bits: int, owners: np.ndarray, window: int = WINDOW) -> tuple[np.ndarray, int]:
    """int64 [P, 2], owners a < b that share a key, perhaps several times, and how many entries lie in buckets too large
    for all pairs. A word, int64, is a key followed by `tie_bits` that only order a bucket: in a large one each entry meets
    the `window` that follow it, so that equals still chain."""
    order = np.argsort(words, kind="stable")
    keys, owners = words[order] >> tie_bits, owners[order]
    found = [np.zeros((0, 2), np.int64)]
    for step in range(1, window + 1):
        same = np.flatnonzero(keys[:-step] == keys[step:])
        if not same.size:
            break
        found.append(np.stack([owners[same], owners[same + step]], 1))
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]]))) if keys.size else keys
    both = np.concatenate(found)
    both = both[both[:, 0] != both[:, 1]]
    return np.sort(both, axis=1), int(sizes[sizes > window + 1].sum())


def counted(pairs_P2: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every different pair once, as the sorted codes a · count + b, and how often it came. `count`: owners are below it."""
    return np.unique(pairs_P2[:, 0] * count + pairs_P2[:, 1], return_counts=True)


def keys(above: np.ndarray, *, bits: int) -> np.ndarray:
    """int64 [rows, bands] of bool [rows, bands · bits]: number k of a band is bit k of its key. By products, which are
    faster than np.packbits of a few bits each; exact up to 53 bits."""
    kind = np.float32 if bits <= 24 else np.float64
    signs = above.reshape(len(above), -1, bits).astype(kind)
    return (signs @ (2.0 ** np.arange(bits)).astype(kind)).astype(np.int64)


def coins(rows: int, columns: int, *, name: str) -> np.ndarray:
    """float32 [rows, columns] of ±1, the same in every version of every library."""
    count = -(-rows * columns // 256)
    text = b"".join(hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count))
    bits = np.unpackbits(np.frombuffer(text, np.uint8))[: rows * columns]
    return bits.reshape(rows, columns).astype(np.float32) * 2 - 1
