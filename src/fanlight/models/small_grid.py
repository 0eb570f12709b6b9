"""`small-grid`: a light encoder whose last grid is fine, for captions of small images: who is to name each of several things
and where it is needs cells smaller than things, and few operations, since most of the time goes to words."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

STRIDE = 8  # pixels of a cell's side


class SmallGrid(nn.Module):
    """[B, 3, H, W] to [B, classes] by way of features [B, 128, H / 8, W / 8]: 39 M multiplications of a 64 px image, a
    thirteenth of small-cnn's. A cell sees 79 pixels across."""

    def __init__(self, classes: int):
        super().__init__()
        self.stem = _convolution(3, 32, stride=2)
        self.stage1 = nn.Sequential(_convolution(32, 64, stride=2), _Residual(64))
        self.stage2 = nn.Sequential(_convolution(64, 128, stride=2), _Residual(128), _Residual(128))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(128, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last grid, as timm's networks call it."""
        return self.stage2(self.stage1(self.stem(x_BCHW)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.forward_features(x_BCHW)), 1))


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.inner = _convolution(channels, channels, stride=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.inner(x_BCHW)


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    layers = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), bn=nn.BatchNorm2d(outputs), act=nn.ReLU()
    )  # fmt: skip
    return nn.Sequential(layers)
