"""A sequence of random numbers for one scene, from the hash of data/order.py: the same on every machine and NumPy version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fanlight.data import order

Choice = TypeVar("Choice")
_BLOCK = 256  # numbers that are made at once


class Dice:
    """Numbers of (seed, scene), one after the other."""

    def __init__(self, scene: int, *, seed: int) -> None:
        self._scene, self._seed = np.array([scene]), seed
        self._block: list[float] = []
        self._drawn = 0

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        if not self._block:
            found = order.uniforms(self._scene, seed=self._seed, epoch=0, draws=_BLOCK, first_draw=self._drawn)
            self._block = found[0, ::-1].tolist()
            self._drawn += _BLOCK
        return low + self._block.pop() * (high - low)

    def is_so(self, chance: float) -> bool:
        return self.number() < chance

    def one_of(self, things: Sequence[Choice]) -> Choice:
        return things[int(self.number() * len(things))]

    def weighted(self, weights: dict[Choice, float]) -> Choice:
        """A key, as often as its weight says; the weights add up to 1."""
        left = self.number()
        for thing, weight in weights.items():
            left -= weight
            if left < 0:
                return thing
        return thing
