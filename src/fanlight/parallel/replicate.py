"""Replication: every rank holds the whole model and sees its own rows; gradients are summed over ranks (DDP).

Li et al. 2020, "PyTorch Distributed". Gradients are *summed*, not averaged, because the loss is already divided by the
global denominator. The hook also says when the last bucket was handed over, so exposed communication can be told from
backward computation.
"""

import contextlib
import inspect
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fanlight.parallel.comm import World

# torch 2.15 renamed the option; the old name can go when it is the oldest that is supported.
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_BUFFERS_OPTION = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


class Replicated:
    """A model replicated over `world.group`. `module` is the plain model, `wrapped` what a training forward calls."""

    def __init__(self, module: nn.Module, world: World):
        self.module = module
        self.last_bucket_at = 0.0  # time.perf_counter() when the newest bucket was handed to the network
        ids = [world.device.index] if world.device.type == "cuda" else None
        # Buffers are equal on all ranks by construction (synchronised norms), so broadcasting them each step is waste.
        options: dict[str, Any] = {_BUFFERS_OPTION: False, "gradient_as_bucket_view": True}
        self.wrapped = DistributedDataParallel(module, device_ids=ids, process_group=world.group, **options)
        self.wrapped.register_comm_hook(world.group, self._sum)

    def _sum(self, group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Forward: nothing. Backward: a gradient bucket becomes the sum of all ranks' buckets."""
        self.last_bucket_at = time.perf_counter()
        work: Any = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    @contextlib.contextmanager
    def accumulating(self, more: bool) -> Iterator[None]:
        """While `more` microbatches follow, gradients stay here; the last one's backward sends the sum once."""
        with self.wrapped.no_sync() if more else contextlib.nullcontext():
            yield

    def dissolve(self) -> None:
        """Lets go of the parameters, so that another set of them can be replicated: a reducer knows those that it was
        made with, and would wait for the others forever."""
        self.wrapped._remove_autograd_hooks()

    def settle(self, example: torch.Tensor) -> None:
        """Two throw-away passes, buffers put back: DDP regroups its buckets by the order of the first backward.

        On three and more ranks the grouping decides in which order a sum is rounded; a resumed run would differ from
        the undisturbed one in its first step. Keyed dropouts need their keys set before. The regrouping is
        `rebuild_buckets` in torch/csrc/distributed/c10d/reducer.cpp.
        """
        kept = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        for _ in range(2):
            self.wrapped(example).float().sum().backward()
        self.module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(kept[name])
