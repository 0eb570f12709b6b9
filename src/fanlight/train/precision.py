"""Number formats: which one this processor does fast, and what a step needs for it."""

from __future__ import annotations

import contextlib
import os
import time

import torch
import torch.nn.functional as F

from fanlight.errors import ConfigError

NAMES = ("fp32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PAYS = 1.2  # times faster than fp32 before a shorter format is chosen: below that it costs accuracy for little


def check(name: str, device: torch.device) -> None:
    """Raises ConfigError for a format that does not exist or that this device cannot train in."""
    if name not in NAMES:
        raise ConfigError(f"train.precision is {name!r}; use one of {', '.join(NAMES)}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision is 'fp16', which CPUs do not train in; use bf16 or fp32, or --device cuda")


def autocast(name: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context of a forward: convolutions and matrix products in the short format, weights and sums in fp32."""
    if name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[name])


def set_up(name: str, device: torch.device, *, deterministic: bool) -> None:
    """Process-wide switches. fp32 means fp32: no TF32 in its convolutions. Shapes never change, so cuDNN may try its
    algorithms once, unless the same bits are wanted."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses determinism without it
    torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.allow_tf32 = name != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = name != "fp32"


def fastest(device: torch.device) -> tuple[str, str]:
    """The format to train in when none was asked for, and the reason in words. CPUs are measured (about 0.1 s)."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return "bf16", f"{torch.cuda.get_device_name(device)} multiplies bf16 on tensor cores"
        if major >= 7:
            return "fp16", f"{torch.cuda.get_device_name(device)} multiplies fp16 on tensor cores, not bf16"
        return "fp32", f"{torch.cuda.get_device_name(device)} has no tensor cores"
    gain = _seconds(torch.float32) / _seconds(torch.bfloat16)
    text = f"a 3×3 convolution in bf16 takes 1/{gain:.1f} of fp32's time here" if gain >= 1 else ""
    text = text or f"a 3×3 convolution in bf16 takes {1 / gain:.1f}× fp32's time here"
    return ("bf16" if gain >= PAYS else "fp32"), f"{text}; measured"


def _seconds(kind: torch.dtype) -> float:
    """The shortest of several forward convolutions: noise only ever adds."""
    x = torch.randn(4, 64, 32, 32).to(kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).to(kind).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(6):
            begin = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            best = min(best, time.perf_counter() - begin)
    return best
