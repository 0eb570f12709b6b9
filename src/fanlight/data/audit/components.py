"""Pairs become groups, and one wrong pair does not weld two of them. D pictures, E edges."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

SMALL = 2  # pictures of a group that any pair extends by one picture


def grow(edges_E2: np.ndarray, *, is_strong: np.ndarray, count: int) -> np.ndarray:
    """int64 [D]: the least member of each picture's group.

    A picture joins a group of at most SMALL over any pair, a larger one over a strong pair or two pairs. Groups join over
    two pairs that have no picture in common: then no single picture that looks like both (a collage, a wrong match) welds
    them, while true copies, which are confirmed many times over, are joined. Pairs whose two pictures pair with most of the
    same others come first: a wrong pair must not take a picture from its own group."""
    parent, size = np.arange(count), np.ones(count, np.int64)
    shared_E = _shared(edges_E2)
    for chosen in (shared_E > 0, shared_E >= 0):
        while _join(parent, size, edges_E2[chosen], is_strong[chosen], shared_E[chosen]):
            pass
    return _roots(parent)


def _shared(edges_E2: np.ndarray) -> np.ndarray:
    """int64 [E]: how many third pictures pair with both."""
    partners: dict[int, set[int]] = defaultdict(set)
    for one, two in edges_E2.tolist():
        partners[one].add(two)
        partners[two].add(one)
    return np.array([len(partners[one] & partners[two]) for one, two in edges_E2.tolist()], np.int64)


def _join(
    parent: np.ndarray, size: np.ndarray, edges_E2: np.ndarray, is_strong: np.ndarray, shared_E: np.ndarray
) -> bool:
    """Joins what is supported now, best supported first; whether anything was."""

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = int(parent[one])
        return one

    roots = _roots(parent)
    is_swapped = roots[edges_E2[:, 0]] > roots[edges_E2[:, 1]]
    ab_E2 = np.where(is_swapped[:, None], edges_E2[:, ::-1], edges_E2)
    ends_E2 = roots[ab_E2]
    order = np.lexsort((ab_E2[:, 1], ab_E2[:, 0], ends_E2[:, 1], ends_E2[:, 0]))
    order = order[ends_E2[order, 0] != ends_E2[order, 1]]
    ab_E2, ends_E2, strong = ab_E2[order], ends_E2[order], is_strong[order]
    if not len(order):
        return False
    starts = np.flatnonzero(np.concatenate([[True], (ends_E2[1:] != ends_E2[:-1]).any(1)]))
    stops = np.append(starts[1:], len(order))
    has_strong = np.maximum.reduceat(strong, starts)
    most_shared = np.maximum.reduceat(shared_E[order], starts)
    joined = False
    for number in np.lexsort((starts, starts - stops, ~has_strong, -most_shared)).tolist():
        these = slice(starts[number], stops[number])
        one, two = sorted(root(int(end)) for end in ends_E2[these.start])
        a, b = ab_E2[these].T
        if one != two and _supported(a, b, strong[these], sizes=(int(size[one]), int(size[two]))):
            parent[two], joined = one, True
            size[one] += size[two]
    return joined


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
    if small == 1:
        return large <= SMALL or bool(strong.any()) or len(a) > 1
    return bool((a != a[0]).any() and (b != b[0]).any())  # then two of the pairs are disjoint (König)
