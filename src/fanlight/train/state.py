"""Checkpoints: `checkpoints/step-00001234/` with safetensors by rank and `state.json`. No pickle.

Keys do not depend on layout: `model.<name>`, `optim.<name>.<state>`, `<name>` as the plain model has it. Sharded
tensors are DTensors; a plain tensor means "equal on all ranks", which is checked before saving. A checkpoint is whole
or absent: it is written beside, synced, and renamed after every rank is done.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from fanlight.errors import RunError, TrainingError
from fanlight.parallel.comm import World

VERSION = 1  # of state.json and the keys


def save(
    folder: Path, *, tensors: Mapping[str, torch.Tensor], document: dict[str, Any], world: World, keep: int
) -> Path:
    """Writes `folder/step-<document['step']>`; afterwards only the newest `keep` are left. All ranks call it."""
    check_equal(tensors, world)
    final = folder / f"step-{document['step']:08d}"
    part = final.with_suffix(".tmp")
    if world.is_first:
        for left in folder.glob("step-*.tmp"):  # by a save that was killed
            shutil.rmtree(left)
        part.mkdir(parents=True)
    world.barrier()
    with warnings.catch_warnings():
        # torch announces that a run without a process group saves alone, which is what a serial run wants.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        # safetensors takes contiguous tensors only, and convolutions are kept channels last.
        contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
        dcp.save(
            contiguous, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True),
            process_group=world.host, no_dist=world.ranks == 1,
        )  # fmt: skip
    world.barrier()
    if world.is_first:
        about = {"version": VERSION, "files": _sizes(part), **document}
        (part / "state.json").write_text(json.dumps(about, indent=1))
        for path in [*part.iterdir(), part]:
            _sync(path)
        before = final.with_suffix(".before.tmp")
        if final.exists():  # the same step saved again, by a stop that follows a save
            final.rename(before)  # faster than removing it: only for a moment there is neither
        part.rename(final)
        _sync(folder)
        shutil.rmtree(before, ignore_errors=True)
        for old in whole(folder)[:-keep]:
            shutil.rmtree(old)
    world.barrier()
    return final


def whole(folder: Path) -> list[Path]:
    """Checkpoints that were finished, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp" and (path / "state.json").exists())


def load(checkpoint: Path, *, world: World) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on CPU, whole) and document of a checkpoint. Raises RunError for another version or a damaged file."""
    try:
        document = json.loads((checkpoint / "state.json").read_text())
        version = document["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{checkpoint} is no whole checkpoint ({error}); delete it to use the one before") from None
    if version != VERSION:
        raise RunError(
            f"{checkpoint} has version {version!r}; this Fanlight reads {VERSION}. "
            "Use the Fanlight that wrote it, or train again"
        )
    expected, found = document.get("files"), _sizes(checkpoint)
    if found != expected:  # the reader would not miss a rank's file
        raise RunError(f"{checkpoint} holds {found}, not {expected} (bytes); delete it to use the one before")
    reader = HuggingFaceStorageReader(str(checkpoint))
    try:
        known: dict[str, Any] = reader.read_metadata().state_dict_metadata
        tensors = {key: torch.empty(meta.size, dtype=meta.properties.dtype) for key, meta in known.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            dcp.load(
                tensors, storage_reader=HuggingFaceStorageReader(str(checkpoint)),
                process_group=world.host, no_dist=world.ranks == 1,
            )  # fmt: skip
    except Exception as error:  # damaged safetensors surface as many types
        raise RunError(f"{checkpoint} cannot be read ({error}); delete it to use the one before") from error
    return tensors, document


def check_equal(tensors: Mapping[str, torch.Tensor], world: World) -> None:
    """Raises TrainingError, naming the key, when a plain tensor differs between ranks: it would be saved as rank 0's."""
    if world.host is None:
        return
    plain = [
        key for key, value in tensors.items() if type(value) is torch.Tensor or isinstance(value, torch.nn.Parameter)
    ]
    sums = np.array([_checksum(tensors[key]) for key in plain], np.float64)
    table_RK = np.zeros((world.ranks, len(plain)))
    table_RK[world.rank] = sums
    table_RK = world.sum_host(table_RK)
    unequal = np.flatnonzero((table_RK != table_RK[0]).any(0))
    if len(unequal):
        ranks = np.flatnonzero(table_RK[:, unequal[0]] != table_RK[0, unequal[0]]).tolist()
        raise TrainingError(
            f"{plain[unequal[0]]} differs between rank 0 and ranks {ranks} ({len(unequal)} such tensors); not saved. "
            "Every rank should hold the same bits: report this with resolved.yaml"
        )


def _checksum(tensor: torch.Tensor) -> float:
    """A number that almost surely changes with any bit, without a copy on CPUs."""
    return float(zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data))


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each rank's file."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
