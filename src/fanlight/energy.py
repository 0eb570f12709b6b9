"""Cumulative energy counters of this machine: processors and memory by Linux's powercap, NVIDIA GPUs by their library. J joules.

A counter counts all that its package or GPU took, whoever used it: idle cores and other programs are in it. Only differences
of two readings mean anything. What cannot be read is `Unreadable`, with the reason, and never 0. Imports no torch.
"""

from __future__ import annotations

import ctypes
import functools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU, GPU = "cpu", "gpu"  # kinds of counters
SYSTEM = Path("/sys")
ZONE = re.compile(r"intel-rapl:\d+(?P<part>:\d+)?")  # a zone, or a part of one; AMD's have this name too
PACKAGE, MEMORY = "package", "dram"  # what zones are called; a package's name goes on with its number
MOST_W = 1000.0  # more than any package takes: within so little time a counter starts anew at most once
NOT_SUPPORTED = 3  # of the library's answers
HIDDEN = (
    "the system shows no energy counters of its processors (class/powercap has no package); virtual machines and many "
    "containers hide them, and systems other than Linux have none there"
)


@dataclass(frozen=True)
class Unreadable:
    """In place of what no counter tells."""

    reason: str  # and what would help, where something would


@dataclass(frozen=True)
class Reading:
    """What the counters say at one moment, since some moment in the past."""

    at_s: float  # time.perf_counter()
    joules: Mapping[str, float]  # by source: package-0, dram-0, gpu-0
    ranges: Mapping[str, float]  # joules after which a source starts at 0 again, of those that do
    lacking: Mapping[str, str]  # kinds that were asked for and cannot be read, with the reason


@dataclass(frozen=True)
class Spent:
    """What lies between two readings."""

    seconds: float
    joules: dict[str, float]  # by source


class NoCounter(Exception):
    """Counters of one kind cannot be read; the message says why."""


class Counters:
    """The counters of this machine's packages and memory, and of `gpus`, UUIDs as `GPU-…`; sources gpu-0, gpu-1 … are in their
    order."""

    def __init__(self, *, gpus: Sequence[str] = (), system: Path = SYSTEM, library: Any = None):
        """`library`: in place of libnvidia-ml, which is loaded only where there are `gpus`."""
        self._lacking: dict[str, str] = {}
        self._zones: list[Zone] = []
        self._gpus: Gpus | None = None
        try:
            self._zones = zones(system)
        except NoCounter as error:
            self._lacking[CPU] = str(error)
        if gpus:
            try:
                self._gpus = Gpus(gpus, library or _library())
            except NoCounter as error:
                self._lacking[GPU] = str(error)

    def read(self) -> Reading | Unreadable:
        """All that can be read; Unreadable where that is nothing."""
        at_s, lacking = time.perf_counter(), dict(self._lacking)
        joules: dict[str, float] = {}
        try:
            joules |= {zone.source: zone.joules() for zone in self._zones}
        except NoCounter as error:
            lacking[CPU] = str(error)
        try:
            if self._gpus is not None:
                joules |= self._gpus.joules()
        except NoCounter as error:
            lacking[GPU] = str(error)
        if not joules:
            return Unreadable("; ".join(lacking.values()))
        ranges = {zone.source: zone.range_j for zone in self._zones if zone.source in joules}
        return Reading(at_s, joules, ranges, lacking)


def between(first: Reading, second: Reading) -> Spent | Unreadable:
    """What was spent from one reading to a later one. Unreadable where a source came or went meanwhile, or where it may have
    started anew more than once."""
    if changed := sorted(first.joules.keys() ^ second.joules.keys()):
        why = "; ".join(second.lacking.values()) or "it was not there before"
        return Unreadable(f"the counter of {changed[0]} cannot be read all the time: {why}")
    seconds, joules = second.at_s - first.at_s, {}
    for source, now_j in second.joules.items():
        spent_j, range_j = now_j - first.joules[source], second.ranges.get(source)
        if range_j is not None and seconds * MOST_W > range_j:
            return Unreadable(
                f"{seconds:.0f} s lie between two readings of {source}, which starts at 0 again every {range_j:,.0f} J and may "
                "have done so more than once; smaller steps are read more often"
            )
        if spent_j < 0 and range_j is not None:
            spent_j += range_j
        if spent_j < 0:
            return Unreadable(f"the counter of {source} went back by {-spent_j:,.0f} J: its driver was started anew")
        joules[source] = spent_j
    return Spent(seconds, joules)


