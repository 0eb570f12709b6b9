"""Sharding: weights, gradients and optimizer state divided over ranks, whole only while a block computes (Zhao et al.
2023, "PyTorch FSDP"; Rajbhandari et al. 2020, "ZeRO", stage 3).

S ranks of a shard group see their own rows. Of every tensor each keeps ⌈n/S⌉ rows of its first dimension, the last ranks
fewer or none. Sent per microbatch: an all-gather of a block's weights before its forward and again before its backward;
per step a reduce-scatter of its gradients. With copies (hsdp) the sums then go over those.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.parallel import comm, held
from fanlight.parallel.comm import World
from fanlight.parallel.held import Held
from fanlight.parallel.layout import Layout

# What FSDP calls: output, input, …. torch 2.15 renamed them; the old names can go when it is the oldest supported.
COLLECTIVES = {
    "all_gather_single": ("weights", 1), "all_gather_into_tensor": ("weights", 1),
    "reduce_scatter_single": ("gradients", 1), "reduce_scatter_tensor": ("gradients", 1),
    "all_reduce": ("gradients", 0),  # of hsdp's copies
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Sharded:
    """A module whose parameters are shards. Ranks of `world.replicate`, if any, hold equal shards."""

    gathers = True
    sent_at = 0.0  # what is sent cannot be told from the backward here

    def __init__(
        self, module: nn.Module, world: World, layout: Layout, *, blocks: Sequence[str], number_format: str,
        held_before: Mapping[str, Held],
    ):  # fmt: skip
        from torch.distributed.fsdp import fully_shard  # slow to import, and only where it is used

        shapes = {name: p.shape for name, p in module.named_parameters(remove_duplicate=False)}
        for name, shape in shapes.items():
            if not shape:
                raise ConfigError(
                    f"layout {layout.name}: {name} is a single number, of which there are no shards; use --layout ddp"
                )
        options: dict[str, Any] = {
            "mesh": _mesh(world, layout), "mp_policy": _policy(module, number_format),
            # Also at the root: its weights would else stay as the last forward saw them, through an optimizer step.
            "reshard_after_forward": True,
        }  # fmt: skip
        for name in blocks:
            fully_shard(module.get_submodule(name), **options)
        self.module = self.wrapped = cast(Any, fully_shard(module, **options))
        for part in self.module.modules():
            if hasattr(part, "set_gradient_divide_factor"):  # sums travel: the loss is already divided by all rows
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        index = layout.place(world.rank).dp_shard
        self.held = {
            name: _rows(held_before.get(name) or held.all_of(shape), index=index, of=layout.dp_shard)
            for name, shape in shapes.items()
        }

    @contextlib.contextmanager
    def accumulating(self, more: bool) -> Iterator[None]:
        """While `more` microbatches follow, gradients stay here, whole; the last one's backward sends their sum."""
        self.module.set_requires_gradient_sync(not more)
        yield

    def settle(self, example: Tensor) -> None:
        """Nothing: the order of sums does not depend on a first pass."""

    def dissolve(self) -> None:
        """Sharding is for the whole run."""
        raise RuntimeError("a sharded model cannot be sharded anew; layouts that shard refuse what would ask for it")


@contextlib.contextmanager
def counting(world: World) -> Iterator[None]:
    """Inside, what sharded modules hand to the network is counted in comm.sent: torch's collectives tell nobody."""
    with contextlib.ExitStack() as kept:
        for name, (kind, place) in COLLECTIVES.items():
            if world.shard is not None and (inner := getattr(dist, name, None)):
                kept.callback(setattr, dist, name, inner)
                setattr(dist, name, _counted(inner, kind, place, world=world))
        yield


def _counted(inner: Callable[..., Any], kind: str, place: int, *, world: World) -> Callable[..., Any]:
    """`inner`, whose argument number `place` is what is sent. All-reduces of other groups are counted where they are called."""

    def call(*given: Any, **options: Any) -> Any:
        named = next((options[name] for name in ("input_tensor", "input", "tensor") if name in options), None)
        handed = given[place] if named is None and len(given) > place else named
        if handed is not None and (place == 1 or options.get("group") is world.replicate is not None):
            comm.sent[kind] += handed.nbytes
        return inner(*given, **options)

    return call


def _rows(whole: Held, *, index: int, of: int) -> Held:
    """torch.chunk's share of the first dimension."""
    rows = whole.part[0]
    each = -(-rows // of)
    return whole.rows(min(rows, index * each), min(rows, (index + 1) * each))


def _mesh(world: World, layout: Layout) -> Any:
    from torch.distributed.device_mesh import DeviceMesh

    kind = world.device.type
    place = layout.place(world.rank)
    if world.replicate is None:
        return DeviceMesh.from_group(world.shard, kind)  # type: ignore[arg-type]
    table = [
        [layout.rank_at(place._replace(dp_replicate=r, dp_shard=s)) for s in range(layout.dp_shard)]
        for r in range(layout.dp_replicate)
    ]
    groups: Any = [world.replicate, world.shard]
    return DeviceMesh.from_group(groups, kind, mesh=torch.tensor(table), mesh_dim_names=("replicate", "shard"))


def _policy(module: nn.Module, number_format: str) -> Any:
    """Weights of convolutions and linear layers travel in the format that autocast would round them to; all others, norms and
    position embeddings among them, stay fp32 as in a serial run; gradients are summed in fp32. A torch that cannot tell
    parameters apart sends all as they are."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    dtype = DTYPES.get(number_format)
    can = "param_dtype_override_fn" in inspect.signature(MixedPrecisionPolicy).parameters  # since torch 2.15
    if dtype is None or not can:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    short = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))}
    return MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False,
        param_dtype_override_fn=lambda p: None if id(p) in short else p.dtype,
    )  # fmt: skip
