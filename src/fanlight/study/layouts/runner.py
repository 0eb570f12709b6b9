"""Runs what is missing of a study: rounds through all points, each point in each round a training run and its probe, on
ranks that are kept from run to run."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fanlight import console, machine
from fanlight.errors import DiskError, FanlightError, Stopped
from fanlight.parallel.launch import Pool
from fanlight.study import stats
from fanlight.study.layouts import folder, intervals, job, limit, measured, recipe
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.recipe import Basis
from fanlight.train import folder as run_folders
from fanlight.train import memory, prepare, resolve

BUSY_S = 0.3  # over which other programs' use of the cores is looked at, before each run
RANKS_PER_CORE = (
    4  # that are kept between runs, over all pools: those of every number of ranks up to the cores, and of a curve
)
RANK_BYTES, MEMORY_SHARE = 200 << 20, 0.25  # of a kept rank, from experience; of the free memory, that all may take
PROBED_ROUNDS = 3  # at least; a probe takes longer than its run, and later rounds may only be for narrower speedups
PRELOAD = ("torch", "timm", "cv2", "fanlight.study.layouts.job")


@dataclass
class Runner:
    """The runs of one study."""

    study: Path
    basis: Basis
    points: list[Point]
    block_s: float
    repeats: int
    begun: float  # time.monotonic()
    time_limit_s: float | None = None
    took_s: dict[str, float] = field(default_factory=dict)  # the newest run of each point, probe and all
    guess_s: Mapping[str, float] = field(default_factory=dict)  # of a point that has not run yet
    # Is told how many rounds are done, after each that was not before.
    finished: Callable[[int], object] = lambda rounds: None
    _pools: dict[tuple[int, int, str, int | None], Pool] = field(default_factory=dict)
    # Points that the time left is too short for, and from which round on, counted from 1.
    _late: dict[str, int] = field(default_factory=dict)

    def mend(self) -> None:
        """Finished runs that cannot be read any more are measured again; else their study would end in every report."""
        for point in self.points:
            for run in sorted(filter(folder.is_done, (self.study / "runs").glob(f"{point.name}-*"))):
                if run.name[len(point.name) + 1 :].isdecimal() and (why := measured.torn(run, point)):
                    aside = folder.put_aside(run)
                    why = why.split("; ")[0]  # the way out is taken here
                    console.warn(
                        f"{run} cannot be read", why=why, do=f"It is measured again; what is left of it is {aside}"
                    )

    def rounds(self, asked: int | None) -> str:
        """Runs rounds until `asked` are done; None: until their intervals are narrow. A point whose run would end after the time
        limit is left out from then on, since there will never be more time, and shorter ones go on. Why rounds are missing, in
        words; empty where none are."""
        number = 0
        while (points := self._turn(number)) and (asked is None or number < asked):
            if asked is None and number and intervals.enough(self._families()):
                break
            is_new = False
            for point in points:
                run = folder.run_of(self.study, point, number)
                if folder.is_done(run):
                    continue
                if self._is_late(point):
                    self._late[point.name] = number + 1
                    continue
                try:
                    self._one(point, number, run)
                except limit.TimeOver:
                    return self._over(number + 1, f", in the middle of {point.name}")
                is_new = True
                console.say(self._words(point, number, run))
            number += 1
            if is_new:
                self.finished(number)
        if not self._late:
            return ""
        if self._fitting():
            return f"the time limit left out {self._left_out()}"
        return self._over(max(self._late.values()))

    def _over(self, number: int, where: str = "") -> str:
        """That the time limit ended round `number`, counted from 1, and who was left out before."""
        left_out = self._left_out(before=number)
        return f"the time limit ended it in round {number}{where}" + (f"; it left out {left_out}" if left_out else "")

    def _left_out(self, *, before: float = math.inf) -> str:
        """Points by the round from which on they were left out, of the rounds `before`."""
        numbers = sorted({number for number in self._late.values() if number < before})
        named = [(", ".join(name for name, each in self._late.items() if each == number), number) for number in numbers]
        return " and ".join(f"{names} from round {number} on" for names, number in named)

    @contextlib.contextmanager
    def open(self) -> Iterator[Runner]:
        try:
            yield self
        finally:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def alive(self) -> list[Point]:
        """Points that can run, and did not fail so far."""
        return [
            point for point in self.points
            if not point.reason and not any(
                (run / folder.FAILURE).exists() for run in (self.study / "runs").glob(f"{point.name}-*")
            )
        ]  # fmt: skip

    def _fitting(self) -> list[Point]:
        """Points that can run, and for which there was time so far."""
        return [point for point in self.alive() if point.name not in self._late]

    def _turn(self, number: int) -> list[Point]:
        """The order of a round: each begins with another point."""
        points = self._fitting()
        first = number % max(1, len(points))
        return points[first:] + points[:first]

    def _families(self) -> list[list[list[float]]]:
        """Rates by round of the points that have a baseline in common, it first. Who was left out would wait for rounds in
        vain."""
        found: dict[tuple[str, str], list[list[float]]] = {}
        for point in sorted(self._fitting(), key=lambda point: (not point.is_baseline, point.cores)):
            found.setdefault((point.device, point.precision), []).append(measured.rates(self.study, point))
        return list(found.values())

    def _is_late(self, point: Point) -> bool:
        return self.took_s.get(point.name, self.guess_s.get(point.name, 0.0)) > self._left_s()

    def _left_s(self) -> float:
        """Until the time limit; infinite where there is none."""
        return math.inf if self.time_limit_s is None else self.begun + self.time_limit_s - time.monotonic()

    def _one(self, point: Point, number: int, run: Path) -> None:
        """One run and its probe. A point that cannot be measured leaves its reason, and where it happened; only a request to
        stop, the time limit (limit.TimeOver) and a full disk (DiskError), which is no point's fault, end the study, and the run
        is as if it had not been begun."""
        folder.discard(run)
        begin = time.monotonic()
        try:
            with console.quiet(also_warnings=True):
                self._train_and_probe(point, number, run)
        except (Stopped, KeyboardInterrupt):
            folder.discard(run)
            raise Stopped(f"stopped; continue with: fanlight study {self.basis.data} --resume {self.study}") from None
        except limit.TimeOver:
            folder.discard(run)
            raise
        except (FanlightError, OSError, RuntimeError, MemoryError) as error:
            if isinstance(error, DiskError) or memory.disk_is_full(error):
                folder.discard(run)
                why = _first_line(error).split("; ")[0]  # the way out of a run alone does not lead on here
                raise DiskError(
                    f"{why}; free some room, then continue with: fanlight study --resume {self.study}"
                ) from error
            own = getattr(error, "rank_traceback", None)  # where it happened, if that was on a rank
            folder.fail(run, _first_line(error), log=own or "".join(traceback.format_exception(error)))
        self.took_s[point.name] = time.monotonic() - begin

    def _train_and_probe(self, point: Point, number: int, run: Path) -> None:
        busy = psutil.cpu_percent(interval=BUSY_S) / 100
        pool = self._pool(point)
        end_s = None if self.time_limit_s is None else self.begun + self.time_limit_s
        with limit.until(end_s, pool):
            split_at = self._cut(point, pool)
            config = recipe.config_of(point, self.basis, seed=number, split_at=split_at)
            is_cold, entered = not pool.pids, time.time()
            self._prepare(config, run)
            pool.run(job.TRAIN, run=str(run), entered=entered)
            begin, blocks = time.perf_counter(), []
            if number < PROBED_ROUNDS or not self._adds_up(point):
                probing = {"block_s": self.block_s, "repeats": self.repeats, "turn": number}
                blocks = pool.run(job.PROBE, run=str(run), **probing)
            link = self._link(point, pool, run)
            folder.finish(run, {
                "point": point.name, "round": number, "busy_before": busy, "cold": is_cold,
                "seconds": time.perf_counter() - begin, **link,
                "blocks": [row for rank in blocks for row in rank],
            })  # fmt: skip

    def _link(self, point: Point, pool: Pool, run: Path) -> dict[str, Any]:
        """What sending costs (`link`), once for each point; or why that could not be measured (`link_reason`). A later round
        tries again: the run and its probe are good."""
        found: dict[str, Any] = {"link": None, "link_reason": ""}
        if point.ranks == 1 or any(row["link"] for row in measured.rounds(self.study, point)):
            return found
        try:
            return found | {"link": pool.run(job.LINK, run=str(run))[0]}
        except Stopped:
            raise
        except (FanlightError, OSError, RuntimeError, MemoryError) as error:
            why = "the time limit came before it was measured" if self._left_s() <= 0 else _first_line(error)
            return found | {"link_reason": why}

    def _adds_up(self, point: Point) -> bool:
        """Whether it is known, on a machine as noisy as this, how far its shares add up."""
        shares = [1 - row["unexplained"] for row in measured.rounds(self.study, point) if row["shares"]]
        return all(share > 0 for share in shares) and not intervals.is_wide(intervals.both(stats.center(shares)))

    def _prepare(self, config: Any, run: Path) -> None:
        gathered = prepare.Gathered(config, resolve.Choices(config), self.basis.manifest, {})
        prepare.prepare(config, out=run, command=self.basis.command, gathered=gathered)

    def _cut(self, point: Point, pool: Pool) -> tuple[str, ...] | None:
        """Where the pipeline of `point` is cut: as in its first round, else measured."""
        if not recipe.is_cut(point) or self.basis.config.execution.split_at:
            return self.basis.config.execution.split_at
        for run in sorted((self.study / "runs").glob(f"{point.name}-*")):
            if (run / folder.PROBE).exists():
                return run_folders.read_config(run).execution.split_at
        trial = self.study / "runs" / f".cut-{point.name}"
        folder.discard(trial)
        self._prepare(recipe.config_of(point, self.basis, seed=0, split_at=None), trial)
        try:
            return tuple(pool.run(job.CUTS, run=str(trial))[0])
        finally:
            folder.discard(trial)

    def _pool(self, point: Point) -> Pool:
        cores = _held(point)
        key = (point.ranks, point.threads, point.device, cores)
        pool = self._pools.pop(key, None)
        if pool is None or not pool.is_open:
            while self._pools and sum(each.ranks for each in self._pools.values()) + point.ranks > _kept_most():
                self._pools.pop(next(iter(self._pools))).close()  # used longest ago
            pool = Pool(point.ranks, device=point.device, threads=point.threads, cores=cores, preload=PRELOAD)
        self._pools[key] = pool  # the newest last
        return pool

    def _words(self, point: Point, number: int, run: Path) -> str:
        reason = folder.failure(run)
        if reason is not None:
            return f"round {number + 1}  {point.name}: failed: {reason}"
        rate, accuracy = measured.headline(run, point)
        told = "" if accuracy is None else f"  accuracy {accuracy:.3f}"
        took = console.seconds_text(self.took_s[point.name])
        return f"round {number + 1}  {point.name}: {rate:,.1f} images/s{told}  ({took})"


def _kept_most() -> int:
    """Ranks, over all pools: those that a round comes back to need not start again, as long as they leave room for it."""
    return min(RANKS_PER_CORE * machine.cores_usable(), int(machine.memory_available() * MEMORY_SHARE / RANK_BYTES))


def _held(point: Point) -> int | None:
    """On how many cores a point's ranks are kept, input threads and all: as many as it is charged for. None: on all, where it
    has them all."""
    is_part = point.device == "cpu" and (point.cores == 1 or point.cores < machine.cores_usable())
    return point.cores if is_part else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