# --- processors


@dataclass(frozen=True)
class Zone:
    """A package, or the memory at one, which no package's counter has in it."""

    source: str
    counter: Path
    range_j: float

    def joules(self) -> float:
        return _number(self.counter) / 1e6


def zones(system: Path = SYSTEM) -> list[Zone]:
    """Every package and every memory, once. Memory is counted apart from its package, although the system shows it below it
    (package-1's is dram-1 here), or as a zone of its own. The other parts of a package (core, uncore) are in it already, and
    `psys`, the whole board, has all of them in it. NoCounter where one cannot be read: a sum that lacks a package would be
    none."""
    found: dict[str, Zone] = {}
    for place in sorted((system / "class/powercap").glob("intel-rapl:*")):
        source = _source(place)
        if not source:
            continue
        if source in found:
            source = f"{source}-{place.name.rpartition(':')[2]}"
        found[source] = Zone(source, place / "energy_uj", _number(place / "max_energy_range_uj") / 1e6)
    if not any(source.startswith(PACKAGE) for source in found):
        raise NoCounter(HIDDEN)
    for zone in found.values():
        zone.joules()
    return list(found.values())


def _source(place: Path) -> str:
    """What a zone is called here; empty for one that is not to be counted."""
    kind, name = ZONE.fullmatch(place.name), _name(place)
    if kind is None or not (name.startswith(PACKAGE) or name == MEMORY):
        return ""
    if not kind["part"]:
        return name
    owner = _name(place.with_name(place.name.rpartition(":")[0]))
    return f"{MEMORY}{owner.removeprefix(PACKAGE)}" if name == MEMORY and owner.startswith(PACKAGE) else ""


def _name(place: Path) -> str:
    """Empty where the system hides the zone, as containers do."""
    try:
        return (place / "name").read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise NoCounter(
            f"{path} may be read by root only, since fine readings tell others' secrets; where all users of the machine are "
            f"trusted, until its next start: sudo chmod a+r {path.parent.parent}/intel-rapl:*/energy_uj"
        ) from None
    except OSError as error:
        raise NoCounter(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise NoCounter(f"{path}: {error}") from None


# --- GPUs


class Gpus:
    """The counters of some GPUs, since their driver was loaded. They never start anew. NoCounter where one has none."""

    def __init__(self, uuids: Sequence[str], library: Any):
        self._library = library
        self._ask("nvmlInit_v2")  # the library counts these calls; it stays ready until the process ends
        self._handles = {f"gpu-{number}": self._handle(uuid) for number, uuid in enumerate(uuids)}
        self.joules()

    def joules(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for source, handle in self._handles.items():
            millijoules = ctypes.c_ulonglong()
            self._ask("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(millijoules))
            found[source] = millijoules.value / 1e3
        return found

    def _handle(self, uuid: str) -> ctypes.c_void_p:
        """By UUID: the library numbers all GPUs of the machine, a process those that it may see."""
        handle = ctypes.c_void_p()
        self._ask("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
        return handle

    def _ask(self, name: str, *arguments: Any) -> None:
        try:
            answer = getattr(self._library, name)(*arguments)
        except AttributeError:
            raise NoCounter(f"this driver's library has no {name}; a newer driver has") from None
        if not answer:
            return
        said = self._library.nvmlErrorString(answer)
        more = ""
        if answer == NOT_SUPPORTED:
            more = ": GPUs before Volta have no energy counter, nor have parts of a GPU and many virtual ones"
        raise NoCounter(f"NVIDIA's library answers {name} with {(said or b'an error').decode()!r}{more}")


@functools.cache
def _library() -> Any:
    """NVIDIA's management library, as its driver brings it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        raise NoCounter("libnvidia-ml.so.1, which comes with NVIDIA's driver, cannot be loaded") from None
    library.nvmlErrorString.restype = ctypes.c_char_p
    return library
