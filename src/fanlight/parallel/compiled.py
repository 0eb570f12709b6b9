"""torch.compile of a training forward, in place: block by block where the model has blocks, else whole.

Names, state, hooks and gradients stay the model's own; evaluation is never compiled, so that its rows are the same bits
on any number of ranks and threads (compiled code has the number of threads built in).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from fanlight.models import cut
from fanlight.parallel import norm

BACKEND = "inductor"
VARIANTS = 64  # of one block's code: widths, strides and keyed draws differ between blocks; torch gives up after 8


class Compiled:
    """The compiled parts of a model, off until `on`. Compilation itself happens in the first steps after it."""

    def __init__(self, model: nn.Module, *, device: torch.device):
        names = cut.blocks(model)
        self.parts: list[nn.Module] = [model.get_submodule(name) for name in names] or [model]
        self._device = device
        self._calls: list[Callable[..., Any] | None] = []

    def on(self) -> None:
        """Raises whatever torch raises on a system that it cannot compile on."""
        if not self._calls:
            _set_up(self._device)
            for part in self.parts:
                part.compile(backend=BACKEND)
            # What Module.compile leaves and Module.__call__ asks for; a copy of the module does not have it.
            self._calls = [part._compiled_call_impl for part in self.parts]
        for part, call in zip(self.parts, self._calls):
            part._compiled_call_impl = call

    def off(self) -> None:
        for part in self.parts:
            part._compiled_call_impl = None

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, the model computes as if it were not compiled."""
        before = [part._compiled_call_impl for part in self.parts]
        self.off()
        try:
            yield
        finally:
            for part, call in zip(self.parts, before):
                part._compiled_call_impl = call


def _set_up(device: torch.device) -> None:
    """Process-wide switches of torch's compiler."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    dynamo.recompile_limit = max(VARIANTS, dynamo.recompile_limit)
    dynamo.optimize_ddp = False  # it would split each block at DDP's buckets; blocks are smaller than those
    if device.type == "cpu":
        inductor.compile_threads = 1  # else it starts processes of its own, which would outlive a killed rank
    norm.stay_out_of_graphs()
