"""The operations of colour.py on a batch, by the device that holds it: float32 [n, 3, P, P] of whole numbers 0 … 255.

Each takes (x, amounts float64 [n]) and returns whole numbers again. A row's bits depend on the row alone: sums over an
image are of whole numbers, so exact in any order.
"""

import numpy as np
import torch


def identity(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    return x


def brightness(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    return _whole(x * (1 + _column(amounts, x)))


def contrast(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    total = _grey(x).sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    pixels = x.shape[2] * x.shape[3]
    mean = ((2 * total + pixels) // (2 * pixels)).to(x.dtype)
    return _whole(mean + (x - mean) * (1 + _column(amounts, x)))


def saturation(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    grey = _grey(x)
    return _whole(grey + (x - grey) * (1 + _column(amounts, x)))


def hue(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    """HSV and back, hues in sixths of a turn; channel n of (5, 3, 1) is V − V·S·clamp(min(k, 4 − k), 0, 1), k = n + H."""
    red, green, blue = x.unbind(1)
    highest = x.amax(1)
    chroma = highest - x.amin(1)
    some = chroma.clamp(min=1)
    sixths = torch.where(
        highest == red, (green - blue) / some,
        torch.where(highest == green, (blue - red) / some + 2, (red - green) / some + 4),
    )  # fmt: skip
    sixths = sixths + 6 * _column(amounts, x).squeeze(1)
    channels = []
    for number in (5, 3, 1):
        k = torch.remainder(sixths + number, 6)
        channels.append(highest - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return _whole(torch.stack(channels, dim=1))


def sharpness(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    side = x.shape[-1]
    if side < 3:
        return x
    inner = x[..., 1:-1, 1:-1]
    smooth = 4 * inner
    for down in range(3):
        for across in range(3):
            smooth = smooth + x[..., down : side - 2 + down, across : side - 2 + across]
    out = x.clone()
    out[..., 1:-1, 1:-1] = _whole(inner + (inner - smooth / 13) * _column(amounts, x))
    return out


def posterize(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    step = _column(2.0 ** np.rint(amounts), x)
    return torch.floor(x / step) * step


def solarize(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    return torch.where(x >= _column(256 - amounts, x), 255 - x, x)


def autocontrast(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(low == high, x, _whole((x - low) * (255 / (high - low).clamp(min=1))))


def equalize(x: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    images, channels = x.shape[:2]
    levels_ncX = x.long().flatten(2)
    every = torch.arange(256, device=x.device)
    plane = torch.arange(images * channels, device=x.device).view(images, channels, 1) * 256
    flat = (levels_ncX + plane).flatten()
    counts = torch.zeros(images * channels * 256, dtype=torch.int64, device=x.device)
    counts_ncL = counts.scatter_add_(0, flat, torch.ones_like(flat)).view(images, channels, 256)
    last = (counts_ncL * (every == levels_ncX.amax(2, keepdim=True))).sum(2, keepdim=True)
    step = (levels_ncX.shape[2] - last) // 255
    below = counts_ncL.cumsum(2) - counts_ncL
    table_ncL = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table_ncL = torch.where(step == 0, every, table_ncL)
    return table_ncL.gather(2, levels_ncX).view(x.shape).to(x.dtype)


def _grey(x: torch.Tensor) -> torch.Tensor:
    """[n, 1, P, P], ITU-R 601-2 luma as Pillow and OpenCV have it."""
    red, green, blue = x.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round_()


def _column(values: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(x.device, non_blocking=True).view(-1, 1, 1, 1)


def _whole(x: torch.Tensor) -> torch.Tensor:
    return x.round_().clamp_(0, 255)
