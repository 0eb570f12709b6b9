"""Forget what is inside blocks in the forward, compute it again in the backward (Chen et al. 2016, "Training deep nets
with sublinear memory cost"): a network keeps one tensor per block, and pays with a second forward.

The second forward is the first, bit for bit: norms normalise by the same batch and leave their running statistics alone,
keyed dropout drops the same elements.
"""

import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from fanlight.errors import ConfigError
from fanlight.models import cut, keyed
from fanlight.models.keyed import Keys

_KEYS = "fanlight_recompute_keys"


def install(model: nn.Module, keys: Keys) -> int:
    """Every block of `model` from now on forgets and computes again while it trains; returns how many blocks.

    Parameters, names and state stay. `keys` are those of the model's keyed dropout. ConfigError for a network without
    blocks.
    """
    if why := why_not(model):
        raise ConfigError(why)
    names = cut.blocks(model)
    for name in names:
        block = model.get_submodule(name)
        block.__dict__[_KEYS] = keys
        block.__dict__["forward"] = types.MethodType(_forward, block)  # a bound method is copied with its module
    return len(names)


def why_not(model: nn.Module) -> str:
    """Why `install` would refuse it; empty where it would not."""
    if cut.blocks(model):
        return ""
    return (
        f"execution.recompute: {type(model).__name__} has no blocks that repeat, between which tensors could be kept; "
        "leave --recompute out, use more --microbatches to save memory, or another --model"
    )


def _forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    plain = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return plain(block, *inputs, **options)
    keys: Keys = block.__dict__[_KEYS]
    kept = keys.now

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _again(block, keys, kept)

    return checkpoint(
        plain, block, *inputs, use_reentrant=False, context_fn=contexts,
        preserve_rng_state=bool(keyed.unkeyed(block)), **options,
    )  # fmt: skip


@contextmanager
def _again(block: nn.Module, keys: Keys, kept: torch.Tensor | None) -> Iterator[None]:
    """Inside, a forward of `block` sees the keys that it had and moves no running statistics.

    A momentum of 0 leaves them as they are, to the bit. Without them autograd would save fewer tensors than it did in
    the first forward, and refuse.
    """
    norms = [m for m in block.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    now, keys.now = keys.now, kept
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        keys.now = now
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
