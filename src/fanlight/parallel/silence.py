"""A step in which nothing is sent: each rank computes what it always does, on what it has itself. What comes out is no
training; how long it takes is what the step costs without the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fanlight.parallel import comm


class _Done:
    """In place of the handle of a message that is under way."""

    def __init__(self, *tensors: Tensor):
        self._tensors = list(tensors)

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        future.set_result(self._tensors)
        return future


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, this process's collectives and messages return at once. A sum is this rank's part of it; what others would
    send is this rank's own, or zeros: memory is written as it would be, and no number is one that slows a processor down.

    Every rank may be inside or not, as long as none outside waits for one that is. torch's functions are replaced by name,
    as shard.counting does, since sharded modules call them by themselves.
    """
    kept = dict(comm.sent)
    with contextlib.ExitStack() as replaced:
        for name, stand_in in STAND_INS.items():
            if inner := getattr(dist, name, None):
                replaced.callback(setattr, dist, name, inner)
                setattr(dist, name, stand_in)
        try:
            yield
        finally:
            comm.sent.clear()
            comm.sent.update(kept)  # nothing was


def _nothing(*given: Any, **_: Any) -> _Done:
    """Of all_reduce and broadcast, which change a tensor in place, and of sends."""
    return _Done(*[each for each in given[:1] if isinstance(each, Tensor)])


def _own_everywhere(outputs: list[Tensor], own: Tensor, *_: Any, **__: Any) -> _Done:
    for each in outputs:
        each.copy_(own)
    return _Done(*outputs)


def _own_in_every_part(*given: Any, **options: Any) -> _Done:
    output, own = _pair(given, options)
    flat = output.view(-1)
    for part in flat.split(own.numel()):
        part.copy_(own.reshape(-1)[: part.numel()])
    return _Done(output)


def _first_part(*given: Any, **options: Any) -> _Done:
    output, whole = _pair(given, options)
    output.view(-1).copy_(whole.reshape(-1)[: output.numel()])
    return _Done(output)


def _zeros(buffer: Tensor, *_: Any, **__: Any) -> _Done:
    buffer.zero_()
    return _Done(buffer)


def _pair(given: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Output and input of a collective on single tensors, by place or by name."""
    named = [options[key] for key in ("output_tensor", "output", "input_tensor", "input") if key in options]
    output, own = [each for each in (*given, *named) if isinstance(each, Tensor)][:2]
    return output, own


STAND_INS: dict[str, Callable[..., Any]] = {
    "all_reduce": _nothing, "broadcast": _nothing, "isend": _nothing, "irecv": _zeros, "all_gather": _own_everywhere,
    "all_gather_single": _own_in_every_part, "all_gather_into_tensor": _own_in_every_part,
    "reduce_scatter_single": _first_part, "reduce_scatter_tensor": _first_part,
}  # fmt: skip
