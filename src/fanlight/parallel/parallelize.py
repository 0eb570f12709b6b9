"""One function applies a layout to a model, in one order; each line says why it stands where it does."""

from __future__ import annotations

import torch
from torch import nn

from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.norm import synchronise
from fanlight.parallel.replicate import Replicated


def parallelize(model: nn.Module, layout: Layout, world: World, *, channels_last: bool) -> Replicated | None:
    """Places the whole `model` (initialised on CPU) on this rank and connects it to the others; None when it is alone.

    The optimizer is made after this, from what the rank holds then.
    """
    place(model, layout, world, channels_last=channels_last)
    return replicate(model, layout, world)


def place(model: nn.Module, layout: Layout, world: World, *, channels_last: bool) -> None:
    """All that is done to the `model` itself, once; what of it is replicated may change while it trains."""
    # The device first: everything after it holds references to the parameters in place.
    model.to(world.device)
    # Memory format before replication: gradient buckets are views with the parameters' strides.
    if channels_last:
        model.to(memory_format=torch.channels_last)
    # Norms before replication: DDP must see the modules whose parameters it reduces.
    if not _is_alone(layout, world):
        assert world.norm is not None
        synchronise(model, world.norm)


def replicate(module: nn.Module, layout: Layout, world: World) -> Replicated | None:
    """Gradients of what asks for them in `module`, now, are summed over the ranks; None when this rank is alone."""
    return None if _is_alone(layout, world) else Replicated(module, world)


def _is_alone(layout: Layout, world: World) -> bool:
    return layout.dp_replicate == 1 or world.ranks == 1
