"""Intervals of scores that are no plain share: images are drawn again with replacement (Efron 1979), and a score is
computed for each draw. N images, D draws. The draws are a counter hash: the same on every machine."""

from collections.abc import Iterator

import numpy as np

from fanlight.data import order

DRAWS = 1000
LEVEL = 0.95
CHUNK = 1 << 22  # drawn images held at once


def drawn(count: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """float64 [d, N], how often each of `count` images was drawn; DRAWS rows in all, each with the sum `count`."""
    step = max(1, CHUNK // max(count, 1))
    for begin in range(0, DRAWS, step):
        rows = np.arange(begin, min(begin + step, DRAWS))
        picked = (order.uniforms(rows, seed=seed, epoch=0, draws=count) * count).astype(np.int64)
        flat = (picked + np.arange(len(rows))[:, None] * count).reshape(-1)
        yield np.bincount(flat, minlength=len(rows) * count).reshape(len(rows), count).astype(np.float64)


def sums(values_NK: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """float64 [D, K], each draw's sum of rows; two arrays with one seed are drawn alike, so their scores are pairs."""
    return np.concatenate([times_dN @ values_NK for times_dN in drawn(len(values_NK), seed=seed)])


def interval(scores_D: np.ndarray) -> list[float]:
    """The middle LEVEL of the draws' scores."""
    low, high = np.quantile(scores_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def derangement(count: int, *, seed: int = 0) -> np.ndarray:
    """A permutation of 0 … count−1 that leaves nothing in its place: one cycle through all in keyed order. Needs 2."""
    if count < 2:
        raise ValueError(f"{count} cannot change places; it takes 2 or more")
    cycle = np.argsort(order.bits(np.arange(count), seed=seed, epoch=1, draws=1)[:, 0], kind="stable")
    found = np.empty(count, np.int64)
    found[cycle] = np.roll(cycle, -1)
    return found
