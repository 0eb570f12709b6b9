"""Who writes what of a checkpoint, and how it is put together again, whatever layout wrote it and whatever layout reads.

A tensor that is whole on its ranks is stored under its key. Of a divided one each part is stored as `<key>#<number>`, and
state.json says under `parts` which rectangles of the whole it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fanlight.errors import TrainingError
from fanlight.parallel import held
from fanlight.parallel.comm import World
from fanlight.parallel.held import Held

HeldOf = Callable[[str], Held | None]
NOTHING = Held((), (), ())  # what is wanted of a tensor that this rank has no part of


def whole_tensors(key: str) -> None:
    """Every tensor is whole."""


@dataclass(frozen=True)
class Plan:
    """What this rank writes, and what state.json says of divided tensors."""

    mine: dict[str, str]  # name in the file -> key
    parts: dict[str, dict[str, Any]]  # key -> {shape, dtype, boxes: {name: [[whole, part, size], …]}}


def plan(tensors: Mapping[str, Tensor], held_of: HeldOf, world: World) -> Plan:
    """Every part of every tensor is written by one of the ranks that hold it, bytes spread evenly. Collective.

    TrainingError, naming the key, where ranks hold different bits of the same part: one of them would be saved for all; and
    where the parts of a tensor are not all of it.
    """
    own = []
    for key, tensor in tensors.items():
        part = held_of(key)
        boxes = None if part is None else part.document()
        checksum = 0 if world.host is None else _checksum(tensor)
        own.append([key, boxes, list(tensor.shape if part is None else part.whole), tensor.nbytes, checksum])
    holders: dict[tuple[str, str], list[tuple[int, int]]] = {}  # (key, boxes) -> (rank, checksum) of those that hold it
    facts: dict[tuple[str, str], list[Any]] = {}
    for rank, table in enumerate(world.share(own)):
        for key, boxes, shape, nbytes, checksum in table:
            if nbytes or boxes is None:
                holders.setdefault((key, str(boxes)), []).append((rank, checksum))
                facts.setdefault((key, str(boxes)), [boxes, shape, nbytes])
    _check_equal(holders)
    load = [0] * world.ranks
    mine: dict[str, str] = {}
    divided: dict[str, dict[str, Any]] = {}
    for place, those in holders.items():
        key, (boxes, shape, nbytes) = place[0], facts[place]
        writer = min((rank for rank, _ in those), key=lambda rank: (load[rank], rank))
        load[writer] += nbytes
        name = key
        if boxes is not None:
            entry = divided.setdefault(key, {"shape": shape, "boxes": {}})
            name = f"{key}#{len(entry['boxes'])}"
            entry["boxes"][name] = boxes
        if writer == world.rank:
            mine[name] = key
    _check_whole(divided)
    return Plan(mine, divided)


def read(files: Sequence[Any], divided: Mapping[str, dict[str, Any]], part_of: HeldOf) -> dict[str, Tensor]:
    """What `part_of` wants of every key, from open safetensors `files`. KeyError where a part is in none of them."""
    places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (a safetensors file is no dict)
    found: dict[str, Tensor] = {}
    for name, file in places.items():
        if "#" in name:
            continue
        wanted = part_of(name)
        if wanted is None:
            found[name] = file.get_tensor(name)
        elif wanted is not NOTHING:
            found[name] = held.cut(file.get_tensor(name), wanted)
    for key, entry in divided.items():
        wanted = part_of(key)
        if wanted is NOTHING:
            continue
        wanted = wanted or held.all_of(entry["shape"])
        pieces = {name: places[name].get_tensor(name) for name in entry["boxes"]}
        target = torch.empty(wanted.part, dtype=next(iter(pieces.values())).dtype)
        for name, boxes in entry["boxes"].items():
            for at, part, size in boxes:
                box = pieces[name][tuple(slice(a, a + n) for a, n in zip(part, size))]
                for here, there in held.overlaps(wanted, at=at, size=size):
                    target[here] = box[there]
        found[key] = target
    return found


def whole_on_first(tensors: Mapping[str, Tensor], held_of: HeldOf, world: World) -> dict[str, Tensor] | None:
    """All tensors of all ranks, whole and on the CPU, on rank 0; None elsewhere. Collective."""
    own = {key: held_of(key) for key in tensors}
    table = world.share(
        [
            [key, part and part.document(), list(tensors[key].shape),
             list(part.whole if part else tensors[key].shape), str(tensors[key].dtype).removeprefix("torch.")]
            for key, part in own.items()
        ]
    )  # fmt: skip
    found: dict[str, Tensor] = {}
    seen: set[tuple[str, str]] = set()
    for rank, rows in enumerate(table):
        for key, boxes, shape, whole, dtype in rows:
            if (key, str(boxes)) in seen or not math.prod(shape):
                continue
            seen.add((key, str(boxes)))
            if world.rank not in (0, rank):
                continue
            here = (
                tensors[key].detach().cpu().contiguous()
                if world.rank == rank
                else torch.empty(shape, dtype=getattr(torch, dtype))
            )
            if rank:
                world.to_first(here, source=rank)
            if world.is_first and boxes is None:
                found[key] = here
            elif world.is_first:
                target = found.setdefault(key, torch.empty(whole, dtype=here.dtype))
                held.put(
                    here,
                    Held(tuple(whole), tuple(shape), tuple(held.Box(*map(tuple, box)) for box in boxes)),
                    into=target,
                )
    return found if world.is_first else None


def _check_equal(holders: Mapping[tuple[str, str], list[tuple[int, int]]]) -> None:
    unequal = [(key, those) for (key, _), those in holders.items() if len({checksum for _, checksum in those}) > 1]
    if unequal:
        key, those = unequal[0]
        first, checksum = those[0]
        others = [rank for rank, other in those if other != checksum]
        raise TrainingError(
            f"{key} differs between rank {first} and ranks {others} ({len(unequal)} such tensors); not saved. "
            "Every rank should hold the same bits: report this with resolved.yaml"
        )


def _check_whole(divided: Mapping[str, dict[str, Any]]) -> None:
    for key, entry in divided.items():
        there = sum(math.prod(size) for boxes in entry["boxes"].values() for _, _, size in boxes)
        if there != math.prod(entry["shape"]):
            raise TrainingError(
                f"{key} of {math.prod(entry['shape'])} numbers is held in parts of {there} altogether; not saved. "
                "Report this with resolved.yaml"
            )


def _checksum(tensor: Tensor) -> int:
    """A number that almost surely changes with any bit, without a copy on CPUs."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
