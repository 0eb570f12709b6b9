"""What test_silence.py runs on ranks: steps in which nothing is sent, then steps in which everything is."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fanlight.parallel import comm
from fanlight.parallel.comm import World
from fanlight.parallel.silence import STAND_INS, silent
from fanlight.train.proof import gradients
from parallel import micro  # noqa: F401  (registers the networks)
from parallel.layout_jobs import sums_of
from parallel.parity_jobs import batches, training


def alone_and_together(world: World, *, folder: str, values: dict[str, Any]) -> dict[str, Any]:
    """Each rank steps rank + 1 times on its own, which would hang if one waited; then all from the old state, as they would
    have. Gradients of both, and whether anything was left of the silence."""
    t = training(world, folder, values, dtype="fp32")
    kept = {name: value.detach().clone() for name, value in t.tensors().items()}
    batch = next(batches(t))
    sums_of(t, batch)  # learns what travels
    expected = gradients(t)
    t.restore(kept)
    for part in t.step.parts:
        part.zero_grad(set_to_none=True)
    functions = {name: getattr(dist, name, None) for name in STAND_INS}
    sent = dict(comm.sent)
    with silent():
        for _ in range(world.rank + 1):
            t.step(batch, loss_scale=1.0, clock=_clock(t))
            silently = gradients(t)
            t.update(0)
    equal_sent = dict(comm.sent) == sent
    t.restore(kept)
    sums_of(t, batch)
    again = gradients(t)
    own = gradients(t)
    return {
        "finite": all(bool(value.isfinite().all()) for value in silently.values()),
        "differs": any(not torch.equal(silently[name], value) for name, value in expected.items()),
        "again": all(torch.allclose(again[name], value, atol=1e-6) for name, value in expected.items()),
        "put_back": all(getattr(dist, name, None) is each for name, each in functions.items()),
        "nothing_sent": equal_sent, "gradients": len(own),
    }  # fmt: skip


def meet(world: World, *, place: str) -> bool:
    """Whether a rank that meets the others inside the silence waits for the last of them, which leaves a file when it comes."""
    meeting, late = world.meeting(), Path(place) / "late"
    with silent():
        world.barrier()  # is silent: nobody waits in it
        if world.rank == world.ranks - 1:
            time.sleep(0.5)
            late.touch()
        meeting()
    return late.exists()


def _clock(t: Any) -> Any:
    from fanlight.train.clock import StepClock

    clock = StepClock(t.world.device)
    clock.begin()
    return clock
