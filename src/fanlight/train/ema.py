"""Exponential moving average of the weights (Polyak and Juditsky 1992; its decay per step as in Tarvainen and Valpola
2017): what is evaluated and exported while training goes on with the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from fanlight.parallel.held import local


def decay_at(step: int, *, most: float) -> float:
    """The decay of optimizer step `step`, from 0: min(most, (1 + step) / (10 + step)), so that the starting weights are
    soon forgotten and a short run's average is not of its beginning."""
    return min(most, (1 + step) / (10 + step))


class Average:
    """Averages of what training moves in `parts`: trained parameters, and floating buffers, by their names.

    Buffers are averaged too, not copied: a norm's running statistics are means over the newest steps of the weights as
    they were then, and those of the averaged weights lie as far behind as these. Integers (counts of batches) and frozen
    parameters have no average; they are the model's own.
    """

    def __init__(self, parts: Sequence[nn.Module], *, decay: float):
        self._decay = decay
        frozen = {name for part in parts for name, p in part.named_parameters() if not p.requires_grad}
        # state_dict gives the very tensors, whatever wraps the parts later.
        named = ((name, local(value)) for part in parts for name, value in part.state_dict().items())
        self._live = {name: value for name, value in named if value.is_floating_point() and name not in frozen}
        self._mean = {name: value.clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step `step`, from 0: mean += (1 − decay) · (live − mean). Equal on ranks whose weights are."""
        weight = 1.0 - decay_at(step, most=self._decay)
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), weight)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parts hold the averages; afterwards their own values again, bit for bit. Values change places and
        no module is copied: replicated and synchronised ones cannot be, and what refers to the tensors stays right."""
        live, mean = list(self._live.values()), list(self._mean.values())
        with torch.no_grad():
            kept = [value.clone() for value in live]
            torch._foreach_copy_(live, mean)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, kept)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`ema.<name>`: the same keys in every layout."""
        return {f"ema.{name}": value for name, value in self._mean.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave. KeyError where one is missing."""
        for name, value in self._mean.items():
            value.copy_(tensors[f"ema.{name}"])
