"""A rank that makes no progress for too long ends the run, with its name, instead of letting everyone wait for it.

Who watches reads the ranks' heartbeats: a Pool's owner those of all its ranks, and under torchrun or Slurm each rank its
own. A job that never beats is not watched. The environment variable FANLIGHT_STALL_S sets how many seconds are too long
(`inf`: never); by default FLOOR_S or INTERVALS times the longest interval between beats so far, whichever is more.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import psutil

from fanlight import errors
from fanlight.parallel import heartbeat
from fanlight.parallel.heartbeat import Beat, Heartbeat

VARIABLE = "FANLIGHT_STALL_S"
FLOOR_S = 300.0
INTERVALS = 20
ANNOUNCED_S = 6 * 3600.0  # without a sign in a phase that may take any time: there is one per batch of an evaluation
LOOK_S = 1.0  # between looks, or a quarter of a shorter limit
STACKS_SIGNAL = signal.SIGUSR1  # asks a pool's rank for its stacks
STACKS_S = 2.0  # for ranks to write down their stacks
SETTLED_S = 0.05  # a stack that does not grow for so long is whole


def chosen(argument: float | None) -> float | None:
    """The limit that the caller or else the environment sets; None: it follows from the beats. ConfigError where it is no
    number above 0."""
    name, text = ("stall_s", str(argument)) if argument is not None else (VARIABLE, os.environ.get(VARIABLE, ""))
    if not text:
        return None
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise errors.ConfigError(f"{name} is {text!r}; use seconds above 0, or inf to wait for ever")


def limit_s(beats: Sequence[Beat], *, chosen_s: float | None) -> float:
    """Seconds without a beat that are too long."""
    return chosen_s or max(FLOOR_S, INTERVALS * max((beat.longest_s for beat in beats), default=0.0))


class Watch:
    """Looks at heartbeats now and then. `pids` are the ranks' processes, empty where they are not to be asked for."""

    def __init__(self, memory: heartbeat.Memory, *, ranks: int, stall_s: float | None):
        self._memory, self._ranks, self._chosen_s = memory, ranks, chosen(stall_s)
        self.look_s = min(LOOK_S, (self._chosen_s or math.inf) / 4)
        self._looked_at = -math.inf
        self.begin()

    def begin(self) -> None:
        """Another job begins."""
        self._seen = [0] * self._ranks  # beats
        self.idle_s = [0.0] * self._ranks

    def beats(self) -> list[Beat]:
        return [heartbeat.read(self._memory, rank=rank) for rank in range(self._ranks)]

    def is_stalled(self, pids: Sequence[int] = (), *, answered: Collection[int] = ()) -> bool:
        """Whether the ranks that have not `answered` stand still: none of them has moved for too long, and none is in a
        phase that may take any time (the others wait for it), or has been for ANNOUNCED_S without any sign. A rank that a
        signal has stopped is a stall in any phase.
        """
        now = time.monotonic()
        if now - self._looked_at < self.look_s:
            return False
        # Seconds that were watched: after a sleep of the whole machine or container nobody has moved, and nobody stalls.
        watched_s = min(now - self._looked_at, 2 * self.look_s)
        self._looked_at = now
        beats = self.beats()
        working = [rank for rank in range(self._ranks) if rank not in answered]
        for rank in working:
            moved = beats[rank].beats != self._seen[rank]
            self.idle_s[rank] = 0.0 if moved or not beats[rank].beats else self.idle_s[rank] + watched_s
            self._seen[rank] = beats[rank].beats
        limit = limit_s(beats, chosen_s=self._chosen_s)
        silent = [rank for rank in working if self.idle_s[rank] >= limit]
        if any(is_stopped(pids[rank]) for rank in silent if pids):
            return True
        patient_s = max(limit, ANNOUNCED_S)
        excused = any(
            not beats[rank].beats or (beats[rank].announced and self.idle_s[rank] < patient_s) for rank in working
        )
        return bool(silent) and len(silent) == len(working) and not excused

    def verdict(self, folder: str, pids: Sequence[int], *, ask: Callable[[], None]) -> errors.TrainingError:
        """What to raise for a stall, after the ranks' stacks went to standard error. `ask` sends them the signal."""
        beats, stopped = self.beats(), [is_stopped(pid) for pid in pids]
        alive = [rank for rank in range(self._ranks) if not stopped[rank] and beats[rank].beats]
        ask()
        found = _collect(folder, alive)
        for rank in range(self._ranks):
            words = "it is stopped by a signal and cannot tell" if stopped[rank] else found.get(rank) or "none came"
            print(f"rank {rank}, {_where(beats[rank])}, stacks of its threads:\n{words}", file=sys.stderr, flush=True)
        suspects = [rank for rank in range(self._ranks) if stopped[rank]] or alive
        rank = min(suspects, key=lambda rank: (waits(found.get(rank, "")), beats[rank].at_s))
        why = "it is stopped by a signal, such as SIGSTOP" if stopped[rank] else "see its stacks on standard error"
        return errors.TrainingError(
            f"rank {rank} made no progress for {self.idle_s[rank]:.0f} s, {_where(beats[rank])}: {why}. All ranks were ended; "
            "the run can be resumed from its newest checkpoint (fanlight train --resume). Where such pauses are usual, "
            f"{VARIABLE} allows more seconds"
        )


