"""Pairs become groups, and one wrong pair does not weld two of them. D pictures, E edges."""

from __future__ import annotations

import numpy as np

SMALL = 2  # pictures of a group that any pair may extend


def grow(edges_E2: np.ndarray, *, is_strong: np.ndarray, count: int) -> np.ndarray:
    """int64 [D]: the least member of each picture's group.

    Two groups of at most SMALL pictures join over any pair. A larger one takes up a small one over a strong pair or two
    pairs. Two larger ones join over two pairs that have no picture in common: then no single picture that looks like
    both (a collage, a wrong match) welds them, while true copies, which are confirmed many times over, are joined."""
    parent = np.arange(count)

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = int(parent[one])
        return one

    size = np.ones(count, np.int64)
    a, b, strong = edges_E2[:, 0], edges_E2[:, 1], is_strong
    while len(a):
        roots = _roots(parent)
        ends = np.sort(np.stack([roots[a], roots[b]], 1), axis=1)
        is_swapped = roots[a] != ends[:, 0]
        a, b = np.where(is_swapped, b, a), np.where(is_swapped, a, b)
        apart = ends[:, 0] != ends[:, 1]
        a, b, strong, ends = a[apart], b[apart], strong[apart], ends[apart]
        order = np.lexsort((b, a, ends[:, 1], ends[:, 0]))
        a, b, strong, ends = a[order], b[order], strong[order], ends[order]
        starts = (
            np.flatnonzero(np.concatenate([[True], (ends[1:] != ends[:-1]).any(1)])) if len(a) else np.zeros(0, int)
        )
        stops = np.append(starts[1:], len(a))
        joined = False
        by_support = np.lexsort((starts, -(stops - starts), [-int(strong[s:e].any()) for s, e in zip(starts, stops)]))
        for number in by_support.tolist():
            these = slice(starts[number], stops[number])
            one, two = root(int(ends[these.start, 0])), root(int(ends[these.start, 1]))
            if one == two:
                continue
            if _supported(a[these], b[these], strong[these], sizes=(int(size[one]), int(size[two]))):
                low, high = min(one, two), max(one, two)
                parent[high], joined = low, True
                size[low] += size[high]
        if not joined:
            break
    return _roots(parent)


def connected(pairs_P2: np.ndarray, *, count: int) -> np.ndarray:
    """int64 [count]: the least of those that each is connected with, over any number of pairs."""
    parent = np.arange(count)
    low, high = np.sort(pairs_P2, axis=1).T
    while True:
        roots = _roots(parent)
        apart = np.flatnonzero(roots[low] != roots[high])
        if not apart.size:
            return roots
        ends = np.sort(np.stack([roots[low[apart]], roots[high[apart]]]), axis=0)
        np.minimum.at(parent, ends[1], ends[0])


def _roots(parent: np.ndarray) -> np.ndarray:
    while True:
        further = parent[parent]
        if (further == parent).all():
            return parent.copy()
        parent = further


def _supported(a: np.ndarray, b: np.ndarray, strong: np.ndarray, *, sizes: tuple[int, int]) -> bool:
    small, large = sorted(sizes)
    if large <= SMALL:
        return True
    if small <= SMALL:
        return bool(strong.any()) or len(a) > 1
    return bool((a != a[0]).any() and (b != b[0]).any())  # then two of the pairs are disjoint (König)
