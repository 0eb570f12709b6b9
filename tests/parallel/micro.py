"""Micro networks that hold every kind of block that layouts divide, in seconds: four blocks each, so that four stages fit.

C = 16 channels. Registered under names that a config can say, as the shipped small networks are.
"""

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import Bottleneck
from timm.models.vision_transformer import Block
from torch import nn

from fanlight.models import small

WIDTH = 16


class Micro(nn.Module):
    """A stem that halves the sides, four blocks, the mean over places, a last layer."""

    def __init__(self, blocks: list[nn.Module], classes: int, *, tokens: bool = False):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(WIDTH) if tokens else nn.Identity()
        self.tokens = tokens
        self.fc = nn.Linear(WIDTH, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.stem(x_BCHW)
        if self.tokens:
            return self.fc(self.norm(self.blocks(x.flatten(2).transpose(1, 2))).mean(1))
        return self.fc(self.norm(self.blocks(x)).mean((2, 3)))


def _bottleneck(stride: int = 1) -> nn.Module:
    down = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, stride, bias=False), nn.BatchNorm2d(WIDTH)) if stride > 1 else None
    return Bottleneck(WIDTH, WIDTH // 4, stride=stride, downsample=down)


small.NAMES["micro-basic"] = lambda classes, image_px: Micro(
    [small.BasicBlock(WIDTH, WIDTH, stride=stride) for stride in (1, 2, 1, 1)], classes
)
small.NAMES["micro-bottleneck"] = lambda classes, image_px: Micro([_bottleneck(s) for s in (1, 2, 1, 1)], classes)
small.NAMES["micro-convnext"] = lambda classes, image_px: Micro(
    [ConvNeXtBlock(WIDTH, ls_init_value=0.5, drop_path=0.1 * (i > 1)) for i in range(4)], classes
)
small.NAMES["micro-vit"] = lambda classes, image_px: Micro(
    [Block(WIDTH, num_heads=4, qkv_bias=True, drop_path=0.1 * (i > 1)) for i in range(4)], classes, tokens=True
)
NAMES = ("micro-basic", "micro-bottleneck", "micro-convnext", "micro-vit")
