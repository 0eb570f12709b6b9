"""One task of an engine, done wherever its worker is: read images, make results, put them where they belong.

Pixels go into a file or shared memory by positioned writes; only what an engine without such a place (other machines)
asks for is returned. A worker needs nothing but the task: no manifest, no pool, no state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import numpy as np

from fanlight.data import canvas
from fanlight.data.engines.operations import Operation
from fanlight.data.manifest import read_file
from fanlight.errors import DataError


class Job(NamedTuple):
    """One image. A list of plain values in JSON."""

    path: str  # of the image's file, or of a file of pixels
    height: int  # of the image as its header says, or of the pixels
    width: int
    file_bytes: int = 0  # of the image's file
    sha256: str = ""  # that the file must have; empty: not looked at
    offset: int = -1  # byte where pixels begin in a file of pixels; −1: path is an image
    place: int = 0  # byte of the output where the result begins


class Task(NamedTuple):
    """Several images for one worker."""

    operation: Operation
    jobs: list[Job]
    out: str | None = None  # file that results are written to; None: they are returned


@dataclass
class Outcome:
    """Of one task, by the number of the job in it."""

    failed: dict[int, str] = field(default_factory=dict)  # why an image could not be decoded
    arrays: list[np.ndarray | None] = field(default_factory=list)  # where no file was given; None where it failed


def run(task: Task, *, begins: Callable[[int], None] = lambda number: None) -> Outcome:
    """Does a task; `begins` is told each job before it is touched. An image that cannot be decoded is an entry in
    `failed`; DataError, with the file's name, where it is not what was checked."""
    outcome = Outcome()
    file = open(task.out, "r+b", buffering=0) if task.out else None  # noqa: SIM115
    try:
        for number, job in enumerate(task.jobs):
            begins(number)
            try:
                result = task.operation(image(job))
            except canvas.Unreadable as error:
                outcome.failed[number] = error.reason
                result = None
            if file is None:
                outcome.arrays.append(result)
            elif result is not None:
                write_at(file, result, job.place)
    finally:
        if file is not None:
            file.close()
    return outcome


def write_at(file: BinaryIO, result: np.ndarray, at: int) -> None:
    """Without moving a file's position where the system can. A memory map would be shorter, but its pages fault one by
    one, and threads queue for that."""
    rest = result.reshape(-1).view(np.uint8).data
    while len(rest):
        if hasattr(os, "pwrite"):
            written = os.pwrite(file.fileno(), rest, at)
        else:  # Windows; the file is open for this task alone
            file.seek(at)
            written = file.write(rest)
        rest, at = rest[written:], at + written


def image(job: Job) -> bytes | np.ndarray:
    """What an operation is done to: a file's bytes, which must be those that were checked, or mapped pixels."""
    if job.offset >= 0:
        count = job.height * job.width * 3
        return _mapped(job.path)[job.offset : job.offset + count].reshape(job.height, job.width, 3)
    try:
        data = read_file(job.path)
    except OSError as error:
        raise DataError(
            f"cannot read {job.path}: {error.strerror}. It changed since it was checked; run `fanlight check` again"
        ) from None
    if job.sha256 and hashlib.sha256(data).hexdigest() != job.sha256:  # its pixels would go by another file's name
        raise DataError(f"{job.path} changed since it was checked; run `fanlight check` again")
    return data


@lru_cache(maxsize=64)
def _mapped(path: str) -> np.ndarray:
    return np.memmap(path, np.uint8, mode="r")