def waits(stack: str) -> int:
    """How surely a rank of these stacks waits for others: 2 in a message, 1 in a backward pass, which may wait for one
    unseen, 0 elsewhere. `stack` is faulthandler's; the thread that the signal came to is the main one."""
    _, _, current = stack.partition("Current thread")
    newest = next((line for line in (current or stack).splitlines() if line.startswith("  File ")), "")
    if "/torch/distributed/" in newest or "/fanlight/parallel/" in newest:
        return 2
    return int("/torch/autograd/" in newest)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (a debugger that holds it is another matter)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def stacks_path(folder: str, rank: int) -> Path:
    """Where a rank of the pool of `folder` writes its stacks when it is asked."""
    return Path(folder, f"stacks-{rank}")


def guard(own: Heartbeat, *, rank: int, stall_s: float | None = None, end: Callable[[int], object] = os._exit) -> None:
    """For a rank that a launcher started: a thread that ends this process, with its stacks on standard error, when it has
    made no progress for too long. The launcher then ends the others; a code that holds the interpreter's lock for ever
    is noticed by those who wait for it."""
    watch = Watch(own.memory, ranks=1, stall_s=stall_s)

    def look() -> None:
        while not watch.is_stalled():
            time.sleep(watch.look_s)
        beat = watch.beats()[0]
        print(
            f"Error: rank {rank} made no progress for {watch.idle_s[0]:.0f} s, {_where(beat)}: it, or one that it waits for, "
            "stands still. It ends, so that its launcher ends the others; the run can be resumed from its newest checkpoint "
            f"(fanlight train --resume). Where such pauses are usual, {VARIABLE} allows more seconds. Stacks of its threads:",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        faulthandler.dump_traceback(file=sys.__stderr__ or 2)
        end(errors.TrainingError.exit_code)

    threading.Thread(target=look, name="stall", daemon=True).start()


def _where(beat: Beat) -> str:
    return f"after {beat.step} steps ({beat.phase})" if beat.beats else "not training"


def _collect(folder: str, ranks: Sequence[int]) -> dict[int, str]:
    """The stacks that ranks have written within STACKS_S, as far as they came."""
    deadline, sizes = time.monotonic() + STACKS_S, [-1]
    while time.monotonic() < deadline:
        now = [stacks_path(folder, rank).stat().st_size for rank in ranks]
        if all(now) and now == sizes:
            break
        sizes = now
        time.sleep(SETTLED_S)
    return {rank: stacks_path(folder, rank).read_text(errors="replace") for rank in ranks}
