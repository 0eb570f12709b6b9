"""Mixup (Zhang et al. 2017) and cutmix (Yun et al. 2019) of neighbours: row j of a microbatch with row j xor 1.

One share and one box per pair, keyed by the pair's first sample, so no rank needs another's pixels: parts of a
microbatch are whole pairs (`unit` of order.rank_slices). Summed over a pair, the weights of its labels are the sum of
the two samples' own, so the loss's denominator is the one without mixing. B rows, even; P image side in pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from fanlight.config import Augment
from fanlight.data import order, warp
from fanlight.data.augment import MIX_DRAW, MIX_DRAWS
from fanlight.types import Mix


def draw(samples: np.ndarray, augment: Augment, *, seed: int, epoch: int, image_px: int) -> Mix | None:
    """How `samples` int64 [B], in pairs, are mixed; None where the config asks for none. ValueError for an odd B."""
    if not augment.mixes:
        return None
    if len(samples) % 2:
        raise ValueError(f"{len(samples)} rows are not pairs")
    u_MD = order.uniforms(samples[::2], seed=seed, epoch=epoch, draws=MIX_DRAWS, first_draw=MIX_DRAW)
    is_mixed_M = u_MD[:, 0] < augment.mix_probability
    is_cut_M = u_MD[:, 1] < 0.5 if augment.mixup and augment.cutmix else np.full(len(u_MD), augment.cutmix > 0)
    alpha_M = np.where(is_cut_M, augment.cutmix or 1.0, augment.mixup or 1.0)
    share_M = symmetric_beta(u_MD[:, 2], u_MD[:, 3], alpha=alpha_M)
    box_M4 = _boxes(share_M, u_MD[:, 4:], image_px=image_px) * (is_mixed_M & is_cut_M)[:, None]
    area_M = (box_M4[:, 2] - box_M4[:, 0]) * (box_M4[:, 3] - box_M4[:, 1])
    share_M = np.where(is_cut_M, 1 - area_M / image_px**2, share_M)  # of the pixels that are really replaced
    share_M = np.where(is_mixed_M, share_M, 1.0)
    return Mix(*(torch.from_numpy(np.repeat(part, 2, axis=0)) for part in (share_M, box_M4)))


def symmetric_beta(u: np.ndarray, v: np.ndarray, *, alpha: np.ndarray | float) -> np.ndarray:
    """Beta(α, α) from two uniforms, exactly: Devroye, Random variate generation in one line of code (1996).

    Bailey's (1994) Student t with 2α degrees of freedom, t = √(2α·(u^(−1/α) − 1))·cos 2πv, and (1 + t/√(2α + t²))/2.
    """
    log_w = np.log(np.maximum(u, 2.0**-54)) / alpha
    cosine = np.cos(2 * np.pi * v)
    far = -np.expm1(log_w) * cosine**2
    return 0.5 * (1 + np.sign(cosine) * np.sqrt(far / (np.exp(log_w) + far)))


def _boxes(share_M: np.ndarray, centre_M2: np.ndarray, *, image_px: int) -> np.ndarray:
    """int64 [M, 4]: squares of 1 − share of the area around uniform centres, cut to the image as published."""
    side_M = np.rint(image_px * np.sqrt(1 - share_M))
    centre_M2 = np.floor(centre_M2 * image_px)
    start_M2 = centre_M2 - (side_M // 2)[:, None]
    corners_M4 = np.concatenate([start_M2, start_M2 + side_M[:, None]], axis=1)
    return np.clip(corners_M4, 0, image_px).astype(np.int64)


def on(mix: Mix, device: torch.device) -> Mix:
    """The same, on the device that mixes."""
    return Mix(mix.share.to(device, non_blocking=True), mix.box.to(device, non_blocking=True))


def pixels(x: torch.Tensor, mix: Mix) -> torch.Tensor:
    """[B, C, P, P] of normalised pixels, mixed; the memory format is kept. No row's bits depend on other pairs."""
    share = mix.share.to(x.dtype).view(-1, 1, 1, 1)
    is_cut = (mix.box[:, 2] > mix.box[:, 0]).view(-1, 1, 1, 1)
    outside = torch.where(is_cut, torch.ones_like(share), share)
    own = torch.where(warp.inside(mix.box, x.shape[-1]), torch.zeros_like(share), outside)
    partner = x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return (x * own).add_(partner.mul_(1 - own))


def partners(targets: torch.Tensor) -> torch.Tensor:
    """int64 [B]: the row that each row is mixed with."""
    return torch.arange(len(targets), device=targets.device) ^ 1


def larger(targets: torch.Tensor, mix: Mix) -> torch.Tensor:
    """For each row the target that has the larger share: what the log's accuracy counts against."""
    rows = torch.arange(len(targets), device=targets.device)
    return targets[torch.where(mix.share >= 0.5, rows, rows ^ 1)]
