"""Which cores each rank of one machine keeps to, so that ranks neither meet nor move. Linux only; imports no torch.

The environment variable FANLIGHT_AFFINITY=off leaves ranks where the system puts them; so does any of BOUND_BY, with which
someone binds threads himself.
"""

from __future__ import annotations

import contextlib
import os
import platform
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fanlight import machine
from fanlight.errors import ConfigError

SWITCH = "FANLIGHT_AFFINITY"
BOUND_BY = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
CPUS = Path("/sys/devices/system/cpu")


def of_ranks(
    ranks: int, *, threads: int, cores: int | None = None, environment: Mapping[str, str] = os.environ
) -> list[list[int]] | None:
    """The cores of each rank: disjoint sets that together are all that this process may use, or `cores` of them. None where
    ranks stay unbound: a single one that may use all, fewer cores than compute threads (a bound rank could not use what
    another leaves idle), another system, or an environment that says so. ConfigError for a switch that is neither on nor
    off.
    """
    if unbound(environment):
        return None
    usable = os.sched_getaffinity(0)
    held = usable if cores is None else some(usable, cores, first=_first(len(usable)))
    if (ranks == 1 and cores is None) or len(held) < ranks * threads:
        return None
    return shares(in_order(held), ranks)


def unbound(environment: Mapping[str, str] = os.environ) -> str:
    """Why ranks are left where the system puts them; empty where they are not. ConfigError as of_ranks."""
    switch = environment.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise ConfigError(f"the environment variable {SWITCH} is {switch!r}; use on or off")
    if switch == "off":
        return f"{SWITCH} is off"
    if name := next((name for name in BOUND_BY if name in environment), None):
        return f"{name} is set"
    return "" if hasattr(os, "sched_getaffinity") else "this system cannot"


def _first(usable: int) -> int:
    """Where those begin that take some of the `usable` logical CPUs. Containers that a quota limits see all of the machine's,
    and would all take the same first ones: each begins where its host name says."""
    return zlib.crc32(platform.node().encode()) % usable if machine.cores_usable() < usable else 0


def some(usable: Collection[int], count: int, *, first: int = 0, cpus: Path = CPUS) -> list[int]:
    """`count` of the usable logical CPUs, or all there are: of each core its first hardware thread before any second one, and
    one processor's cores before the next one's, as whoever starts a program on so many cores means them. `first`: the place
    in that order where they begin; it goes round."""
    turns: dict[tuple[int, int], int] = {}
    ranked = []
    for cpu in in_order(usable, cpus=cpus):
        package, core, _ = _place(cpu, cpus)
        turn = turns[package, core] = turns.get((package, core), -1) + 1
        ranked.append((turn, package, core, cpu))
    order = [cpu for *_, cpu in sorted(ranked)]
    return (order[first:] + order[:first])[:count]


def shares(cores: Sequence[int], ranks: int) -> list[list[int]]:
    """The part of `cores` that each rank takes. Parts are disjoint and in order, their union is `cores`, and their sizes
    differ by one at most. Neighbours stay together wherever their number divides the size."""
    return [list(cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]) for rank in range(ranks)]


def in_order(usable: Collection[int], *, cpus: Path = CPUS) -> list[int]:
    """Logical CPUs such that those of a processor, and in it the hardware threads of one core, are neighbours. Where the
    system does not tell, each is a core of its own."""
    return sorted(usable, key=lambda cpu: _place(cpu, cpus))


def _place(cpu: int, cpus: Path) -> tuple[int, int, int]:
    """Processor, core (its first hardware thread) and logical CPU."""
    topology = cpus / f"cpu{cpu}" / "topology"
    package, core = 0, cpu
    with contextlib.suppress(OSError, ValueError):
        core = min(numbers((topology / "thread_siblings_list").read_text()))
        package = int((topology / "physical_package_id").read_text())
    return package, core, cpu


def numbers(text: str) -> list[int]:
    """The kernel's writing of a set of CPUs: `0-2,8` is 0, 1, 2, 8. ValueError for anything else."""
    found: list[int] = []
    for each in text.strip().split(","):
        low, _, high = each.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def bind(cores: Sequence[int]) -> None:
    """This thread, and whatever it starts from now on (compute and input threads), keeps to `cores`."""
    with contextlib.suppress(OSError):  # taken away in the meantime, by whoever runs the container
        os.sched_setaffinity(0, cores)
