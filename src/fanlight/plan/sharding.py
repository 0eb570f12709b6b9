"""What sharding takes on CPUs, messages and all: hooks around each block, its weights sent for and put together, its gradients
laid side by side and sent. Measured with torch's own sharding (parallel/shard.py) of blocks that compute next to nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.parallel.shard import Sharded
from fanlight.plan import cost
from fanlight.plan.cost import Line

SIZES = (256 << 10, 4 << 20)  # bytes of a block's weights
BLOCKS, TENSORS, ROWS = (
    3,
    8,
    64,
)  # of a chain; of a block, as a residual one has them; of a tensor, over which ranks divide it
REPEATS = 2


@dataclass(frozen=True)
class Passes:
    """Seconds of one sharded block beyond those of the same block whole, by the bytes of its weights."""

    forward_s: dict[int, float]
    backward_s: dict[int, float]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Passes:
        """From a document, whose keys are text."""
        return cls(*({int(size): value for size, value in told[each.name].items()} for each in fields(cls)))


def measure(world: World) -> Passes:
    """Collective; every rank gets rank 0's numbers."""
    forward_s, backward_s = {}, {}
    for size in SIZES:
        whole, sharded = _chain(size), _chain(size)
        layout = layouts.parse("fsdp", ranks=world.ranks)
        parts = Sharded(
            sharded, replace(world, shard=world.group, replicate=None), layout,
            blocks=[str(block) for block in range(BLOCKS)], number_format="fp32", held_before={},
        )  # fmt: skip
        times = [(_passes(whole, world), _passes(parts.wrapped, world)) for _ in range(1 + REPEATS)][1:]
        forward_s[size], backward_s[size] = (
            median(max(0.0, with_it[at] - without[at]) for without, with_it in times) / BLOCKS for at in (0, 1)
        )
    told = world.tell({"forward": list(forward_s.values()), "backward": list(backward_s.values())})
    return Passes(dict(zip(SIZES, told["forward"])), dict(zip(SIZES, told["backward"])))


def lines(measured: Sequence[Passes]) -> tuple[Line, Line]:
    """Seconds by bytes of a forward and of a backward, from several measurements."""
    forward, backward = (
        cost.through((SIZES[0], SIZES[1]), (at[0], at[1]))
        for at in (
            [median(getattr(each, one.name)[size] for each in measured) for size in SIZES] for one in fields(Passes)
        )
    )
    return forward, backward


def beyond(passes: tuple[Line, Line], path: cost.Route) -> tuple[Line, Line]:
    """Seconds by bytes that gathering a block's weights, and scattering its gradients, take beside what messages over `path`
    take: a forward gathers, a backward gathers again and scatters."""
    forward, backward = passes
    found = []
    for whole, sent_s in ((forward, cost.gather_s), (backward - forward, cost.scatter_s)):
        at = [max(0.0, whole.at(size) - sent_s(size, path)) for size in SIZES]
        found.append(cost.through((SIZES[0], SIZES[1]), (at[0], at[1])))
    return found[0], found[1]


class _Block(nn.Module):
    """Weights of `size` bytes that are looked at, and hardly computed with."""

    def __init__(self, size: int):
        super().__init__()
        shape = (ROWS, size // 4 // TENSORS // ROWS)
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for _ in range(TENSORS)])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x + weight[0, 0]
        return x


def _chain(size: int) -> nn.Sequential:
    return nn.Sequential(*[_Block(size) for _ in range(BLOCKS)])


def _passes(model: nn.Module, world: World) -> tuple[float, float]:
    """Seconds of a forward and of a backward, the ranks beginning together."""
    world.barrier()
    begin = time.perf_counter()
    y = model(torch.zeros(ROWS, requires_grad=True))
    middle = time.perf_counter()
    y.sum().backward()
    end = time.perf_counter()
    model.zero_grad(set_to_none=True)
    return middle - begin, end - middle
