"""A rank's view of the others. The only file besides norm, replicate, launch, meeting and train/state that talks to
torch.distributed. A serial run is a World of one, with no process group at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fanlight.errors import ConfigError
from fanlight.parallel.heartbeat import Heartbeat
from fanlight.parallel.layout import Layout

sent: Counter[str] = Counter()  # bytes that this rank handed to the network, by what they were; the caller may clear it

TIMEOUT = timedelta(minutes=10)  # a collective that takes longer has lost a rank
HOST_TIMEOUT = timedelta(days=1)  # ranks wait here while one of them packs; a lost one is noticed by who started it


@dataclass(frozen=True)
class World:
    """Who this rank is and through which groups it speaks. Groups are None where this rank would be alone in them.

    `group` carries gradients on the compute device; `norm` the small exchanges of synchronised norms, apart so that
    they never queue behind a gradient bucket; `host` (gloo) carries CPU arrays and decisions of all ranks; `saving` (gloo) is
    used by the thread that writes checkpoints, beside all of them. Until `connect`, `group` and `norm` are of all ranks;
    afterwards of those that hold the same weights and see other rows of a batch.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int  # ranks on this machine: they share its cores, memory and disks
    device: torch.device
    group: dist.ProcessGroup | None = None
    norm: dist.ProcessGroup | None = None
    host: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None
    everyone: dist.ProcessGroup | None = None  # all ranks, on the compute device
    tensor: dist.ProcessGroup | None = None  # ranks that hold channels of the same layers and see the same rows
    replicate: dist.ProcessGroup | None = None  # ranks that hold the same shards
    shard: dist.ProcessGroup | None = None  # ranks that hold shards of the same weights
    channels: dict[tuple[int, int, bool], dist.ProcessGroup] = field(
        default_factory=dict, compare=False
    )  # (from, to, is forward)
    heartbeat: Heartbeat = field(default_factory=Heartbeat, compare=False)  # where this rank tells of its progress

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_host(self, values: np.ndarray) -> np.ndarray:
        """The sum over ranks of a small float64 array, on every rank."""
        if self.host is None:
            return values
        tensor = torch.from_numpy(np.array(values, dtype=np.float64))
        dist.all_reduce(tensor, group=self.host)
        return tensor.numpy()

    def any(self, flag: bool) -> bool:
        """True on every rank when true on one."""
        return bool(self.sum_host(np.array([float(flag)]))[0] > 0)

    def gather(self, rows: np.ndarray) -> np.ndarray | None:
        """Rows of all ranks in rank order, on rank 0; None elsewhere. Ranks may hold different numbers of rows."""
        if self.host is None:
            return rows
        counts = self.sum_host(np.eye(self.ranks)[self.rank] * len(rows)).astype(int)
        padded = np.zeros((counts.max(), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        mine = torch.from_numpy(padded)
        theirs = [torch.empty_like(mine) for _ in range(self.ranks)] if self.is_first else None
        dist.gather(mine, theirs, dst=0, group=self.host)
        if theirs is None:
            return None
        return np.concatenate([part.numpy()[:count] for part, count in zip(theirs, counts)])

    def to_first(self, tensor: torch.Tensor, *, source: int) -> None:
        """`tensor` on `source`, a CPU tensor that is contiguous, comes into `tensor` of the same kind on rank 0. The two
        call it, and no other."""
        if source == self.rank:
            dist.send(tensor, dst=0, group=self.host)
        else:
            dist.recv(tensor, src=source, group=self.host)

    def tell(self, document: dict[str, Any]) -> dict[str, Any]:
        """Rank 0's document, on every rank."""
        if self.host is None:
            return document
        text = np.frombuffer(json.dumps(document).encode(), np.uint8) if self.is_first else np.empty(0, np.uint8)
        size = int(self.sum_host(np.array([float(len(text))]))[0])
        tensor = torch.from_numpy(text.copy()) if self.is_first else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(tensor, src=0, group=self.host)
        return json.loads(tensor.numpy().tobytes())

    def share(self, document: Any) -> list[Any]:
        """Every rank's document, by rank, on every rank. What JSON can say."""
        if self.host is None:
            return [document]
        text = np.frombuffer(json.dumps(document).encode(), np.uint8)
        sizes = self.sum_host(np.eye(self.ranks)[self.rank] * len(text)).astype(int)
        mine = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        mine[: len(text)] = torch.from_numpy(text.copy())
        theirs = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(theirs, mine, group=self.host)
        return [json.loads(each[:size].numpy().tobytes()) for each, size in zip(theirs, sizes.tolist())]

    def barrier(self) -> None:
        if self.host is not None:
            dist.barrier(group=self.host)

    def meeting(self) -> Callable[[], object]:
        """`barrier`, which also inside `silence.silent` waits for the other ranks."""
        return partial(dist.barrier, group=self.host) if self.host is not None else lambda: None

    def barrier_saving(self) -> None:
        """Waits for the other ranks' writing threads; nothing else may use their group."""
        if self.saving is not None:
            dist.barrier(group=self.saving)


def alone(device: str = "cpu") -> World:
    """The World of a serial run."""
    return World(rank=0, ranks=1, local_rank=0, local_ranks=1, device=torch.device(device))


def join(*, rank: int, ranks: int, local_rank: int, local_ranks: int, device: str, init_method: str) -> World:
    """Meets the other ranks and opens the groups. `device` is `cpu` (gloo) or `cuda` (nccl, one GPU per local rank).

    `init_method` is where they meet: `file://…` for ranks of one machine (no port that could be taken), `env://` under
    torchrun and Slurm. Raises ConfigError when this machine has fewer GPUs than ranks; with FANLIGHT_SHARE_GPU=1 they share
    them, over gloo, which proves layouts and is no way to train fast.
    """
    place, backend = torch.device("cpu"), "gloo"
    if device == "cuda":
        place, backend = _gpu(local_rank, local_ranks=local_ranks)
        torch.cuda.set_device(place)
    arguments: dict[str, Any] = {"device_id": place} if backend == "nccl" else {}
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=ranks, timeout=TIMEOUT, **arguments)
    everyone = list(range(ranks))
    norm: Any = dist.new_group(everyone, backend=backend, timeout=TIMEOUT)
    host: Any = dist.new_group(everyone, backend="gloo", timeout=HOST_TIMEOUT)
    saving: Any = dist.new_group(everyone, backend="gloo", timeout=HOST_TIMEOUT)
    return World(
        rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks, device=place,
        group=dist.group.WORLD, norm=norm, host=host, saving=saving, everyone=dist.group.WORLD,
    )  # fmt: skip


def _gpu(local_rank: int, *, local_ranks: int) -> tuple[torch.device, str]:
    """The GPU of a rank, and what it talks through."""
    count = torch.cuda.device_count()
    if count >= local_ranks:
        return torch.device("cuda", local_rank), "nccl"
    if count and "SLURM_GPUS_PER_TASK" in os.environ:  # each task sees its own
        return torch.device("cuda", 0), "nccl"
    if count and os.environ.get("FANLIGHT_SHARE_GPU") == "1":
        return torch.device("cuda", local_rank % count), "gloo"
    raise ConfigError(
        f"ranks: {local_ranks} on this machine, but only {count} GPUs are visible; use --ranks {max(1, count)} or --device cpu"
    )


_made: dict[tuple[str, tuple[int, ...]], Any] = {}  # groups by use and ranks: a kept rank opens each once


def connect(world: World, layout: Layout) -> World:
    """The world as a rank of `layout` sees it, whose product of degrees is its number of ranks. All ranks call it."""
    if world.ranks == 1 or (layout.is_whole and not layout.is_periodic):
        return world
    data = _group(world, layout, "data", "dp_replicate", "dp_shard")
    opened = replace(
        world, group=data, norm=_group(world, layout, "norm", "dp_replicate", "dp_shard"),
        tensor=_group(world, layout, "tensor", "tp"), replicate=_group(world, layout, "replicate", "dp_replicate"),
        shard=_group(world, layout, "shard", "dp_shard"),
    )  # fmt: skip
    if layout.is_periodic:  # norms are of each rank's own rows while ranks train apart
        return replace(opened, norm=None)
    return replace(opened, channels=_channels(world, layout))


def _channels(world: World, layout: Layout) -> dict[tuple[int, int, bool], Any]:
    """One group for each direction between neighbours of a pipeline, the last and the first among them: on a GPU messages
    of one group wait for each other in the order of posting, which must not depend on what else travels."""
    found = {}
    for pipe in layout.groups("pp") if layout.pp > 1 else ():
        ring = dict.fromkeys((a, b) for a, b in zip(pipe, [*pipe[1:], pipe[0]]))
        for source, target in ring:
            for is_forward, ends in ((True, (source, target)), (False, (target, source))):
                use = f"channel {ends[0]}>{ends[1]} {is_forward}"
                group = _open(world, use, [sorted(ends)])
                if group is not None:
                    found[(*ends, is_forward)] = group
    return found


def _group(world: World, layout: Layout, use: str, *axes: str) -> Any:
    return _open(world, use, layout.groups(*axes))


def _open(world: World, use: str, partition: list[list[int]]) -> Any:
    """The group of this rank in a partition of ranks; None where it is alone. All ranks open all groups, in one order."""
    mine = None
    for ranks in partition:
        if len(ranks) == 1:
            continue
        key = (use, tuple(ranks))
        if key not in _made:
            backend = dist.get_backend(world.everyone)
            _made[key] = dist.new_group(ranks, backend=backend, timeout=TIMEOUT)
        if world.rank in ranks:
            mine = _made[key]
    return mine


def leave() -> None:
    """Closes the groups; safe to call when there are none."""
    _made.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def summed(tensor: torch.Tensor, group: Any, *, what: str = "partial sums") -> torch.Tensor:
    """The tensor itself, now the sum over the group's ranks. Its memory format stays; it must be dense. `what` it is
    counted as."""
    sent[what] += tensor.nbytes
    dist.all_reduce(dense(tensor), group=group)
    return tensor


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous view of the same memory. ValueError where there is none."""
    if tensor.is_contiguous():
        return tensor
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1)
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    view = tensor.permute(order)
    if not view.is_contiguous():
        raise ValueError(f"a tensor of strides {tensor.stride()} has gaps and cannot be sent as it is")
    return view
