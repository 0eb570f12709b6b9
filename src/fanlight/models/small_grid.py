"""`small-grid`: a light encoder whose last grid is fine, for captions of small images: who is to name each of several things
and where it is needs cells smaller than things, and few operations, since much of the time goes to words."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallGrid(nn.Module):
    """[B, 3, H, W] to [B, classes] by way of features [B, 64, H / 8, W / 8]: 10 M multiplications of a 64 px image, a
    fiftieth of small-cnn's. A cell sees 43 pixels across."""

    def __init__(self, classes: int):
        super().__init__()
        self.groups = nn.Sequential(GridGroup(3, 16), GridGroup(16, 32), GridGroup(32, 64))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last grid, as timm's networks call it."""
        return self.groups(x_BCHW)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.forward_features(x_BCHW)), 1))


class GridGroup(nn.Module):
    """A convolution to half the side, and one beside a shortcut; each with a norm and ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.act1(self.bn1(self.conv1(x_BCHW)))
        return x_BCHW + self.act2(self.bn2(self.conv2(x_BCHW)))
