"""A rank's view of the others. The only file besides norm, replicate, launch and train/state that talks to
torch.distributed. A serial run is a World of one, with no process group at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fanlight.errors import ConfigError

TIMEOUT = timedelta(minutes=10)  # a collective that takes longer has lost a rank
HOST_TIMEOUT = timedelta(days=1)  # ranks wait here while one of them packs; a lost one is noticed by who started it


@dataclass(frozen=True)
class World:
    """Who this rank is and through which groups it speaks. Groups are None in a world of one.

    `group` carries gradients on the compute device; `norm` the small exchanges of synchronised norms, apart so that
    they never queue behind a gradient bucket; `host` (gloo) carries CPU arrays and decisions; `saving` (gloo) is used by the
    thread that writes checkpoints, beside all of them.
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

    def tell(self, document: dict[str, Any]) -> dict[str, Any]:
        """Rank 0's document, on every rank."""
        if self.host is None:
            return document
        text = np.frombuffer(json.dumps(document).encode(), np.uint8) if self.is_first else np.empty(0, np.uint8)
        size = int(self.sum_host(np.array([float(len(text))]))[0])
        tensor = torch.from_numpy(text.copy()) if self.is_first else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(tensor, src=0, group=self.host)
        return json.loads(tensor.numpy().tobytes())

    def barrier(self) -> None:
        if self.host is not None:
            dist.barrier(group=self.host)

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
    torchrun. Raises ConfigError when this machine has fewer GPUs than ranks.
    """
    if device == "cuda":
        if torch.cuda.device_count() < local_ranks:
            raise ConfigError(
                f"ranks: {local_ranks} on this machine, but only {torch.cuda.device_count()} GPUs are visible; "
                f"use --ranks {max(1, torch.cuda.device_count())} or --device cpu"
            )
        torch.cuda.set_device(local_rank)
        place = torch.device("cuda", local_rank)
    else:
        place = torch.device("cpu")
    backend = "nccl" if device == "cuda" else "gloo"
    arguments: dict[str, Any] = {"device_id": place} if device == "cuda" else {}
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=ranks, timeout=TIMEOUT, **arguments)
    everyone = list(range(ranks))
    norm: Any = dist.new_group(everyone, backend=backend, timeout=TIMEOUT)
    host: Any = dist.new_group(everyone, backend="gloo", timeout=HOST_TIMEOUT)
    saving: Any = dist.new_group(everyone, backend="gloo", timeout=HOST_TIMEOUT)
    return World(
        rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks, device=place,
        group=dist.group.WORLD, norm=norm, host=host, saving=saving,
    )  # fmt: skip


def leave() -> None:
    """Closes the groups; safe to call when there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()
