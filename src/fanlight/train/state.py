"""Checkpoints: `checkpoints/step-00001234/` with safetensors by rank and `state.json`. No pickle.

Keys do not depend on layout: `model.<name>`, `optim.<name>.<state>`, `<name>` as the plain model has it. A tensor means
"equal on all ranks", which is checked before saving; each rank writes its share of them. A checkpoint is whole or absent:
it is written beside, synced, and renamed after every rank is done. Writing goes on while training does: what is written
was copied first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fanlight.errors import RunError, TrainingError
from fanlight.parallel.comm import World

VERSION = 1  # of state.json and the keys


class Background:
    """Writes one thing after another beside training. An error surfaces at the next `start` or `wait`.

    The thread is a daemon: where another rank is gone, the process that waits for it in here can still end.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begins `write`, after what was begun before is done."""
        self.wait()

        def guarded() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=guarded, name="save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until everything is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def save(
    folder: Path, *, tensors: Mapping[str, torch.Tensor], document: dict[str, Any], world: World, keep: int
) -> Path:
    """Writes `folder/step-<document['step']>`; afterwards only the newest `keep` are left. All ranks call it."""
    final, write = begin(folder, tensors=tensors, document=document, world=world, keep=keep)
    write()
    return final


def begin(
    folder: Path, *, tensors: Mapping[str, torch.Tensor], document: dict[str, Any], world: World, keep: int
) -> tuple[Path, Callable[[], None]]:
    """Copies what `save` writes; the checkpoint's place, and the writing, for a thread of its own. All ranks call both."""
    check_equal(tensors, world)
    final = folder / f"step-{document['step']:08d}"
    part = final.with_suffix(".tmp")
    # Copied, since training goes on; contiguous, since safetensors takes no other and convolutions are channels last.
    share = {
        key: tensors[key].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key in _share(tensors, world)
    }
    if world.is_first:
        for left in folder.glob("step-*.tmp"):  # by a save that was killed
            shutil.rmtree(left)
        part.mkdir(parents=True)
    world.barrier()

    def write() -> None:
        file = part / f"rank-{world.rank:05d}-of-{world.ranks:05d}.safetensors"
        save_file(share, file)
        _sync(file)
        world.barrier_saving()
        if world.is_first:
            _publish(part, final, document=document, keep=keep)
        world.barrier_saving()

    return final, write


def _share(tensors: Mapping[str, torch.Tensor], world: World) -> list[str]:
    """The keys that this rank writes: a stretch of them with about its part of the bytes; together all, once."""
    ends = np.cumsum([tensor.nbytes for tensor in tensors.values()])
    middles = ends - np.array([tensor.nbytes for tensor in tensors.values()]) / 2
    ranks = np.minimum((middles * world.ranks / max(1, ends[-1])).astype(int), world.ranks - 1)
    return [key for key, rank in zip(tensors, ranks.tolist()) if rank == world.rank]


def _publish(part: Path, final: Path, *, document: dict[str, Any], keep: int) -> None:
    """On rank 0, when every rank's file is on disk."""
    about = {"version": VERSION, "files": _sizes(part), **document}
    (part / "state.json").write_text(json.dumps(about, indent=1))
    for path in [part / "state.json", part]:
        _sync(path)
    before = final.with_suffix(".before.tmp")
    if final.exists():  # the same step saved again, by a stop that follows a save
        final.rename(before)  # faster than removing it: only for a moment there is neither
    part.rename(final)
    _sync(final.parent)
    shutil.rmtree(before, ignore_errors=True)
    for old in whole(final.parent)[:-keep]:
        shutil.rmtree(old)


def whole(folder: Path) -> list[Path]:
    """Checkpoints that were finished, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp" and (path / "state.json").exists())


def trained_s(folder: Path) -> float:
    """Seconds of training that the newest checkpoint knows of; 0 where there is none that can be read."""
    for checkpoint in whole(folder)[-1:]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return float(json.loads((checkpoint / "state.json").read_text())["train_s"])
    return 0.0


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
    tensors: dict[str, torch.Tensor] = {}
    try:
        for name in found:
            tensors |= load_file(checkpoint / name)
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
