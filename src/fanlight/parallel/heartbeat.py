"""A rank's signs of progress, in memory that whoever watches it can read without asking. Imports no torch.

A slot of 64 bytes per rank: the optimizer step, the phase, when it began, and the longest that one took. A beat is one
store into memory, without a system call or a lock: a reader may meet a slot half-written, and reads the rest the next time.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

SLOT = struct.Struct("qddq?31s")  # step, at_s, longest_s, beats, announced, phase
NAME = "heartbeats"  # of the file in a pool's folder

Memory = bytearray | mmap.mmap


@dataclass(frozen=True)
class Beat:
    """What a slot says. Times are of time.monotonic, which all processes of a machine share."""

    step: int
    at_s: float  # when the phase began
    longest_s: float  # between two beats of this job, announced phases apart
    beats: int  # of this job; 0: it has not begun to beat, or has ended
    announced: bool  # the phase may take any time
    phase: str


class Heartbeat:
    """A rank's own slot. Without `memory`, one that nobody reads."""

    def __init__(self, memory: Memory | None = None, *, rank: int = 0):
        self.memory: Memory = bytearray(SLOT.size) if memory is None else memory
        self._offset = rank * SLOT.size
        self.rest()

    def beat(self, phase: str, *, step: int) -> None:
        """A phase of usual length begins, after `step` optimizer steps."""
        self._step = step
        self._tell(phase, announced=False)

    def announce(self, phase: str) -> None:
        """A phase begins that may take any time: until the next `beat`, hours of silence are no stall (stall.ANNOUNCED_S)."""
        self._tell(phase, announced=True)

    def enter(self, phase: str) -> None:
        """A phase inside the one before begins: an announcement goes on."""
        self._tell(phase, announced=self._announced)

    def rest(self) -> None:
        """The job is over: nothing is watched until the next beat."""
        self._step, self._beats, self._at_s, self._longest_s, self._announced = 0, 0, 0.0, 0.0, True
        SLOT.pack_into(self.memory, self._offset, 0, 0.0, 0.0, 0, False, b"")

    def _tell(self, phase: str, *, announced: bool) -> None:
        now = time.monotonic()
        if not self._announced:
            self._longest_s = max(self._longest_s, now - self._at_s)
        self._at_s, self._announced = now, announced
        self._beats += 1
        said = (self._step, now, self._longest_s, self._beats, announced, phase.encode())
        SLOT.pack_into(self.memory, self._offset, *said)


def read(memory: Memory, *, rank: int = 0) -> Beat:
    step, at_s, longest_s, beats, announced, phase = SLOT.unpack_from(memory, rank * SLOT.size)
    return Beat(step, at_s, longest_s, beats, announced, phase.rstrip(b"\0").decode(errors="replace"))


def create(folder: str, ranks: int) -> mmap.mmap:
    """The slots of a pool's ranks, in its folder."""
    Path(folder, NAME).write_bytes(
        bytes(ranks * SLOT.size)
    )  # whole: storing into a file's hole may fail on a full disk
    return attach(folder)


def attach(folder: str) -> mmap.mmap:
    """The slots that `create` made, in another process."""
    with open(Path(folder, NAME), "r+b") as file:
        return mmap.mmap(file.fileno(), 0)
