"""Backends by name: which there are, what runs where one cannot, and how its arrays and torch's tensors share memory.

The trainer keeps weights as torch tensors, so that checkpoints, averages and ranks are those of the project. An operator sees
the same memory as its table's own kind of array: NumPy's, or a torch tensor on a GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from fanlight import console
from fanlight.errors import ConfigError, near
from fanlight.scratch import operators

NAMES = ("loops", "numpy", "numba", "torch", "triton")
ON_CPU = ("loops", "numpy", "numba")
INSTEAD = "numba"  # of triton, where there is no GPU


def chosen(name: str, *, device: str | None) -> tuple[str, str | None]:
    """The backend that runs and its device (None: left open), from what was asked. ConfigError where they contradict."""
    if name not in NAMES:
        raise ConfigError(f"--backend {name!r} does not exist; use one of {', '.join(NAMES)}.{near(name, NAMES)}")
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device {device!r} does not exist; use cpu or cuda, or leave it out")
    if name in ON_CPU:
        if device == "cuda":
            raise ConfigError(f"--backend {name} computes on CPUs and --device is cuda; use --backend triton or torch")
        return name, "cpu"
    if name == "torch":
        return name, device
    why = without_gpu()
    if why is None and _is_interpreted():
        return name, "cpu"
    if device == "cpu" or why is not None:
        console.warn(
            f"--backend triton computes on GPUs, so --backend {INSTEAD} runs instead",
            why=why or "--device is cpu", do=f"Give --backend {INSTEAD} to choose it, or use a machine with a GPU",
        )  # fmt: skip
        return INSTEAD, "cpu"
    return name, "cuda"


def without_gpu() -> str | None:
    """Why kernels cannot run on this machine; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed here"
    if not _is_interpreted() and not torch.cuda.is_available():
        return "No CUDA device is visible here"
    return None


def _is_interpreted() -> bool:
    """Whether kernels are run line by line on a CPU, to look into them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def table(name: str) -> SimpleNamespace:
    """The operators of a backend other than torch."""
    return getattr(operators, name.upper())


@contextlib.contextmanager
def threads(backend: str, count: int) -> Iterator[None]:
    """Inside, a backend's operators compute with so many threads; torch's own are set elsewhere. ConfigError where there
    cannot be as many."""
    if backend not in ("numpy", "numba"):
        yield
        return
    import threadpoolctl

    if backend == "numpy":
        with threadpoolctl.threadpool_limits(count, user_api="blas"):
            yield
        return
    import numba

    from fanlight.scratch.cpu import threads as of_numba

    if count > of_numba.most():
        raise ConfigError(
            f"--threads {count}: Numba began with {of_numba.most()}; use as many at most, or set NUMBA_NUM_THREADS={count} first"
        )
    before = numba.get_num_threads()
    with threadpoolctl.threadpool_limits(user_api="blas"):  # puts back what is set inside
        of_numba.set_threads(count)
        try:
            yield
        finally:
            numba.set_num_threads(before)


def is_compiled() -> bool:
    """Whether Numba has kept any kernel of ours; the first run on a machine compiles them."""
    import numba

    operators.NUMBA  # noqa: B018 - says where they are kept
    folder = Path(str(vars(numba.config)["CACHE_DIR"]))
    return next(folder.rglob("*.nbi"), None) is not None


class Arrays:
    """A table's kind of array, on a device."""

    def __init__(self, table: SimpleNamespace, *, device: torch.device):
        self.is_torch = table.name == "triton"
        self.device = device

    def of(self, tensor: torch.Tensor) -> Any:
        """The same memory, as operators take it."""
        tensor = tensor.detach()
        return tensor if self.is_torch else tensor.numpy()

    def tensor(self, array: Any) -> torch.Tensor:
        """The same memory, as torch takes it."""
        return array if self.is_torch else torch.from_numpy(array)

    def keys(self, keys_B: torch.Tensor) -> Any:
        """int64 keys of rows as uint64, the same bits."""
        return keys_B.view(torch.uint64) if self.is_torch else keys_B.numpy().view(np.uint64)

    def empty(self, count: int, like: Any) -> Any:
        """`count` numbers of the type of `like`, an array or a NumPy type."""
        if self.is_torch:
            kind = torch.from_numpy(np.empty(0, like)).dtype if isinstance(like, np.dtype) else like.dtype
            return torch.empty(count, dtype=kind, device=self.device)
        return np.empty(count, like if isinstance(like, np.dtype) else like.dtype)


class Memory:
    """Named rooms that are made once and used at every step; a room grows when a larger batch asks for it."""

    def __init__(self, arrays: Arrays):
        self._arrays = arrays
        self._flat: dict[str, Any] = {}
        self._views: dict[str, dict[tuple[int, ...], Any]] = {}

    def room(self, name: str, shape: tuple[int, ...], like: Any) -> Any:
        """An array of `shape` in the room `name`, of the number type of `like`; what was in it may be anything."""
        views = self._views.setdefault(name, {})
        if shape not in views:
            size = math.prod(shape)
            if name not in self._flat or len(self._flat[name]) < size:
                self._flat[name] = self._arrays.empty(size, like)
                views.clear()
            flat = self._flat[name][:size]
            if self._arrays.is_torch and len(shape) == 4:  # GPU kernels read and write channels last
                N, C, H, W = shape
                views[shape] = flat.view(N, H, W, C).permute(0, 3, 1, 2)
            else:
                views[shape] = flat.reshape(shape)
        return views[shape]

    @property
    def bytes(self) -> int:
        """Of all rooms: the most that a step has needed so far."""
        return sum(flat.nbytes for flat in self._flat.values())

    def rooms(self) -> dict[str, int]:
        """Bytes by name."""
        return {name: flat.nbytes for name, flat in self._flat.items()}
