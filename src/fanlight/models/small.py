"""Small networks: those of the reference projects, and two for images of at most 64 px, `small-cnn` and `small-resnet`.

B images, 3 channels, H = W = image_px. Each ends in a Linear named `fc`; convolutions are unpadded unless said.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models.small_grid import SmallGrid


class WeatherLeNet(nn.Module):
    """LeNet-like network for 256 px: 256 → 253 → 50 → 46 → 23 → 16 → 4 → 1, the last convolution gives [B, 120, 1, 1].

    The reference's last pooling is 4 wide; here it is adaptive to 4 × 4, the same at 256 px, and works from 103 px.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 6, 4),
            nn.AvgPool2d(5),
            *_convolution(6, 16, 5),
            nn.AvgPool2d(2),
            *_convolution(16, 32, 8),
            nn.AdaptiveAvgPool2d(4),
            *_convolution(32, 120, 4),
            nn.Flatten(),
        )
        self.fc1 = nn.Linear(120, 84)
        self.act = nn.Tanh()
        self.fc = nn.Linear(84, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.act(self.fc1(self.features(x_BCHW))))


def _convolution(inputs: int, outputs: int, kernel_px: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel_px), nn.BatchNorm2d(outputs), nn.Tanh()


class ScratchCNN(nn.Module):
    """The network that the from-scratch project writes by hand: convolution 16, pool 2, convolution 32, dense 128."""

    def __init__(self, classes: int, *, image_px: int):
        super().__init__()
        side_px = (image_px - 2) // 2 - 2
        if side_px < 1:
            raise ConfigError(f"scratch-cnn takes images of 8 px and more, got {image_px} px; try --image-size 28")
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()
        )
        self.fc1 = nn.Linear(32 * side_px**2, 128)
        self.act = nn.ReLU()
        self.fc = nn.Linear(128, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.act(self.fc1(self.features(x_BCHW))))


class LeNet5(nn.Module):
    """LeCun et al., Gradient-based learning applied to document recognition, 1998; its C5 as a Linear, and no RBF."""

    def __init__(self, classes: int, *, image_px: int):
        super().__init__()
        side_px = ((image_px - 4) // 2 - 4) // 2
        if side_px < 1:
            raise ConfigError(f"lenet5 takes images of 16 px and more, got {image_px} px; try --image-size 32")
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(nn.Linear(16 * side_px**2, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh())
        self.fc = nn.Linear(84, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.dense(self.features(x_BCHW)))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al. 2015), under timm's names, which tensor parallelism knows."""

    def __init__(self, inputs: int, outputs: int, *, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x_BCHW))))) + shortcut)


class SmallResNet(nn.Module):
    """Three stages of two BasicBlocks, 32, 64 and 128 channels, .7 M parameters; the stem keeps every pixel."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(32, 32, stride=1)
        self.layer2 = _stage(32, 64, stride=2)
        self.layer3 = _stage(64, 128, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # every block starts as its shortcut (Goyal et al. 2017)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last grid, as timm's networks call it."""
        x_BCHW = self.act1(self.bn1(self.conv1(x_BCHW)))
        return self.layer3(self.layer2(self.layer1(x_BCHW)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.forward_features(x_BCHW)), 1))


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride=stride), BasicBlock(outputs, outputs, stride=1))


class SmallCNN(nn.Module):
    """Seven convolutions without shortcuts, 2 M parameters, for images of at most 64 px: the network of Jordan 2024, "94%
    on CIFAR-10 in 3.29 Seconds on a Single GPU", but for its first layer.

    There it is fitted to the training images; here it is what such a fit comes to on natural images, so that a network
    needs no data to be made: 2 × 2 patches in Haar's basis and opponent colours, each divided by its usual deviation.
    """

    def __init__(self, classes: int, *, image_px: int):
        if image_px < 4:
            raise ConfigError(f"small-cnn takes images of 4 px and more, got {image_px} px; try --image-size 32")
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.act = nn.GELU()
        keeps = image_px < 32  # the last row and column of an odd side: where there are few, each counts
        self.groups = nn.Sequential(
            _ConvGroup(24, 64, keeps_odd=keeps),
            _ConvGroup(64, 256, keeps_odd=keeps),
            _ConvGroup(256, 256, keeps_odd=keeps),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(256, classes)
        self._start()

    def _start(self) -> None:
        """Convolutions begin as the identity on their first channels; the rest of a channel is random."""
        basis_P322 = _whitening()
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([basis_P322, -basis_P322]))  # both signs: the activation drops one
            assert self.whiten.bias is not None
            self.whiten.bias.zero_()
            for module in self.groups.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.dirac_(module.weight[: module.in_channels])

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last grid, as timm's networks call it."""
        return self.groups(self.act(self.whiten(x_BCHW)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.forward_features(x_BCHW)), 1))


class _ConvGroup(nn.Module):
    """Convolution, pooling, convolution, each followed by a norm and GELU."""

    def __init__(self, inputs: int, outputs: int, *, keeps_odd: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2, ceil_mode=keeps_odd)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.GELU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.act1(self.bn1(self.pool(self.conv1(x_BCHW))))
        return self.act2(self.bn2(self.conv2(x_BCHW)))


# Variances of normalised 2 × 2 patches of photographs, by Haar's pattern (even, edge below, edge beside, checker) and
# colour (grey, red against blue, green against both): of 2,000 images of CIFAR-10's training set, whose eigenvectors
# these patterns are to within a few hundredths.
_PATCH_VARIANCES = ((12.5, 1.07, 0.21), (0.50, 0.007, 0.0025), (0.41, 0.005, 0.002), (0.066, 0.0003, 0.0002))
_LEAST_VARIANCE = 2e-3  # below it is mostly what JPEG leaves


def _whitening() -> Tensor:
    """[12, 3, 2, 2]: a filter for each pattern in each colour; over photographs its output has deviation 1 or less."""
    patterns_PHW = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(4, 2, 2) / 2
    colours_KC = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours_KC = colours_KC / colours_KC.norm(dim=1, keepdim=True)
    scales_PK = (torch.tensor(_PATCH_VARIANCES) + _LEAST_VARIANCE).rsqrt()
    return torch.einsum("phw,kc,pk->pkchw", patterns_PHW, colours_KC, scales_PK).flatten(0, 1)


NAMES: dict[str, Callable[[int, int], nn.Module]] = {  # name → constructor(classes, image_px)
    "weather-lenet": lambda classes, image_px: WeatherLeNet(classes),
    "scratch-cnn": lambda classes, image_px: ScratchCNN(classes, image_px=image_px),
    "lenet5": lambda classes, image_px: LeNet5(classes, image_px=image_px),
    "small-resnet": lambda classes, image_px: SmallResNet(classes),
    "small-cnn": lambda classes, image_px: SmallCNN(classes, image_px=image_px),
    "small-grid": lambda classes, image_px: SmallGrid(classes),
}
