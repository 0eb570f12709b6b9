"""The last layer apart from the rest. Its input is an image's features: b images, features [b, …], K outputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models import told
from fanlight.models.zoo import head


class Tail(nn.Module):
    """Features [b, …] to outputs [b, K], of a captioner logits, by the model's own last layer, whose parameters it shares."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.last = model.get_submodule(head(model))

    def forward(self, features: Tensor) -> Tensor:
        return _outputs(self.last(features))


@contextmanager
def watching(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Inside, a call gives the features of the newest forward that this thread did; several threads may run forwards."""
    newest: dict[int, Tensor] = {}

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        newest[threading.get_ident()] = inputs[0].detach()

    handle = model.get_submodule(head(model)).register_forward_pre_hook(keep)
    try:
        yield lambda: newest.pop(threading.get_ident())
    finally:
        handle.remove()


@torch.no_grad()
def features(model: nn.Module, x: Tensor) -> Tensor:
    """What the last layer sees of `x` [b, 3, P, P]. Inputs of a frozen network ask for no gradient."""
    with watching(model) as newest, told.standing_in(model):
        model(x)
        return newest()


@torch.no_grad()
def check(model: nn.Module, example: Tensor) -> None:
    """ConfigError unless the outputs of `example` [b, 3, P, P] are what the last layer makes of one row per image."""
    calls: list[tuple[Tensor, Tensor]] = []
    last = model.get_submodule(head(model))
    handle = last.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    was_training = model.training
    model.eval()
    try:
        with told.standing_in(model):
            outputs = model(example)
    finally:
        handle.remove()
        model.train(was_training)
    family = type(model).__name__
    if len(calls) != 1:
        raise ConfigError(f"{family} uses its last layer {len(calls)} times in a forward")
    features, made = calls[0]
    if len(features) != len(example):
        raise ConfigError(f"{family} gives its last layer {len(features)} rows for {len(example)} images")
    # By memory and not by value: a last layer may start with weights of 0, whose outputs say nothing.
    is_last = made.untyped_storage().data_ptr() == outputs.untyped_storage().data_ptr()
    if not is_last or _outputs(made).shape != outputs.shape:
        raise ConfigError(f"{family} computes more after its last layer with weights")


def _outputs(made: Tensor) -> Tensor:
    """A 1 × 1 convolution gives [b, K, 1, 1]."""
    return made.flatten(1) if made.shape[2:] == (1, 1) else made
