"""What tensor parallelism makes of a network: which layers it divides, what they take, and which divisions training refuses."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.parallel import tensor


def pairs(segment: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the first and second layer of every pair that tensor.TABLE knows in `segment`."""
    for name, block in segment.named_modules():
        for pair in tensor.TABLE.get(type(block).__name__, ()):
            yield tuple(f"{name}.{layer}" if name else layer for layer in (pair.first, pair.second))  # type: ignore[misc]


@contextlib.contextmanager
def divided_s(segment: nn.Module) -> Iterator[list[float]]:
    """Inside, seconds that each forward of a pair takes, from its first layer's beginning to its second's end: what lies in
    between is divided with them. A GPU is waited for."""
    layers, spent, begins = dict(segment.named_modules()), [], {}  # type: ignore[var-annotated]
    hooks = []

    def now() -> float:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(key: str) -> Callable[..., None]:
        return lambda *_: begins.__setitem__(key, now())

    def end(key: str) -> Callable[..., None]:
        return lambda *_: spent.append(now() - begins.pop(key)) if key in begins else None

    for first, second in pairs(segment):
        if first in layers and second in layers:
            hooks.append(layers[first].register_forward_pre_hook(begin(first)))
            hooks.append(layers[second].register_forward_hook(end(first)))
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def refusals(model: nn.Module) -> Callable[[int], str]:
    """Why `model` (on the meta device: nothing is copied but names) cannot be divided over so many ranks, in training's own
    words; empty where it can."""

    @lru_cache
    def refused(ranks: int) -> str:
        if ranks < 2:
            return ""
        try:
            tensor.divide(copy.deepcopy(model), group=None, rank=0, ranks=ranks)
        except ConfigError as error:
            return str(error)
        return ""

    return refused
