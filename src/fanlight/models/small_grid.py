"""`small-grid`: a light encoder whose last grid is fine, for captions of small images: who is to name each of several things
and where it is needs cells smaller than things, and few operations, since much of the time goes to words.

It looks twice: at colours, and at edges without colour. A network that sees both at once learns that what never came in red
is no red thing; one that sees edges alone cannot, so a shape is known in a colour in which it was never shown."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGE_WINDOW = 9  # pixels across, over which edges are compared with each other
FAINT = 0.02  # an edge, in deviations of a pixel's value, below which it counts as none
STREAMS = 2


class SmallGrid(nn.Module):
    """[B, 3, H, W] to [B, classes] by way of features [B, 128, H / 8, W / 8], of colours first, then of edges: 19 M
    multiplications of a 64 px image, a twenty-fifth of small-cnn's. A cell sees 43 pixels across, and the edges' another 10."""

    streams = STREAMS  # equal parts of the features, none of which knows of the others

    def __init__(self, classes: int):
        super().__init__()
        self.edges = ColoursAndEdges()
        self.groups = nn.Sequential(GridGroup(6, 32), GridGroup(32, 64), GridGroup(64, 128))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(128, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last grid, as timm's networks call it."""
        return self.groups(self.edges(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.forward_features(x_BCHW)), 1))


class ColoursAndEdges(nn.Module):
    """[B, 3, H, W] to [B, 6, H, W]: the image, and how strong its edges are, in all, upright and level.

    An edge is the length of Sobel's gradient over the three channels, and what is told of it its share of the edges around:
    the same for a bright thing on a dark ground and a dark one on a bright ground, and nearly the same for any contrast.
    """

    sobel: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.register_buffer("sobel", torch.stack([across, across.T]).repeat(3, 1, 1)[:, None], persistent=False)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        padded = F.pad(x_B3HW, (1, 1, 1, 1), mode="replicate")
        gradient_B32HW = F.conv2d(padded, self.sobel.to(x_B3HW.dtype), groups=3).unflatten(1, (3, 2))
        squares_B2HW = gradient_B32HW.square().sum(1)
        edges_B3HW = torch.cat([squares_B2HW.sum(1, keepdim=True), squares_B2HW], 1).add(1e-6).sqrt()
        strength = edges_B3HW[:, :1]
        around = strength
        for window in ((EDGE_WINDOW, 1), (1, EDGE_WINDOW)):  # the mean of a window is that of its rows' means
            reach = (window[0] // 2, window[1] // 2)
            around = F.avg_pool2d(around, window, 1, reach, count_include_pad=False)
        found = torch.cat([x_B3HW, 4 * edges_B3HW / (strength + around + FAINT) - 1], 1)
        # In the order of the image: else the order of the next weights decides how their convolution computes, and weights that
        # a layout gathers have another one than those at rest.
        is_last = x_B3HW.is_contiguous(memory_format=torch.channels_last)
        return found.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


class GridGroup(nn.Module):
    """A convolution to half the side, and one beside a shortcut; each with a norm and ReLU, and of each stream alone."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False, groups=STREAMS)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, groups=STREAMS)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.act1(self.bn1(self.conv1(x_BCHW)))
        return x_BCHW + self.act2(self.bn2(self.conv2(x_BCHW)))
