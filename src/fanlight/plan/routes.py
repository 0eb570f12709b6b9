"""What the groups of a layout send over. Rank r sits on node r // devices. Imports no torch.

Groups along the same axes do the same at the same time, but not all of them lie alike: where a degree does not divide a
node's devices, some cross between nodes. Everything waits for those.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fanlight.parallel.layout import AXES, Layout, Place
from fanlight.plan import cost
from fanlight.plan.cluster import Cluster

Lies = tuple[int, int]  # of a group: nodes that it is on, and groups that send between the same nodes at the same time


class Routes:
    """Of a layout on a cluster. `collapsed`: a rank stands for all of its pipeline stage, and has the routes of all of them."""

    def __init__(self, layout: Layout, cluster: Cluster, *, collapsed: bool):
        self._layout, self._cluster, self._collapsed = layout, cluster, collapsed
        self._known: dict[tuple[int, tuple[str, ...]], tuple[cost.Route, ...]] = {}
        self._hops: dict[tuple[int, int], tuple[cost.Route, ...]] = {}
        self._peers: dict[tuple[int, tuple[str, ...]], tuple[int, ...]] = {}

    def of(self, rank: int, axes: tuple[str, ...]) -> tuple[cost.Route, ...]:
        """Those of the rank's group along `axes`, different ones of the groups that it stands for. pp is no axis of them."""
        key = (rank, axes)
        if key not in self._known:
            lie = lies(self._layout, self._cluster.devices, axes)
            place = self._layout.place(rank)
            found = set(lie[place.pp].flat) if self._collapsed else {lie[place]}
            size = int(np.prod([getattr(self._layout, axis) for axis in axes]))
            self._known[key] = tuple(self._route(size, each) for each in sorted(found))
        return self._known[key]

    def between(self, rank: int, to: int) -> tuple[cost.Route, ...]:
        """Those of a message from `rank` to the rank that stands on place `to` of its pipe, as `of` has them."""
        if (rank, to) not in self._hops:
            place = self._layout.place(rank)
            lie = hops(self._layout, self._cluster.devices, place.pp, to)
            found = set(lie.flat) if self._collapsed else {lie[place[1:]]}
            self._hops[rank, to] = tuple(self._route(2, each) for each in sorted(found))
        return self._hops[rank, to]

    def peers(self, rank: int, axes: tuple[str, ...]) -> tuple[int, ...]:
        """Who takes part: `rank` alone where it stands for all, else its group along `axes`."""
        if self._collapsed:
            return (rank,)
        if (rank, axes) not in self._peers:
            group = tuple(self._layout.peers(rank, *axes))
            self._peers |= {(each, axes): group for each in group}
        return self._peers[rank, axes]

    def of_all(self) -> cost.Route:
        """Of all ranks as one group."""
        ranks = self._layout.ranks
        return self._route(ranks, (-(-ranks // self._cluster.devices), 1))

    def _route(self, ranks: int, lie: Lies) -> cost.Route:
        nodes, sharing = lie
        return cost.route_of(self._cluster, ranks, nodes, sharing=sharing)


@lru_cache(maxsize=256)
def lies(layout: Layout, devices: int, axes: tuple[str, ...]) -> np.ndarray:
    """How the group of every rank along `axes` lies, by its place: objects [pp, dp_replicate, dp_shard, tp].

    Of groups that cross between nodes, as many share a node's adapters as lie on it."""
    shape = [getattr(layout, axis) for axis in AXES]
    inside = [AXES.index(axis) for axis in axes]
    outside = [index for index in range(len(AXES)) if index not in inside]
    ranks_GN = np.arange(layout.ranks).reshape(shape).transpose(*outside, *inside)
    ranks_GN = ranks_GN.reshape(-1, int(np.prod([shape[index] for index in inside])))
    nodes_GN = np.sort(ranks_GN // devices, axis=1)
    is_new_GN = np.diff(nodes_GN, axis=1, prepend=-1) != 0  # each of a group's nodes once
    count_G = is_new_GN.sum(axis=1)
    crosses_G = count_G > 1
    busy = np.bincount(nodes_GN[is_new_GN & crosses_G[:, None]], minlength=int(nodes_GN.max()) + 1)
    sharing_G = np.where(crosses_G, busy[nodes_GN].max(axis=1), 1)
    found = np.empty(layout.ranks, dtype=object)
    for ranks, nodes, sharing in zip(ranks_GN, count_G.tolist(), sharing_G.tolist()):
        for rank in ranks:
            found[rank] = (nodes, sharing)
    return found.reshape(shape)


@lru_cache(maxsize=256)
def hops(layout: Layout, devices: int, pp: int, to: int) -> np.ndarray:
    """How messages from place `pp` of each pipe to place `to` lie: objects [dp_replicate, dp_shard, tp].

    A node's adapters send and receive at once, so those that leave a node share with each other, and those that reach it."""
    shape = (layout.dp_replicate, layout.dp_shard, layout.tp)
    each = np.arange(int(np.prod(shape)))
    leave, reach = (
        (layout.rank_at(Place(place, 0, 0, 0)) + each) // devices for place in (pp, to)
    )  # pp is the outermost axis
    crosses = leave != reach
    busy = [np.bincount(nodes[crosses], minlength=int(nodes.max()) + 1)[nodes] for nodes in (leave, reach)]
    found = np.empty(len(each), dtype=object)
    for index, (is_across, sharing) in enumerate(zip(crosses.tolist(), np.maximum(*busy).tolist())):
        found[index] = (2, sharing) if is_across else (1, 1)
    return found.reshape(shape)
