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
    # The device first: everything after it holds references to the parameters in place.
    model.to(world.device)
    # Memory format before replication: gradient buckets are views with the parameters' strides.
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if layout.dp_replicate == 1 or world.ranks == 1:
        return None
    # Norms before replication: DDP must see the modules whose parameters it reduces.
    assert world.norm is not None
    synchronise(model, world.norm)
    return Replicated(model, world)
