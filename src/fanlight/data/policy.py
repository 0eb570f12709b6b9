"""What happens to a training image after its crop: operations of a policy, colour jitter, erasing. Which, and how much,
is drawn per sample on the host; the pixels are changed by an input thread (engine cpu) or by the device, in batches.

An operation is a row of `OPS`. B images, S operations one after the other, P side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fanlight.config import MAGNITUDES, Augment
from fanlight.data import augment as boxes
from fanlight.data import colour, colour_batch, order, warp
from fanlight.types import Changes

ERASE_SHARE, ERASE_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)  # Zhong et al. 2017


@dataclass(frozen=True)
class Op:
    """One operation. Amounts at magnitude 30 of each policy; 0 changes nothing where there is an amount at all."""

    name: str
    wide: float | None  # TrivialAugment Wide (Müller, Hutter 2021); None: not in the policies
    rand: float | None  # RandAugment (Cubuk et al. 2020), ranges as torchvision has them
    signed: bool  # the amount is negated with probability 1/2
    image: Callable[[np.ndarray, float], np.ndarray]  # uint8 [P, P, 3], on the CPU
    batch: Callable[[torch.Tensor, np.ndarray], torch.Tensor]  # float32 [n, 3, P, P] of whole numbers, on any device


# Translations are shares of the side: 32 of ImageNet's 224 px, and 150 of 331 px, as published.
# 0, 0: an operation without strengths.
OPS = (
    Op("identity", 0, 0, False, colour.identity, colour_batch.identity),
    Op("shear-x", 0.99, 0.3, True, warp.of_image(warp.shear_x), warp.of_batch(warp.shear_x)),
    Op("shear-y", 0.99, 0.3, True, warp.of_image(warp.shear_y), warp.of_batch(warp.shear_y)),
    Op("translate-x", 32 / 224, 150 / 331, True, warp.of_image(warp.translate_x), warp.of_batch(warp.translate_x)),
    Op("translate-y", 32 / 224, 150 / 331, True, warp.of_image(warp.translate_y), warp.of_batch(warp.translate_y)),
    Op("rotate", 135, 30, True, warp.of_image(warp.rotate), warp.of_batch(warp.rotate)),
    Op("brightness", 0.99, 0.9, True, colour.brightness, colour_batch.brightness),
    Op("saturation", 0.99, 0.9, True, colour.saturation, colour_batch.saturation),
    Op("contrast", 0.99, 0.9, True, colour.contrast, colour_batch.contrast),
    Op("sharpness", 0.99, 0.9, True, colour.sharpness, colour_batch.sharpness),
    Op("posterize", 6, 4, False, colour.posterize, colour_batch.posterize),
    Op("solarize", 256, 256, False, colour.solarize, colour_batch.solarize),
    Op("autocontrast", 0, 0, False, colour.autocontrast, colour_batch.autocontrast),
    Op("equalize", 0, 0, False, colour.equalize, colour_batch.equalize),
    Op("hue", None, None, True, colour.hue, colour_batch.hue),
)
_NAMED = {op.name: index for index, op in enumerate(OPS)}
_IN_POLICIES = np.array([index for index, op in enumerate(OPS) if op.wide is not None])
_JITTER = np.array([_NAMED[name] for name in ("brightness", "contrast", "saturation", "hue")])


def draw(samples: np.ndarray, augment: Augment, *, seed: int, epoch: int, image_px: int) -> Changes | None:
    """What happens to `samples` int64 [B]; None where the config asks for nothing. Policy first, then jitter."""
    if not augment.changes_pixels:
        return None
    key = {"seed": seed, "epoch": epoch}
    parts = [_policy(samples, augment, **key), _jitter(samples, augment, **key)]
    ops, amounts = (np.concatenate(columns, axis=1) for columns in zip(*parts))
    return Changes(ops, amounts, _erased(samples, augment, image_px=image_px, **key))


def _policy(samples: np.ndarray, augment: Augment, **key: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [B, S], float64 [B, S]): S is 0, 1 or `rand_ops`."""
    count = {"none": 0, "trivial": 1, "rand": augment.rand_ops}[augment.policy]
    draws = boxes.POLICY_DRAWS
    u_BSD = order.uniforms(samples, draws=count * draws, first_draw=boxes.POLICY_DRAW, **key)
    u_BSD = u_BSD.reshape(len(samples), count, draws)
    op_BS = _IN_POLICIES[(u_BSD[..., 0] * len(_IN_POLICIES)).astype(np.int64)]
    if augment.policy == "trivial":
        magnitude_BS = np.floor(u_BSD[..., 1] * (MAGNITUDES + 1)) / MAGNITUDES
    else:
        magnitude_BS = np.full(op_BS.shape, augment.rand_magnitude / MAGNITUDES)
    most_O = np.array([(op.wide if augment.policy == "trivial" else op.rand) or 0.0 for op in OPS])
    is_signed_O = np.array([op.signed for op in OPS])
    sign_BS = np.where(is_signed_O[op_BS] & (u_BSD[..., 2] < 0.5), -1.0, 1.0)
    return op_BS, most_O[op_BS] * magnitude_BS * sign_BS


