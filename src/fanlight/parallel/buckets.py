"""Sums of gradients over ranks, in buckets that are sent while the backward goes on (Li et al. 2020, section 3.2.3).

For replicas of a pipeline's stages and of divided layers, where several forwards are under way before a backward and
where torch's DistributedDataParallel, which counts one forward to one backward, cannot follow.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fanlight.parallel import comm, cutting

BUCKET_BYTES = cutting.BUCKET_BYTES


class Buckets:
    """Parameters of `modules`, last layers first, in buckets. Sums go over `group`, in place of each gradient."""

    wrapped: nn.Module | None = None
    gathers = False

    def __init__(self, modules: Sequence[nn.Module], group: dist.ProcessGroup, *, bucket_bytes: int = BUCKET_BYTES):
        self._group = group
        self._buckets: list[list[nn.Parameter]] = []
        self._left: list[int] = []  # gradients that each bucket still waits for
        self._sending: list[tuple[list[nn.Parameter], Tensor, Any]] = []
        self.sent_at = 0.0  # time.perf_counter() when the newest bucket was handed to the network
        self._armed, self._next = False, 0  # the bucket that is sent next
        self._place: dict[nn.Parameter, int] = {}
        self._hooks = []
        order = list(reversed([p for module in modules for p in module.parameters() if p.requires_grad]))
        for _, same in itertools.groupby(order, key=lambda p: p.dtype):  # one format in a bucket
            parameters = list(same)
            for bucket in cutting.within([p.nbytes for p in parameters], limit=bucket_bytes):
                self._buckets.append([parameters[index] for index in bucket])
        for number, members in enumerate(self._buckets):
            for parameter in members:
                self._place[parameter] = number
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._arrived))

    def arm(self) -> None:
        """The next backward brings the last gradients of the step: a bucket is sent when all of its are there."""
        self._armed, self._next = True, 0
        self._left = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Waits until every gradient is the sum over ranks. A parameter that the backward did not reach counts as 0, since
        another rank's may not be."""
        for index in range(self._next, len(self._left)):
            self._send(index)
        for bucket, flat, work in self._sending:
            work.wait()
            pieces = flat.split([p.numel() for p in bucket])
            for parameter, piece in zip(bucket, pieces):
                assert parameter.grad is not None
                _flat(parameter.grad).copy_(piece)
        self._sending.clear()
        self._left, self._armed, self._next = [], False, 0

    @contextlib.contextmanager
    def accumulating(self, more: bool) -> Iterator[None]:
        """While `more` microbatches follow, gradients stay here; the last one's backward sends the sums."""
        if not more:
            self.arm()
        yield
        if not more:
            self.finish()

    def settle(self, example: Tensor) -> None:
        """Nothing: buckets are what they are from the first step on."""

    def dissolve(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, parameter: nn.Parameter) -> None:
        if not self._armed:
            return
        self._left[self._place[parameter]] -= 1
        while self._next < len(self._left) and self._left[self._next] == 0:  # in one order on all ranks
            self._send(self._next)

    def _send(self, index: int) -> None:
        bucket = self._buckets[index]
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([_flat(p.grad) for p in bucket])  # type: ignore[arg-type]
        self._next = index + 1
        self.sent_at = time.perf_counter()
        comm.sent["gradients"] += flat.nbytes
        self._sending.append((bucket, flat, dist.all_reduce(flat, group=self._group, async_op=True)))


def _flat(gradient: Tensor) -> Tensor:
    """A one-dimensional view in the order of memory, which is the same on all ranks."""
    return comm.dense(gradient).view(-1)
