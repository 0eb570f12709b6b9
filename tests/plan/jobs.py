"""What ranks do for the tests of the plan."""

from typing import Any

import torch

from fanlight.config import Config
from fanlight.parallel import comm
from fanlight.parallel.comm import World
from fanlight.plan import lock, turns
from fanlight.train import memory, probe

VALUES = {
    "data.image_px": 96, "data.canvas_px": 120, "augment.crop_share": [0.5, 1.0], "augment.eval_share": 1.0, "augment.flip": True,
    "optim.lr": 0.001, "optim.weight_decay": 0.05, "train.epochs": 8, "train.precision": "fp32", "execution.threads": 1,
    "execution.workers": 1, "execution.channels_last": True, "execution.layout": "serial", "execution.ranks": 1,
}  # fmt: skip


def config(**values: Any) -> Config:
    return Config().with_values({**VALUES, **{key.replace("__", "."): value for key, value in values.items()}})


def peak(world: World, *, model: str, batch: int, number_format: str) -> dict[str, int]:
    """Of a process that makes a few steps, and what it held before."""
    torch.set_num_threads(1)
    base = memory.held_here(world.device)
    bench = probe.Bench(
        config(model__name=model, train__batch_size=batch, train__precision=number_format), classes=10, world=world
    )
    few = bench.measure(batch=8, warmup=1, steps=1)
    timed = bench.measure(batch=batch, warmup=1, steps=1)
    return {"base_bytes": base, "few_bytes": few.peak_bytes, "peak_bytes": timed.peak_bytes}


def measured(world: World, *, model: str, image_px: int, batch: int) -> dict[str, Any]:
    values = {"model.name": model, "data.image_px": image_px, "data.canvas_px": image_px, "train.batch_size": batch}
    values |= {"execution.ranks": world.ranks, "execution.layout": "ddp" if world.ranks > 1 else "serial"}
    about: dict[str, Any] = {"config": config().with_values(values).document(), "classes": 3}
    first = turns.begun(world, **about, formats=1)
    sizes = first["sizes"]
    before = comm.sent["statistics of norms"]
    windows = [turns.window(world, **about, sizes=sizes, precisions=["fp32"], is_first=not at) for at in range(2)]
    return {"first": first, "windows": windows, "sent": comm.sent["statistics of norms"] - before}


def hold_turn(began: Any, may_end: Any) -> None:
    """Measures, as far as others can tell, from one event to the other."""
    with lock.alone():
        began.set()
        may_end.wait(60)
