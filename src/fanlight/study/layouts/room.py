"""Points for which the memory of this machine is certainly too little: rows with the reason, instead of ranks that the system
kills and everybody's programs with them.

Counted is only what every rank must hold at the same time: weights, the optimizer's state and gradients of what is trained, and
the copy of the weights that the probe puts back. Images and activations come on top, so a point that passes may still fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fanlight import machine, tasks
from fanlight.console import bytes_text
from fanlight.models import freeze
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.recipe import Basis
from fanlight.train.optim import MOMENTS

DIVIDED = (
    "fsdp",
    "hsdp",
    "tensor",
    "pipeline",
    "model-parallel",
)  # whose ranks together hold the model once, or a few times


def checked(points: Sequence[Point], about: Basis) -> list[Point]:
    """The same points; those that cannot fit say so."""
    whole = held(about)
    free = {"cpu": machine.memory_available()}
    if any(point.device == "cuda" and not point.reason for point in points):
        # All of it: asking how much is free would make a context here, which takes what ranks then lack.
        free["cuda"] = torch.cuda.get_device_properties(0).total_memory
    return [replace(point, reason=point.reason or _short(point, whole, free)) for point in points]


def held(about: Basis) -> int:
    """Bytes of one whole model in training."""
    config = about.config
    task = tasks.of(config, about.manifest)
    model = task.model(config.model.name or "", image_px=config.data.image_px or 0, seed=0).model
    if config.model.freeze:
        freeze.freeze(model)
    weights = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    return 2 * weights + (1 + MOMENTS.get(config.optim.name, 1)) * trained


def _short(point: Point, whole: int, free: dict[str, int]) -> str:
    """Why it cannot fit; empty where it may."""
    if point.device == "cuda":  # a GPU each
        copies = 1.0 / point.ranks if point.layout in DIVIDED or "=" in point.layout else 1.0
        place, is_free = "a GPU has", ""
    else:
        copies = 1 if point.layout in DIVIDED or "=" in point.layout else point.ranks
        place, is_free = "this machine has", " free"
    if copies * whole <= free.get(point.device, 0):
        return ""
    return (
        f"weights, gradients and the optimizer's state take {bytes_text(copies * whole)} at least, and {place} "
        f"{bytes_text(free.get(point.device, 0))}{is_free}"
    )
