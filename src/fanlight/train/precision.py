"""Number formats: which one this processor does fast, and what a step needs for it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING

from fanlight.config import PRECISIONS
from fanlight.errors import ConfigError

if TYPE_CHECKING:
    import torch

TURNS = 12  # of measuring: about 50 ms
PAYS = 1.2  # times faster than fp32 before a shorter format is chosen: below that it costs accuracy for little
HOPELESS = (
    0.7  # times fp32's speed, of a convolution: no network is faster by PAYS in a format whose products are so slow
)


def check(name: str, device: str) -> None:
    """Raises ConfigError for a format that does not exist or that this device (cpu, cuda) cannot train in."""
    if name not in PRECISIONS:
        raise ConfigError(f"train.precision is {name!r}; use one of {', '.join(PRECISIONS)}")
    if name == "fp16" and device == "cpu":
        raise ConfigError("train.precision is 'fp16', which CPUs do not train in; use bf16 or fp32, or --device cuda")


def autocast(name: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context of a forward: convolutions and matrix products in the short format, weights and sums in fp32."""
    if name == "fp32":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[name])


def set_up(name: str, device: torch.device, *, deterministic: bool) -> None:
    """Process-wide switches. fp32 means fp32: no TF32 in its convolutions. Shapes never change, so cuDNN may try its
    algorithms once, unless the same bits are wanted."""
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses determinism without it
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports a compiler: most of a second
        torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.allow_tf32 = name != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = name != "fp32"


def fastest(device: torch.device) -> tuple[str, str]:
    """The format to train in when none was asked for, and the reason in words. CPUs are measured (about 0.1 s)."""
    import torch

    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return "bf16", f"{torch.cuda.get_device_name(device)} multiplies bf16 on tensor cores"
        if major >= 7:
            return "fp16", f"{torch.cuda.get_device_name(device)} multiplies fp16 on tensor cores, not bf16"
        return "fp32", f"{torch.cuda.get_device_name(device)} has no tensor cores"
    gain = cpu_gain()
    return ("bf16" if gain >= PAYS else "fp32"), gain_words(gain)


def gain_words(gain: float) -> str:
    told = f"1/{gain:.1f} of" if gain >= 1 else f"{1 / gain:.1f}×"
    return f"a 3×3 convolution in bf16 takes {told} fp32's time here; measured"


def cpu_gain() -> float:
    """How many times faster a convolution is in bf16 than in fp32: the shortest of many of each, in turns, because noise
    only ever adds, and a disturbance should meet both."""
    import torch

    shortest: dict[torch.dtype, float] = {}
    for _ in range(TURNS):
        for kind in (torch.float32, torch.bfloat16):
            shortest[kind] = min(_seconds(kind), shortest.get(kind, math.inf))
    return shortest[torch.float32] / shortest[torch.bfloat16]


def _seconds(kind: torch.dtype) -> float:
    """Of the second of two forward convolutions: the first may compile a kernel."""
    import torch

    x = torch.ones(4, 64, 32, 32, dtype=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=kind).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.nn.functional.conv2d(x, weight, padding=1)
        begin = time.perf_counter()
        torch.nn.functional.conv2d(x, weight, padding=1)
        return time.perf_counter() - begin
