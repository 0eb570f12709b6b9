"""One step of a layout as operations on lanes of ranks: what every rank computes and sends, in which order, and what waits
for what. Imports no torch; simulate.py says when each happens.

Pipelines play the orders of parallel/schedule.py, gradients travel in the buckets that parallel/buckets.py cuts. Ranks that
differ only along dp_replicate, dp_shard or tp do the same at the same time, so one of them stands for all: `program` says
so by listing one rank per pipeline stage, `collapsed=False` lists every rank. Where their groups do not lie alike on nodes, the
one that sends slowest counts, since the others wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from fanlight.parallel import cutting, schedule
from fanlight.parallel.layout import Layout, Place
from fanlight.plan import cost, stages
from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster
from fanlight.plan.operations import Asked, Op, Waits
from fanlight.plan.routes import Routes

FIRST_BUCKET_BYTES = 1 << 20  # of torch's reducer where its size was left open
EXCHANGE_BYTES = 64  # of a step's sums and wishes (train/ledger.py)
EXCHANGE_STEPS = {"cpu": 1, "cuda": 10}  # from one exchange of them to the next
APART_STEPS = 32  # likewise, at most, where ranks train apart
NORM_BYTES = 8  # the squared norm of a gradient that no rank has whole (parallel/total.py)
STATISTICS = "norm statistics"
STATISTICS_BYTES = 8  # numbers of synchronised norms travel in float64


def program(
    layout: Layout, blocks: Sequence[Block], asked: Asked, cluster: Cluster, *, stage_of: Sequence[int] | None = None,
    collapsed: bool = True, slower: Callable[[int], float] | None = None,
) -> list[Op]:  # fmt: skip
    """The operations of one step. `stage_of`: the pipeline stage of each block; None: cut where costs balance. `slower`: times
    as long as the mean rank's that a rank's computing takes; None: what the slowest of those that wait for each other is
    expected to take."""
    return _Writer(layout, blocks, asked, cluster, stage_of, collapsed, slower).written()


class _Writer:
    def __init__(
        self, layout: Layout, blocks: Sequence[Block], asked: Asked, cluster: Cluster, stage_of: Sequence[int] | None,
        collapsed: bool, slower: Callable[[int], float] | None,
    ):  # fmt: skip
        self.layout, self.asked, self.cluster = layout, asked, cluster
        self.rows = asked.rows(layout.data_ranks)  # by microbatch
        if stage_of is None:
            stage_of = stages.of(layout, blocks, asked)
        self.stages = [[b for b, at in zip(blocks, stage_of) if at == stage] for stage in range(layout.stages)]
        assert all(self.stages), "every stage holds a block"
        self.orders = schedule.orders(
            layout.schedule or "gpipe", ranks=layout.pp, stages_per_rank=layout.stages_per_rank, microbatches=asked.microbatches
        )  # fmt: skip
        every = range(layout.ranks)
        self.members = [
            [layout.rank_at(Place(pp, 0, 0, 0))] if collapsed else [r for r in every if layout.place(r).pp == pp]
            for pp in range(layout.pp)
        ]
        self.collapsed = collapsed
        self.is_gpu = cluster.device.kind == "cuda"
        self.slower = slower or (lambda rank: self._expected())
        self.contended = cost.contended(cluster, stages.busy(layout, cluster.devices, microbatches=asked.microbatches))
        self.ops: list[Op] = []
        self.sent: dict[int, list[int]] = {}  # place on the pipe -> operations that the optimizer waits for
        self.routes = Routes(layout, cluster, collapsed=collapsed)
        self.latest: dict[int, int] = {}  # of each rank, what it computes last so far

    def _expected(self) -> float:
        spread = self.cluster.spread
        if self.layout.is_periodic:  # ranks wait for each other at meetings only: most of the steps' noise evens out
            spread /= math.sqrt(self.asked.sync_every)
        return cost.slowest(spread, self.layout.data_ranks * self.layout.tp)

    def written(self) -> list[Op]:
        """The whole step."""
        done: dict[schedule.Action, dict[int, int]] = {}  # the operation after which its result is there, by rank
        places = [0] * self.layout.pp
        while any(place < len(order) for place, order in zip(places, self.orders.by_rank)):
            for pp, order in enumerate(self.orders.by_rank):
                while places[pp] < len(order):
                    action = order[places[pp]]
                    needed = schedule.needs(action, stages=self.layout.stages)
                    if any(each not in done for each in needed):
                        break
                    arrived = [done[each] for each in needed if self.orders.rank_of(each.stage) != pp]
                    done[action] = self._act(pp, action, arrived)
                    places[pp] += 1
        ends: dict[int, int] = {}
        for pp in range(self.layout.pp):
            ends |= self._ready(pp)
        if self.layout.ranks > 1 and not self.layout.is_periodic:
            ends = self._agree(ends)
        for pp in range(self.layout.pp):
            self._move(pp, ends)
        self._input()
        return self.ops

    def _act(self, pp: int, action: schedule.Action, arrived: list[dict[int, int]]) -> dict[int, int]:
        """A forward or backward of a stage by its members; by rank of the receiver, when its result is there."""
        forward, stage, m = action
        after = {rank: tuple(each[rank] for each in arrived) for rank in self.members[pp]}
        for rank, messages in after.items():
            for each in messages:
                self._halved(rank, each, "beside receiving")
        blocks = self.stages[stage]
        last = m == self.asked.microbatches - 1
        if forward:
            ends = self._forward(pp, blocks, m, after)
        else:
            ends = self._backward(pp, stage, m, after, is_last=last)
        target = stage + (1 if forward else -1)
        if not 0 <= target < self.layout.stages:
            return ends
        boundary = blocks[-1] if forward else self.stages[target][-1]
        # What comes back is the gradient of what was sent, in its format.
        size = boundary.sent_bytes * self.asked.activations(boundary.sent_short) * self.rows[m]
        return self._send(pp, self.orders.rank_of(target), size, ends, name=f"send {boundary.name}")

    def _send(self, pp: int, to: int, size: float, after: dict[int, int], *, name: str) -> dict[int, int]:
        if pp == to:
            return after
        found = {}
        for rank in self.members[pp]:
            place = self.layout.place(rank)
            target = self.layout.rank_at(place._replace(pp=to))
            seconds = max(cost.send_s(size, path) for path in self.routes.between(rank, to))
            found[target] = self._add((rank,), "communication", seconds, (after[rank],), name)
            self._halved(rank, found[target], "beside sending")
        return found

    def _halved(self, rank: int, message: int, name: str) -> None:
        """What a message takes from the core of who sends it, and of who receives it, from when it begins. gloo's own threads
        carry it on that core, while the one that computes goes on and waits only for what it receives. In a second of an
        all-reduce, which `steals` is of, a rank sends and receives; here each does one of the two."""
        if self.cluster.steals:
            takes_s = self.ops[message].seconds * self.cluster.steals / 2 * self.slower(rank)
            self.latest[rank] = self._add((rank,), "compute", takes_s, self.ops[message].after, name)

    def _compute(self, pp: int, seconds: float, after: Waits | None, name: str) -> dict[int, int]:
        """Each member computes."""
        found = {
            rank: self._add(
                (rank,), "compute", seconds * self.slower(rank) * self.contended, after[rank] if after else (), name
            )
            for rank in self.members[pp]
        }
        self.latest |= found
        return found

    def _together(
        self, pp: int, axes: tuple[str, ...], seconds: Callable[[cost.Route], float], after: Waits | None,
        name: str, *, lane: str = "communication",
    ) -> dict[int, int]:  # fmt: skip
        """The members' groups along `axes` each do something that all of a group take part in."""
        found: dict[int, int] = {}
        for rank in self.members[pp]:
            if rank in found:
                continue
            present = self.routes.peers(rank, axes)
            waits = tuple(sorted({op for each in present for op in (after[each] if after else ())}))
            index = self._add(present, lane, self._slowest(rank, axes, seconds), waits, name)
            found |= dict.fromkeys(present, index)
        if lane == "compute":
            self.latest |= found
        return found

    def _forward(
        self, pp: int, blocks: Sequence[Block], m: int, after: Waits, *, again: bool = False
    ) -> dict[int, int]:
        ends: dict[int, int] = {}
        for block, waits in self._in_turn(pp, blocks, after, are_whole=again):
            seconds = block.forward.at(self.rows[m]) * self._share(block)
            ends = self._compute(pp, seconds, waits, f"forward {block.name}")
            ends = self._statistics(pp, block, ends)  # again, too: norms meet as often as they compute
            ends = self._sums(pp, block.pairs, block.pairs_short[0], m, ends)
        return ends

    def _backward(self, pp: int, stage: int, m: int, after: Waits, *, is_last: bool) -> dict[int, int]:
        ends: dict[int, int] = {}
        blocks = self.stages[stage]
        buckets = self._buckets(blocks) if is_last else []
        arrived = 0  # parameters whose gradients are there
        for block, waits in self._in_turn(pp, list(reversed(blocks)), after):
            if self.layout.recompute:
                waits = {rank: (op,) for rank, op in self._forward(pp, [block], m, waits, again=True).items()}
            seconds = block.backward.at(self.rows[m]) * self._share(block)
            ends = self._compute(pp, seconds, waits, f"backward {block.name}")
            ends = self._statistics(pp, block, ends)
            ends = self._sums(pp, block.pairs_backward or block.pairs, block.pairs_short[1], m, ends)
            if is_last and self.layout.dp_shard > 1:
                self._scatter(pp, block, ends)
            arrived += len(block.tensors)
            while buckets and buckets[0][0] <= arrived:
                _, size, tensors = buckets.pop(0)
                self._bucket(pp, size, tensors, ends)
        return ends

    def _in_turn(
        self, pp: int, blocks: Sequence[Block], after: Waits, *, are_whole: bool = False
    ) -> Iterator[tuple[Block, Waits]]:
        """The blocks one after the other, each with what it waits for: `after`, what was computed before it, and its own
        sharded weights. On a GPU those travel while the block before computes, no earlier; gloo is asked when they are
        needed."""
        is_sharded = self.layout.dp_shard > 1 and not are_whole
        here: dict[int, int] = {}
        for index, block in enumerate(blocks):
            waits = {
                rank: (*after[rank], *((self.latest[rank],) if rank in self.latest else ()))
                for rank in self.members[pp]
            }
            if is_sharded:
                own = here if self.is_gpu and index else self._gather(pp, block, waits)
                if self.is_gpu and index + 1 < len(blocks):
                    here = self._gather(pp, blocks[index + 1], waits)
                waits = {rank: (*waits[rank], own[rank]) for rank in waits}
            yield block, waits

    def _bucket(self, pp: int, size: float, tensors: int, after: dict[int, int]) -> None:
        """A bucket of gradients is prepared, and sent beside whatever comes."""
        ready = {rank: (op,) for rank, op in after.items()}
        axes = ("dp_replicate", "dp_shard")
        if prepared := tensors * self.cluster.tensor_s:
            ready = {rank: (op,) for rank, op in self._compute(pp, prepared, ready, "copy gradients").items()}
        sent = self._together(pp, axes, lambda path: cost.all_reduce_s(size, path), ready, "all-reduce gradients")
        self.sent.setdefault(pp, []).extend(sent.values())
        self._stolen(pp, ready, axes, lambda path: cost.all_reduce_s(size, path))

    def _stolen(self, pp: int, ready: Waits, axes: tuple[str, ...], seconds: Callable[[cost.Route], float]) -> None:
        """What sending takes from the core that computes, from when it begins: beside it, so that a message which nothing is
        computed beside costs its own time and no more."""
        if self.cluster.steals:
            for rank in self.members[pp]:  # a time of the clock, whoever else computes
                takes_s = self._slowest(rank, axes, seconds) * self.cluster.steals * self.slower(rank)
                self.latest[rank] = self._add((rank,), "compute", takes_s, ready[rank], "beside sending")

    def _scatter(self, pp: int, block: Block, after: dict[int, int]) -> None:
        """A block's gradients become shards of sums. gloo is waited for."""
        lane = "communication" if self.is_gpu else "compute"
        size = 4.0 * block.numbers * self._held(block)
        after = self._compute_all(pp, self.asked.scattering.at(size) / self.contended, after, "lay gradients together")
        ready = {rank: (op,) for rank, op in after.items()}
        sent = self._together(
            pp, ("dp_shard",), lambda path: cost.scatter_s(size, path), ready, "reduce-scatter gradients", lane=lane
        )
        if self.is_gpu:
            self._stolen(pp, ready, ("dp_shard",), lambda path: cost.scatter_s(size, path))
        if self.layout.dp_replicate > 1:
            ready = {rank: (op,) for rank, op in sent.items()}
            part = size / self.layout.dp_shard
            sent = self._together(
                pp, ("dp_replicate",), lambda path: cost.all_reduce_s(part, path), ready, "all-reduce shards", lane=lane
            )
        self.sent.setdefault(pp, []).extend(sent.values())

    def _gather(self, pp: int, block: Block, after: Waits) -> dict[int, int]:
        """A block's sharded weights become whole."""
        numbers = block.numbers * self._held(block)
        size = self.asked.weight_bytes * numbers
        sent = self._together(pp, ("dp_shard",), lambda path: cost.gather_s(size, path), after, "all-gather weights")
        if self.is_gpu:
            return sent
        return self._compute_all(
            pp, self.asked.gathering.at(4.0 * numbers) / self.contended, sent, "put weights together"
        )

    def _statistics(self, pp: int, block: Block, after: dict[int, int]) -> dict[int, int]:
        """Norms meet once in a forward and once in a backward, and everything waits for it. They share the gradients' group, so
        their few bytes wait in line behind buckets on their way: on gloo's one connection, in NCCL's one stream."""
        if not block.norms or self.layout.data_ranks == 1 or self.layout.is_periodic:
            return after
        ranks = self.layout.data_ranks

        def seconds(path: cost.Route) -> float:
            return sum(cost.gather_s(ranks * (2 * channels + 1) * STATISTICS_BYTES, path) for channels in block.norms)

        waits = {rank: (op,) for rank, op in after.items()}
        found = self._together(pp, ("dp_replicate", "dp_shard"), seconds, waits, STATISTICS)
        self.latest |= found
        return found

    def _sums(self, pp: int, pairs: Sequence[float], short: float, m: int, after: dict[int, int]) -> dict[int, int]:
        """What divided layers add up over ranks, `pairs` bytes of a row, of which a short format leaves the share `short`; of
        images nobody wants the gradient."""
        sizes = [each * self.asked.activations(short) * self.rows[m] for each in pairs if each]
        if self.layout.tp == 1 or not sizes:
            return after
        waits = {rank: (op,) for rank, op in after.items()}
        return self._together(
            pp, ("tp",), lambda path: sum(cost.all_reduce_s(size, path) for size in sizes), waits, "partial sums", lane="compute"
        )  # fmt: skip

    def _buckets(self, blocks: Sequence[Block]) -> list[tuple[int, float, int]]:
        """Of the stage's gradients, in the order of sending: how many parameters must have theirs, bytes, parameters."""
        layout = self.layout
        if layout.dp_replicate == 1 or layout.dp_shard > 1 or layout.is_periodic:
            return []
        sizes = [4.0 * n * self._held(block) for block in reversed(blocks) for n in reversed(block.tensors)]
        if layout.is_whole:
            limits = (
                [self.asked.bucket_bytes] if self.asked.bucket_bytes else [FIRST_BUCKET_BYTES, cutting.BUCKET_BYTES]
            )
            groups = cutting.filled(sizes, limits=limits)
            sizes = [each / 4 * self.asked.gradient_bytes for each in sizes]  # cut as fp32, rounded when they are sent
        else:
            groups = cutting.within(sizes, limit=cutting.BUCKET_BYTES)
        return [(group[-1] + 1, sum(sizes[i] for i in group), len(group)) for group in groups]

    def _ready(self, pp: int) -> dict[int, int]:
        """What is left of a place when its last backward is done, before weights move: waiting for sums, and the loop's own."""
        layout, mine = self.layout, self._mine(pp)
        waits = {rank: tuple(self.sent.get(pp, ())) for rank in self.members[pp]}
        if not self.collapsed:  # each rank waits for its own group's
            own = {op: set(self.ops[op].ranks) for op in self.sent.get(pp, ())}
            waits = {rank: tuple(op for op, ranks in own.items() if rank in ranks) for rank in waits}
        if layout.tp > 1 and (self.is_gpu or layout.ranks > self.cluster.devices):
            whole = 4.0 * sum(b.numbers - b.divided_numbers for b in mine)
            copies = self._together(
                pp, ("tp",), lambda path: cost.broadcast_s(whole, path), waits, "copies", lane="compute"
            )
            waits = {rank: (*waits[rank], copies[rank]) for rank in waits}
        turns = min(self.cluster.devices, layout.data_ranks) * sum(self.rows) * self.asked.turn_s
        return self._compute(pp, self.asked.host_s + turns / self.contended, waits, "host")

    def _agree(self, ends: dict[int, int]) -> dict[int, int]:
        """What all ranks add up before weights move, and so wait for each other: the gradient's norm where none has all of it,
        sums and wishes."""
        everyone = self.routes.of_all()
        norm_s = 0.0 if self.layout.is_whole else cost.all_reduce_s(NORM_BYTES, everyone)
        for seconds, name in ((norm_s, "norm of the gradient"), (self._exchange_s(), "agree")):
            if seconds:
                index = self._add(tuple(ends), "compute", seconds, tuple(sorted(set(ends.values()))), name)
                ends = dict.fromkeys(ends, index)
        self.latest |= ends
        return ends

    def _exchange_s(self) -> float:
        """A step's share of the exchanges."""
        kind, together = self.cluster.device.kind, self.asked.sync_every
        steps = EXCHANGE_STEPS[kind]
        if self.layout.is_periodic:  # when they meet, and enough steps were made
            steps = min(APART_STEPS, together * math.ceil(steps / together))
        return cost.all_reduce_s(EXCHANGE_BYTES, self.routes.of_all()) / steps if self.asked.exchanges else 0.0

    def _move(self, pp: int, ends: dict[int, int]) -> None:
        """Weights move; ranks that train apart meet."""
        mine = self._mine(pp)
        held = sum(block.numbers * self._held(block) for block in mine) / self.layout.dp_shard
        after = {rank: ends[rank] for rank in self.members[pp]}
        after = self._compute_all(pp, self.asked.update_s * held, after, "optimizer")
        if self.layout.is_periodic:
            size = 4.0 * sum(block.numbers + block.buffers for block in mine)
            waits = {rank: (op,) for rank, op in after.items()}
            self._together(
                pp, ("dp_replicate",),
                lambda path: cost.all_reduce_s(size, path) / self.asked.sync_every + self._exchange_s(), waits,
                f"1/{self.asked.sync_every} of a meeting", lane="compute",
            )  # fmt: skip

    def _mine(self, pp: int) -> list[Block]:
        """The blocks of all stages of a place."""
        return [block for stage in range(pp, self.layout.stages, self.layout.pp) for block in self.stages[stage]]

    def _compute_all(self, pp: int, seconds: float, after: dict[int, int], name: str) -> dict[int, int]:
        return self._compute(pp, seconds, {rank: (op,) for rank, op in after.items()}, name)

    def _input(self) -> None:
        """The next step's images are prepared beside this one, by the ranks that see them, for all of a node at its own pace."""
        # Each of a tensor group reads all of the group's rows.
        here = min(self.cluster.devices, self.layout.data_ranks * self.layout.tp)
        seconds = max(
            sum(self.rows) * self.asked.input_s,
            self.asked.batch / self.layout.data_ranks * here / self.cluster.images_per_s,
        )
        if seconds:
            for pp in {0, self.layout.pp - 1}:
                for rank in self.members[pp]:
                    self._add((rank,), "input", seconds, (), "next batch")

    def _share(self, block: Block) -> float:
        """Of a block's time, what a rank takes."""
        return 1 - block.divided + block.divided / self.layout.tp

    def _held(self, block: Block) -> float:
        """Of a block's numbers, what a rank of its tensor group has."""
        if not block.numbers:
            return 1.0
        return 1 - block.divided_numbers / block.numbers * (1 - 1 / self.layout.tp)

    def _slowest(self, rank: int, axes: tuple[str, ...], seconds: Callable[[cost.Route], float]) -> float:
        """What the groups that `rank` stands for take: as long as the slowest of them."""
        return max(seconds(path) for path in self.routes.of(rank, axes))

    def _add(self, ranks: tuple[int, ...], lane: str, seconds: float, after: tuple[int, ...], name: str) -> int:
        self.ops.append(Op(ranks, lane, seconds, after, name))
        return len(self.ops) - 1
