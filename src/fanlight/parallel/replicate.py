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

from fanlight.parallel import comm
from fanlight.parallel.comm import World

# torch 2.15 renamed the option; the old name can go when it is the oldest that is supported.
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_BUFFERS_OPTION = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


class Replicated:
    """A model replicated over `world.group`. `module` is the plain model, `wrapped` what a training forward calls."""

    gathers = False

    def __init__(
        self, module: nn.Module, world: World, *, bucket_mb: float | None = None, sent_as: torch.dtype | None = None
    ):
        """`bucket_mb`: of gradient buckets, in 2²⁰ bytes; None: torch's. `sent_as`: what gradients are rounded to."""
        self.module = module
        self.sent_at = 0.0  # time.perf_counter() when the newest bucket was handed to the network
        ids = [world.device.index] if world.device.type == "cuda" else None
        # Buffers are equal on all ranks by construction (synchronised norms), so broadcasting them each step is waste.
        options: dict[str, Any] = {_BUFFERS_OPTION: False, "gradient_as_bucket_view": True}
        if bucket_mb is not None:
            options["bucket_cap_mb"] = bucket_mb
        self._sent_as = sent_as
        self.wrapped: Any = DistributedDataParallel(module, device_ids=ids, process_group=world.group, **options)
        self.wrapped.register_comm_hook(world.group, self._sum)

    def _sum(self, group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Forward: nothing. Backward: a gradient bucket becomes the sum of all ranks' buckets."""
        self.sent_at = time.perf_counter()
        buffer = bucket.buffer()
        rounded = buffer if self._sent_as is None else buffer.to(self._sent_as)
        comm.sent["gradients"] += rounded.nbytes
        work: Any = dist.all_reduce(rounded, group=group, async_op=True)
        if rounded is buffer:
            return work.get_future().then(lambda done: done.value()[0])
        return work.get_future().then(lambda done: buffer.copy_(done.value()[0]))

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


class Scattered:
    """torch's DataParallel: one process copies the model to its GPUs at every step, scatters the batch, gathers the outputs.

    Another algorithm: norms see each GPU's own rows. Kept to be measured; ranks of their own are faster.
    """

    gathers = False
    sent_at = 0.0

    def __init__(self, module: nn.Module):
        self.wrapped: Any = nn.DataParallel(module)

    def accumulating(self, more: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients add up by themselves: there is one set of them."""
        return contextlib.nullcontext()

    def settle(self, example: torch.Tensor) -> None:
        """Nothing."""

    def dissolve(self) -> None:
        """Nothing holds the parameters."""
