"""Short blocks of training steps on ranks, each with one thing changed, in turns: their differences are what the thing costs.

    full      the loop's own steps: batches from the loader, everything sent
    memory    the same on one batch that is there already
    together  that batch, nothing sent: all ranks begin their steps at the same time, and wait for nobody on the clock
    alone     the same on one rank while the others sleep
    few       alone, on fewer (or more) rows: what does not shrink with them is what a step costs anyway

The model, the step, the optimizer and the loader are the run's own, from its last state, to which they return.

In the run a rank waits for messages in every step, and between two steps in which nothing is sent it sleeps as long, off the
clock: a processor that rests now and then is quicker afterwards, and the system lets who rests go before who never does.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fanlight import machine
from fanlight.data.loader import Cutting, train_batches
from fanlight.parallel import link
from fanlight.parallel.comm import World
from fanlight.parallel.silence import silent
from fanlight.study.layouts.spent import GROUP, Spent, typical
from fanlight.train import build, fitted, folder, precision, state
from fanlight.train import probe as probes
from fanlight.train.clock import PARTS, StepClock
from fanlight.train.ledger import APART_STEPS, Ledger
from fanlight.types import Batch, Position

STEPS_LEAST, STEPS_MOST = 3, 200  # of a block
ROWS_LEAST = 8  # of a microbatch on a rank: below, fewer rows would be too few for norms, and more are measured
FULL = 2  # times as many steps of the kind that is held against the run's own
ALONE_MOST = 4  # ranks that are measured alone in one repetition; the next one takes the next
Row = dict[str, Any]


class Bench:
    """A run's configuration, built again on the ranks of `world`; in the run's last state unless it is not `restored`."""

    def __init__(self, world: World, run: Path, *, restored: bool = True):
        config, manifest = folder.read_config(run), folder.read_manifest(run)
        torch.set_num_threads(config.execution.threads or 1)
        if world.device.type == "cpu":
            machine.keep_freed_memory()
        precision.set_up(config.train.precision or "fp32", world.device, deterministic=config.train.deterministic)
        config, _ = fitted.buckets(config, run, world)
        self.world, self.t = world, build.build(config, manifest, world, resumed=True)
        self.t.enter((config.train.epochs or 1) - 1)
        if restored:
            tensors, document = state.load(state.whole(run / "checkpoints")[-1], part_of=self.t.part_of)
            self.t.restore(tensors)
            self.t.optimizer.restore_scalars(document)
        self.t.feed()
        self.period = config.train.sync_every or 1 if self.t.layout.is_periodic else 1
        self._kept = {name: value.detach().clone() for name, value in self.t.tensors().items()}
        self._clock = StepClock(world.device, heartbeat=world.heartbeat)
        self._ledger = Ledger(world, every=min(self.period, APART_STEPS))
        self._made_s = 0.0  # seconds that the newest batch took to make
        self._pause_s = 0.0  # after a step in which nothing is sent
        whole = self.t.steps_per_epoch * (config.train.epochs or 1)
        self._steps_in_all = max(1, whole // self.period) * self.period  # after which learning rates begin anew
        self._step = self._silent_step = (
            0  # steps so far; the first is the same on every rank, which decides when ranks meet
        )
        self.batch = probes.made_up_batch(self.t)
        self.rows = max(len(part.samples) for part in self.batch.parts)  # of a microbatch on this rank
        self._few = probes.made_up_batch(self.t, batch=_fewer(self.t.cutting))
        self.few_rows = max(len(part.samples) for part in self._few.parts)

    def measure(self, *, block_s: float, repeats: int, turn: int = 0) -> list[Row]:
        """`repeats` times every kind of block, each of about `block_s` seconds; in every repetition another one begins, the
        `turn`-th in the first."""
        t, workers = self.t, self.t.config.execution.workers or 1
        stream = train_batches(
            t.samples["train"], t.cutting, start=Position(0, 0), epochs=1_000_000, workers=workers,
            pin=self.world.device.type == "cuda",
        )  # fmt: skip
        found: list[Row] = []
        with contextlib.closing(stream):
            count = self._count(block_s)
            for repetition in range(repeats):
                kinds = ["full", "memory", *(["together"] if self.world.ranks > 1 else []), "alone"]
                now = turn + repetition
                first = now % len(kinds)
                for kind in kinds[first:] + kinds[:first]:
                    rows = self._block(kind, stream, count=count, ahead=workers + 2, turn=now)
                    found += [{"kind": name, "repetition": repetition, **row} for name, row in rows]
        return found

    def link(self) -> dict[str, Any]:
        """Seconds of all-reduces of all ranks by bytes, of a gather, and how much of sending is taken from computing."""
        one = itertools.repeat(self.batch)

        def compute() -> None:
            with silent():
                self._one(one, is_joined=False)

        self._one(one, is_joined=True)  # a pipeline learns what travels for so many rows
        found = link.sweep(self.world, compute=compute)
        self._restore()
        told = {"all_reduce_s": found.all_reduce_s, "gather_s": found.gather_s, "steals": found.steals}
        return {"ranks": self.world.ranks, **told}

    def _count(self, block_s: float) -> int:
        """Steps of a block, the same on every rank: a multiple of the steps between two meetings of the ranks."""
        self._one(itertools.repeat(self._few), is_joined=True)  # a pipeline learns what travels for so many rows
        one = itertools.repeat(self.batch)
        times = [seconds for _ in range(max(3, self.period)) for seconds in self._timed(one, is_joined=True)]
        told = self.world.tell({"step_s": statistics.median(times[1:])})
        if self.world.ranks > 1:
            with silent():
                own = [seconds for _ in times for seconds in self._timed(one, is_joined=False)]
            self._restore()
            self._pause_s = max(0.0, told["step_s"] - statistics.fmean(own[1:]))
        wanted = min(STEPS_MOST, max(STEPS_LEAST, round(block_s / told["step_s"])))
        return -(-wanted // self.period) * self.period

    def _block(
        self, kind: str, stream: Iterator[Batch], *, count: int, ahead: int, turn: int
    ) -> Iterator[tuple[str, Row]]:
        """The rows of one block, with their kinds: `alone` brings `few` with it."""
        world, one = self.world, itertools.repeat(self.batch)
        world.barrier()
        if kind == "full":
            self.steps(stream, count=ahead, is_joined=True)  # what was made ahead meanwhile is no measure
            yield kind, self.steps(stream, count=FULL * count, is_joined=True)
            time.sleep(min(1.0, (ahead + 1) * self._made_s))  # until no input thread works ahead any more
        elif kind == "memory":
            self.steps(one, count=self.period, is_joined=True)
            yield kind, self.steps(one, count=count, is_joined=True)
        elif kind == "together":
            meet = world.meeting()
            with silent():
                self.steps(one, count=self.period, meet=meet)
                yield kind, self.steps(one, count=count, meet=meet)
            self._restore()
        else:
            for rank in self._turns(turn):
                world.barrier()
                if rank == world.rank:
                    with silent():
                        if world.ranks > 1:  # else it is what `memory` was
                            self.steps(one, count=self.period)
                            yield "alone", self.steps(one, count=count)
                        few = itertools.repeat(self._few)
                        self.steps(few, count=self.period)
                        yield "few", {**self.steps(few, count=count), "rows": self.few_rows}
                    self._restore()
                world.barrier()

    def _turns(self, turn: int) -> list[int]:
        """The ranks that are measured alone now: all of a pipeline's, whose work differs."""
        ranks = self.world.ranks
        return [(turn + each) % ranks for each in range(ranks if self.t.layout.pp > 1 else min(ranks, ALONE_MOST))]

    def steps(
        self, batches: Iterator[Batch], *, count: int, is_joined: bool = False, meet: Callable[[], object] | None = None
    ) -> Row:  # fmt: skip
        """At least `count` steps: what a step and its parts usually take, in seconds as for the run's own, and what the process
        used. `meet` is called, off the clock, as often as ranks meet in the run: what ranks share is shared only as long as they
        do the same thing at once, and where nothing is sent nothing else sees to that."""
        first, before = len(self._clock), Spent.now()
        totals: list[float] = []
        while len(totals) < count:
            if meet is not None and len(totals) % self.period == 0:  # the same on every rank
                meet()
            totals += self._timed(batches, is_joined=is_joined)
        used = Spent.now() - before
        self._clock.finish()
        rows = self._clock.since(first)
        parts = {f"{part}_s": [row[f"{part}_s"] for row in rows] for part in PARTS}
        parts["rest_s"] = [row["total_s"] - sum(row[f"{part}_s"] for part in PARTS) for row in rows]
        return {
            "rank": self.world.rank, "rows": self.rows, "steps": len(rows), "step_s": typical(totals, period=self.period),
            **{part: typical(times, period=self.period) for part, times in parts.items()},
            "cpu_s": used.cpu_s / len(rows), "queued_s": used.queued_s / len(rows),
        }  # fmt: skip

    def _timed(self, batches: Iterator[Batch], *, is_joined: bool) -> list[float]:
        """Seconds of each of the next steps: of one, or on a GPU of a few, since waiting for it after each would change them."""
        is_cuda = self.world.device.type == "cuda"
        count, begin = GROUP if is_cuda else 1, time.perf_counter()
        for _ in range(count):
            self._one(batches, is_joined=is_joined)
        if is_cuda:
            torch.cuda.synchronize(self.world.device)
        took_s = time.perf_counter() - begin
        if not is_joined:
            time.sleep(count * self._pause_s)
        return [took_s / count] * count

    def _one(self, batches: Iterator[Batch], *, is_joined: bool) -> None:
        """A step as the loop makes it; unless joined, of this rank alone, whose sums nobody asks for."""
        t, clock = self.t, self._clock
        self.world.heartbeat.announce("probe")
        clock.begin()
        batch = next(batches)
        clock.arrived()
        sums = t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock)
        norm = t.ready()
        clock.mark("optimizer")
        number = self._step if is_joined else self._silent_step
        if is_joined:
            self._made_s = batch.seconds
            self._ledger.add(sums, denominator=batch.denominator, norm=norm)
            if self._ledger.is_due:
                self._ledger.exchange(step=number + 1, stop=False, save=False)
                clock.mark("rest")
        t.move(number % self._steps_in_all)
        clock.mark("optimizer")
        self._step, self._silent_step = self._step + is_joined, self._silent_step + (not is_joined)
        clock.end(step=number, epoch=0, images=batch.rows)

    def _restore(self) -> None:
        """Weights and the optimizer's state as the run left them: steps in which nothing is sent are no training."""
        self.t.restore(self._kept)


def _fewer(cutting: Cutting) -> int:
    """Rows of a smaller batch, a quarter, the same for every rank; of a larger one where that would leave a rank too few."""
    least = cutting.microbatches * cutting.ranks * cutting.augment.row_unit
    if cutting.batch < ROWS_LEAST * cutting.microbatches * cutting.ranks:
        return 4 * cutting.batch
    return max(1, cutting.batch // 4 // least) * least
