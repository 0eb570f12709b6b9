"""Jobs that beat, for tests of stalls."""

import os
import threading
import time
from pathlib import Path

from fanlight.parallel.comm import World


def cores(world: World) -> list[list[int]]:
    """Of this rank, and of a thread that it starts."""
    found = [sorted(os.sched_getaffinity(0))]
    thread = threading.Thread(target=lambda: found.append(sorted(os.sched_getaffinity(0))))
    thread.start()
    thread.join()
    return found


def step_for_ever(world: World, *, started: str) -> None:
    step = 0
    while True:
        world.heartbeat.beat("input", step=step)
        time.sleep(0.01)
        world.heartbeat.enter("exchange")
        world.barrier()
        step += 1
        if step == 3:
            Path(started, str(world.rank)).write_text("")


def never_join(world: World, *, rank: int) -> None:
    """After two steps `rank` does not come to the collective in which the others wait."""
    for step in range(3):
        world.heartbeat.beat("input", step=step)
        if step == 2 and world.rank == rank:
            time.sleep(600)
        world.barrier()


def work_unseen(world: World, *, seconds: float) -> str:
    """Longer than the limit, first without a beat, then in a phase of rank 0 for which the others wait."""
    time.sleep(seconds)
    world.heartbeat.beat("input", step=0)
    if world.is_first:
        world.heartbeat.announce("evaluate")
        time.sleep(seconds)
    world.barrier()
    return "done"
