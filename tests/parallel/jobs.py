"""Functions that tests run on ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from fanlight.errors import ConfigError, DataError, Stopped
from fanlight.parallel.comm import World

ODD = {"not": "text"}.keys()  # a value that JSON cannot say


def who(world: World) -> dict:
    threads = torch.get_num_threads()
    return {"pid": os.getpid(), "rank": world.rank, "ranks": world.ranks, "threads": threads, "folder": os.getcwd()}


def use_cache(world: World, *, folder: str) -> None:
    os.environ["FANLIGHT_CACHE"] = folder


def echo(world: World, *, value: object) -> object:
    return value


def rank_sum(world: World) -> list[float]:
    return world.sum_host(np.array([1.0, world.rank])).tolist()


def gather_rows(world: World, *, counts: list[int]) -> list | None:
    """Rank r holds counts[r] rows of (r, row)."""
    rows = np.array([(world.rank, row) for row in range(counts[world.rank])], dtype=np.int32).reshape(-1, 2)
    gathered = world.gather(rows)
    return None if gathered is None else [str(gathered.dtype), gathered.tolist()]


def any_rank(world: World, *, flagged: list[int]) -> bool:
    return world.any(world.rank in flagged)


def device_sum(world: World) -> float:
    """Through the groups of gradients and of norms."""
    value = torch.full((1000,), float(world.rank), device=world.device)
    if world.group is not None:
        torch.distributed.all_reduce(value, group=world.group)
        torch.distributed.all_reduce(value, group=world.norm)
    world.barrier()
    return value.mean().item()


def not_json(world: World) -> object:
    return ODD


def refuse(world: World) -> None:
    raise DataError("photos/cat.jpg is empty")


def refuse_narrowly(world: World) -> None:
    class NarrowError(ConfigError):
        pass

    raise NarrowError("lr: -1")


def fail_on(world: World, *, rank: int, wait: bool) -> None:
    """One rank raises; the others wait for it in a collective, or answer."""
    if world.rank == rank:
        raise ValueError("no such thing")
    if wait:
        world.barrier()


def fail_one_after_another(world: World, *, failing: str) -> None:
    """The last rank fails first, once the file `failing` is there; the others later, because of it."""
    if world.rank == world.ranks - 1:
        Path(failing).touch()
    else:
        while not Path(failing).exists():
            time.sleep(0.01)
        time.sleep(0.5)
    raise ValueError(f"from {world.rank}")


def end_on(world: World, *, rank: int, how: str) -> None:
    """One rank ends in the middle of a collective."""
    world.barrier()
    if world.rank == rank:
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    world.barrier()


def wait_in_collective(world: World, *, started: str) -> None:
    """Rank 0 never comes."""
    Path(started, str(world.rank)).write_text(str(os.getpid()))
    if world.rank == 0:
        time.sleep(600)
    world.barrier()


def start_a_child(world: World) -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def until_asked(world: World, *, started: str, heed: bool) -> str:
    """Works until SIGTERM; then stops as training does (all ranks at the same step), or returns as if nothing was."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    Path(started, str(world.rank)).write_text("")
    while not world.any(bool(asked)):
        time.sleep(0.01)
    time.sleep(0.3)  # for a second request that must not come
    if heed:
        raise Stopped(f"saved after {len(asked)} request")
    return "done"


def deaf(world: World, *, started: str) -> None:
    """Hears SIGTERM and goes on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started, str(world.rank)).write_text("")
    time.sleep(600)
