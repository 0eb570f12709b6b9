"""Checkpoints: `checkpoints/step-00001234/` with safetensors by rank and `state.json`. No pickle.

Keys do not depend on layout: `model.<name>`, `optim.<name>.<state>`, `<name>` as the plain model has it. What several ranks
hold is equal on them, which is checked before saving, and one of them writes it (parts.py); what they hold parts of is put
together when it is read, for any other layout. A checkpoint is whole or absent: it is written beside, synced, and renamed
after every rank is done. Writing goes on while training does: what is written was copied first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fanlight.errors import RunError
from fanlight.parallel.comm import World
from fanlight.train import parts
from fanlight.train.parts import HeldOf, whole_tensors

VERSION = 2  # of state.json and the keys; 2: divided tensors


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
    folder: Path, *, tensors: Mapping[str, torch.Tensor], document: dict[str, Any], world: World, keep: int,
    held_of: HeldOf = whole_tensors,
) -> Path:  # fmt: skip
    """Writes `folder/step-<document['step']>`; afterwards only the newest `keep` are left. All ranks call it."""
    final, write = begin(folder, tensors=tensors, document=document, world=world, keep=keep, held_of=held_of)
    write()
    return final


def begin(
    folder: Path, *, tensors: Mapping[str, torch.Tensor], document: dict[str, Any], world: World, keep: int,
    held_of: HeldOf = whole_tensors,
) -> tuple[Path, Callable[[], None]]:  # fmt: skip
    """Copies what `save` writes; the checkpoint's place, and the writing, for a thread of its own. All ranks call both.

    `held_of(key)`: which part of the whole a rank's tensor is; None: all of it. TrainingError where ranks that hold the same
    part hold other bits, and where the parts are not the whole.
    """
    plan = parts.plan(tensors, held_of, world)
    final = folder / f"step-{document['step']:08d}"
    part = final.with_suffix(".tmp")
    # Copied, since training goes on; contiguous, since safetensors takes no other and convolutions are channels last.
    share = {
        name: tensors[key].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, key in plan.mine.items()
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
            about = document | ({"parts": plan.parts} if plan.parts else {})
            _publish(part, final, document=about, keep=keep)
        world.barrier_saving()

    return final, write


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


def describe(checkpoint: Path) -> dict[str, Any]:
    """The document of a checkpoint. RunError for another version, and where a file is missing or has another size."""
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
        why = _difference(expected, found) if isinstance(expected, dict) else "its state.json names no files"
        raise RunError(f"{checkpoint} cannot be read: {why}; delete it to use the one before")
    return document


def _difference(expected: Mapping[str, Any], found: Mapping[str, int]) -> str:
    """The first file that is not as it was written."""
    for name, size in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} bytes and was written with {size}"
    return f"{next(name for name in found if name not in expected)} is not its own"


def load(checkpoint: Path, *, part_of: HeldOf = whole_tensors) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on CPU) and document of a checkpoint. `part_of(key)`: None for a whole tensor, the part that is wanted of
    it, or parts.NOTHING. Raises RunError for another version or a damaged file."""
    document = describe(checkpoint)
    try:
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(safe_open(checkpoint / name, framework="pt")) for name in document["files"]]
            return parts.read(files, document.get("parts", {}), part_of), document
    except Exception as error:  # damaged safetensors surface as many types
        raise RunError(f"{checkpoint} cannot be read ({error}); delete it to use the one before") from error


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each rank's file."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
