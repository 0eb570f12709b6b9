"""One function applies a layout to a model, in one order; each line says why it stands where it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models import cut
from fanlight.parallel import balance, tensor
from fanlight.parallel.buckets import Buckets
from fanlight.parallel.comm import World
from fanlight.parallel.held import Held
from fanlight.parallel.layout import Layout
from fanlight.parallel.norm import synchronise
from fanlight.parallel.replicate import Replicated, Scattered

Ready = Callable[[int, torch.device], None]


class Reduced(Protocol):
    """A module whose gradients become sums over the ranks that hold the same weights."""

    wrapped: nn.Module | None  # what a training forward calls; None: the module itself
    gathers: bool  # its forward asks other ranks for weights
    sent_at: float  # time.perf_counter() when the newest gradients were handed to the network

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        """Around a forward and backward: while `more` microbatches follow, gradients stay here."""
        ...

    def settle(self, example: Tensor) -> None:
        """Whatever must happen once before the first step so that a resumed run is the same run."""
        ...

    def dissolve(self) -> None:
        """Lets go of the parameters."""
        ...


@dataclass
class Placed:
    """What one rank holds of a model."""

    stages: dict[int, nn.Module]  # by number; {0: the model} where no pipeline cuts it
    blocks: dict[int, list[str]]  # names of the blocks in each
    held: dict[str, Held] = field(default_factory=dict)  # parameters and buffers of which this rank has a part
    notes: list[str] = field(default_factory=list)  # what was chosen, for the user
    cuts: list[str] = field(default_factory=list)  # after which blocks a pipeline cuts


def place(
    model: nn.Module, layout: Layout, world: World, *, channels_last: bool, example: Tensor | None = None,
    split_at: Sequence[str] = (), rows: int = balance.ROWS_MOST, microbatches: int = 1,
    ready: Ready = lambda rows, device: None, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    update_s: Callable[[], float] = lambda: 0.0,
) -> Placed:  # fmt: skip
    """All that is done to the whole `model`, initialised on the CPU, once. Collective.

    `example` [2, 3, P, P] is what a cut or divided model is checked with, `rows` how many rows a microbatch has,
    `ready(n, device)` prepares what a training forward of n rows needs, `autocast` is what a forward computes in, `update_s()`
    measures the seconds that the optimizer takes for a parameter.
    """
    placed = Placed({0: model}, {})
    # The cut first: it traces the plain model, and a stage is made of the model's own modules, whatever becomes of them.
    if layout.pp > 1:
        assert example is not None
        if channels_last:  # so that costs are measured as they will be
            model.to(memory_format=torch.channels_last)
        _cut(
            model, placed, layout, world, example=example, split_at=split_at, rows=rows, microbatches=microbatches,
            ready=ready, autocast=autocast, update_s=update_s,
        )  # fmt: skip
    # Channels before the other stages are dropped: what is divided can then be compared with the whole model.
    if layout.tp > 1:
        assert example is not None
        model.to(world.device)  # where the ranks of the group can talk
        example = example.to(world.device)
        ready(len(example), example.device)
        with tensor.exactly():
            expected = tensor.outputs(model, example)
        division = tensor.divide(model, group=world.tensor, rank=layout.place(world.rank).tp, ranks=layout.tp)
        with tensor.exactly():
            tensor.check(model, expected, example)
        placed.held |= division.held
        placed.notes += division.notes
    if layout.pp > 1:
        me = layout.place(world.rank).pp
        placed.stages = {stage: module for stage, module in placed.stages.items() if stage % layout.pp == me}
    names = {name for module in placed.stages.values() for name, _ in module.named_parameters()}
    names |= {name for module in placed.stages.values() for name, _ in module.named_buffers()}
    placed.held = {name: part for name, part in placed.held.items() if name in names}
    for module in placed.stages.values():
        # The device next: everything after it holds references to the parameters in place.
        module.to(world.device)
        # Memory format before replication: gradient buckets are views with the parameters' strides. Shards are rows of
        # contiguous weights; convolutions then take the format of their input.
        if channels_last and layout.dp_shard == 1:
            module.to(memory_format=torch.channels_last)
        # Norms before replication: DDP must see the modules whose parameters it reduces.
        if world.norm is not None and layout.data_ranks > 1 and not layout.is_periodic:
            synchronise(module, world.norm)
    inside = {stage: dict(module.named_modules()) for stage, module in placed.stages.items()}
    every = cut.blocks(model)
    placed.blocks = {stage: [name for name in every if name in modules] for stage, modules in inside.items()}
    return placed


def reduced_over_ranks(
    placed: Placed,
    layout: Layout,
    world: World,
    *,
    number_format: str,
    trained: nn.Module | None = None,
    bucket_mb: float | None = None,
    sent_as: torch.dtype | None = None,
) -> dict[int, Reduced]:
    """Gradients of what asks for them now become sums over the ranks that hold the same weights, by stage; empty where no
    others do. `trained`: a part of the whole model that alone is computed; `bucket_mb` and `sent_as` as Replicated has them.
    After everything that changes modules."""
    if layout.dp_shard > 1:
        from fanlight.parallel.shard import Sharded  # slow to import

        return {
            stage: Sharded(
                module, world, layout, blocks=placed.blocks[stage], number_format=number_format, held_before=placed.held
            )
            for stage, module in placed.stages.items()
        }
    if layout.name == "dataparallel":
        return {0: Scattered(placed.stages[0] if trained is None else trained)}
    if world.group is None or layout.dp_replicate == 1 or layout.is_periodic:
        return {}
    if layout.is_whole:
        module = placed.stages[0] if trained is None else trained
        return {0: Replicated(module, world, bucket_mb=bucket_mb, sent_as=sent_as)}
    return {stage: Buckets([module], world.group) for stage, module in placed.stages.items()}


def _cut(
    model: nn.Module, placed: Placed, layout: Layout, world: World, *, example: Tensor, split_at: Sequence[str], rows: int,
    microbatches: int, ready: Ready, autocast: Callable[[], AbstractContextManager[Any]], update_s: Callable[[], float],
) -> None:  # fmt: skip
    at = list(split_at)
    if not at:
        # On all ranks at once, since that is how they will compute; rank 0's measurement counts.
        many = example[:1].expand(max(2, min(rows, balance.ROWS_MOST)), -1, -1, -1).contiguous()
        ready(len(many), world.device)
        at, costs_s = balance.choose(
            model, many, stages=layout.stages, device=world.device, microbatches=microbatches, rows=rows,
            update_s=update_s(), autocast=autocast,
        )  # fmt: skip
        told = world.tell({"at": at, "costs_s": costs_s})
        at, costs_s = told["at"], told["costs_s"]
        shares = ", ".join(f"{cost_s / sum(costs_s):.0%}" for cost_s in costs_s)
        placed.notes.append(
            f"pipeline of {layout.stages} stages, cut after {', '.join(at)}: {shares} of the measured work"
        )
    try:
        parts = cut.stages(model, at, example)
    except ConfigError as error:
        if not split_at:
            raise
        raise ConfigError(f"execution.split_at: {error}; or leave --split-at out") from None
    bare = [index for index, part in enumerate(parts) if not any(True for _ in part.parameters())]
    if bare:
        raise ConfigError(
            f"execution.split_at {', '.join(at)} leaves stage {bare[0]} without weights; choose other cuts, or leave it out"
        )
    ready(len(example), example.device)
    cut.check(model, parts, example)
    placed.stages, placed.cuts = dict(enumerate(parts)), at
