"""A network on any table of operators. Every array is a room of a Memory, made at the first step.

ReLU is part of the convolution or dense layer before it; its gradient, where a max-pooling follows, is taken of the pooled
numbers, since only the largest of a window has one. A table with `conv2d_pooled` does all three in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fanlight.models import line
from fanlight.models.line import Placed
from fanlight.scratch.layers import Activation, Block, Conv, ConvPooled, Dense, Dropout, Layer, Norm, Pass, Pool


class Net:
    """Layers one after the other. After a forward in training, `backward` may be called once."""

    def __init__(self, placed: tuple[Placed, ...], *, fuses_pooling: bool = False):
        drops = [each.name for each in line.walk(placed) if isinstance(each.layer, line.Dropout)]
        self._layers = list(_layers(placed, {name: number for number, name in enumerate(drops)}, fuses_pooling))
        self._first = next(index for index, layer in enumerate(self._layers) if layer.trains)

    def forward(self, x: Any, run: Pass) -> Any:
        """[N, K] of images [N, C, H, W], in a room that the next forward uses again."""
        for layer in self._layers:
            x = layer.forward(x, run)
        return x

    def backward(self, grad: Any, run: Pass) -> None:
        """Gradients of all weights from that of what forward gave; `grad` may be changed."""
        for index in range(len(self._layers) - 1, self._first - 1, -1):
            grad = self._layers[index].backward(grad, run, is_wanted=index > self._first)


def _layers(placed: tuple[Placed, ...], drops: dict[str, int], fuses_pooling: bool) -> Iterator[Layer]:
    """`drops` are the dropouts' numbers by name."""
    before: Layer | None = None
    index, after_relu = 0, False
    while index < len(placed):
        each, layer = placed[index], placed[index].layer
        relu, pooled = _follow(placed[index + 1 :])
        made: Layer
        if isinstance(layer, line.Conv) and pooled is not None and fuses_pooling and _is_two_by_two(pooled.layer):
            made, index, relu = ConvPooled(each, pooled), index + 2, False
        elif isinstance(layer, line.Conv):
            made, index = Conv(each, relu=relu, masks=relu and pooled is None), index + relu
        elif isinstance(layer, line.Dense):
            made, index, relu = Dense(each, relu=relu), index + relu, False
        elif isinstance(layer, line.Pool):
            made = Pool(each, after_relu=after_relu)
        elif isinstance(layer, line.Norm):
            made = Norm(each)
        elif isinstance(layer, line.Activation):
            # A dropout in evaluation gives the very array that it got, which others may read.
            apart = before is not None and not before.keeps_result and not isinstance(before, Dropout)
            made = Activation(each, in_place=apart)
        elif isinstance(layer, line.Dropout):
            made = Dropout(each, number=drops[each.name])
        else:
            made = Block(each, list(_layers(each.body, drops, fuses_pooling)))
        yield made
        after_relu = isinstance(made, Conv) and relu and pooled is not None
        before = made
        index += 1


def _follow(placed: tuple[Placed, ...]) -> tuple[bool, Placed | None]:
    """Whether a ReLU comes next, and the max-pooling that comes right after it."""
    relu = bool(placed) and isinstance(placed[0].layer, line.Activation) and placed[0].layer.name == "relu"
    pooled = placed[1] if relu and len(placed) > 1 and isinstance(placed[1].layer, line.Pool) else None
    return relu, None if pooled is None or pooled.layer.is_mean else pooled  # type: ignore[attr-defined]


def _is_two_by_two(layer: Any) -> bool:
    return (layer.kernel, layer.stride, layer.padding) == (2, 2, 0)
