"""Which device a run computes on, and how many GPUs there are. Torch is not imported where there can be no GPU."""

from __future__ import annotations

from fanlight import machine
from fanlight.errors import ConfigError


def device(name: str | None) -> str:
    """The device to compute on: the one asked for, or a GPU where there is one. ConfigError for one that is not here."""
    if name not in (None, "cpu", "cuda"):
        raise ConfigError(f"execution.device is {name!r}; use cpu or cuda")
    if name == "cuda" and not gpus_visible():
        raise ConfigError("execution.device is 'cuda', and torch sees no GPU here; use --device cpu")
    return name or default()[0]


def check_ranks(ranks: int, *, device: str) -> None:
    """ConfigError for a number of processes that no machine of so many cores could mean."""
    cores = machine.cores_usable()
    if ranks < 1:
        raise ConfigError(f"execution.ranks is {ranks}; it must be above 0")
    if device == "cpu" and ranks > 16 * cores:
        raise ConfigError(f"execution.ranks is {ranks} on {cores} usable cores; use --ranks {cores}")


def default() -> tuple[str, str]:
    gpus = gpus_visible()
    return ("cuda", f"{gpus} GPU(s) visible") if gpus else ("cpu", "no GPU visible")


def gpus_visible() -> int:
    """How many GPUs torch can use. Where there can be none, torch is not imported for it."""
    if not machine.may_have_gpu():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