def _jitter(samples: np.ndarray, augment: Augment, **key: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the four operations that are on, in a random order, each by up to its strength either way."""
    is_on = np.flatnonzero(augment.jitter)
    u_BD = order.uniforms(samples, draws=boxes.JITTER_DRAWS, first_draw=boxes.JITTER_DRAW, **key)
    amount_BS = ((2 * u_BD[:, :4] - 1) * augment.jitter)[:, is_on]
    place_BS = np.argsort(u_BD[:, 4:][:, is_on], axis=1, kind="stable")
    return _JITTER[is_on][place_BS], np.take_along_axis(amount_BS, place_BS, axis=1)


def _erased(samples: np.ndarray, augment: Augment, *, image_px: int, **key: int) -> np.ndarray:
    """int64 [B, 4]: a rectangle with probability `erase`, of the paper's shares and ratios without redrawing."""
    u_BD = order.uniforms(samples, draws=boxes.ERASE_DRAWS, first_draw=boxes.ERASE_DRAW, **key)
    sides = np.full(len(samples), image_px)
    b = boxes.boxes_within(u_BD, sides, sides, share=ERASE_SHARE, ratio=ERASE_RATIO)
    box_B4 = np.stack([b.left, b.top, b.left + b.width, b.top + b.height], axis=1)
    return box_B4 * (u_BD[:, 4] < augment.erase)[:, None]


def change(image: np.ndarray, changes: Changes, index: int) -> None:
    """Changes `image` uint8 [P, P, 3] in place, as row `index` says."""
    changed = image
    for op, amount in zip(changes.op[index].tolist(), changes.amount[index].tolist()):
        changed = OPS[op].image(changed, amount)
    if changed is not image:
        image[:] = changed
    left, top, right, bottom = changes.erase[index].tolist()
    image[top:bottom, left:right] = warp.FILL


def change_batch(images: torch.Tensor, changes: Changes) -> torch.Tensor:
    """uint8 [B, P, P, 3] on any device, changed there: rows that share an operation together. Nothing waits for it."""
    x = images.permute(0, 3, 1, 2).to(torch.float32)
    for slot in range(changes.op.shape[1]):
        for op in np.unique(changes.op[:, slot]):
            chosen = np.flatnonzero(changes.op[:, slot] == op)
            rows = torch.from_numpy(chosen).to(x.device, non_blocking=True)
            x[rows] = OPS[op].batch(x[rows], changes.amount[chosen, slot])
    erased = warp.inside(torch.from_numpy(changes.erase).to(x.device, non_blocking=True), x.shape[-1])
    return torch.where(erased, warp.fill_like(x), x).to(torch.uint8).permute(0, 2, 3, 1)
