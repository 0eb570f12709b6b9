"""Puts rank 1 of a pool into another network namespace, the one of the file that OTHER_PLACE names. A pool's clean process
imports this before it forks the ranks (`preload`); a rank's threads and sockets come after."""

import ctypes
import os
from typing import Any

from fanlight.parallel import comm
from fanlight.plan import confirm

CLONE_NEWNET = 0x40000000  # of setns(2)
ALONE = "two_places:alone"
_inner = comm.join


def join(*, rank: int, **options: Any) -> comm.World:
    if rank == 1:
        with open(os.environ["OTHER_PLACE"], "rb") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {place.name}")
    return _inner(rank=rank, **options)


def alone(world: comm.World, **asked: Any) -> dict[str, Any]:
    """A turn (confirm.py) of a serial config in each place, which begins when the other does."""
    world.barrier()
    return confirm.rank_turn(comm.alone(), **asked)


if "OTHER_PLACE" in os.environ:
    comm.join = join
