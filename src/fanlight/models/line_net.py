"""The modules of a network that one line of text describes (models/line.py). Names are places: `0.weight`, `4.1.bias`."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from fanlight import machine
from fanlight.console import bytes_text
from fanlight.models import line
from fanlight.models.line import Line, Placed, Shape

WEIGHT_BYTES = 4
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Block(nn.Sequential):
    """Layers, added to what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def build(text: Line, *, image: Shape, classes: int) -> nn.Sequential:
    """The network for images [B, *image] and outputs [B, classes]; torch's own initial weights. ConfigError where memory cannot
    hold them."""
    placed = line.place(text, image=image, classes=classes)
    _check_room(text, placed)
    return nn.Sequential(_named(placed))


def _check_room(text: Line, placed: tuple[Placed, ...]) -> None:
    count, free = line.parameters(placed), machine.memory_available()
    if WEIGHT_BYTES * count <= free:
        return
    most = max(line.walk(placed), key=lambda each: sum(map(math.prod, line.weights(each).values())))
    raise line.wrong(
        text.text, most.layer.at, f"{count:,} weights take {bytes_text(WEIGHT_BYTES * count)}, and this machine has "
        f"{bytes_text(free)} free; most are those of {most.layer}, which {list(most.x)} reaches: pool more before it, or "
        "give it fewer outputs"
    )  # fmt: skip


def _named(placed: tuple[Placed, ...]) -> OrderedDict[str, nn.Module]:
    """Modules by their places; what flattens an image before a linear layer has none."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for each in placed:
        place = each.name.rpartition(".")[2]
        if isinstance(each.layer, line.Dense) and len(each.x) == 3:
            found[f"flat{place}"] = nn.Flatten()
        found[place] = _module(each)
    return found


def _module(placed: Placed) -> nn.Module:
    layer, x = placed.layer, placed.x
    if isinstance(layer, line.Conv):
        return nn.Conv2d(
            x[0], layer.outputs, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups, placed.has_bias
        )  # fmt: skip
    if isinstance(layer, line.Pool):
        if layer.is_mean:
            return nn.AvgPool2d(layer.kernel, layer.stride, layer.padding) if layer.kernel else nn.AdaptiveAvgPool2d(1)
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding) if layer.kernel else nn.AdaptiveMaxPool2d(1)
    if isinstance(layer, line.Dense):
        return nn.Linear(math.prod(x), placed.y[0], bias=placed.has_bias)
    if isinstance(layer, line.Norm):
        return nn.BatchNorm2d(x[0]) if len(x) == 3 else nn.BatchNorm1d(x[0])
    if isinstance(layer, line.Dropout):
        return nn.Dropout(layer.rate)
    if isinstance(layer, line.Activation):
        return ACTIVATIONS[layer.name]()
    return Block(_named(placed.body))
