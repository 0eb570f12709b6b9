"""From a stored canvas to the model's square: crop, resize, mirror. Pure functions of the sample's random numbers.

B images; H, W canvas height and width; P side of the square in pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from fanlight.data import order

CROP_DRAWS = 5  # share, ratio, left, top, mirror


@dataclass(frozen=True)
class Boxes:
    """Where each image is cut, in canvas pixels, and whether it is mirrored."""

    left: np.ndarray  # int64 [B]
    top: np.ndarray  # int64 [B]
    width: np.ndarray  # int64 [B], at least 1
    height: np.ndarray  # int64 [B], at least 1
    mirror: np.ndarray  # bool [B]


def random_boxes(
    samples: np.ndarray, heights: np.ndarray, widths: np.ndarray, *, seed: int, epoch: int, flip: bool,
    share: tuple[float, float], ratio: tuple[float, float],
) -> Boxes:  # fmt: skip
    """The random resized crop of Szegedy et al. 2015, without redrawing: the ratio is log-uniform over what fits.

    A crop of share s and ratio r (width / height) of an H×W image fits when s·W/H ≤ r ≤ W/(s·H); where the image is so
    elongated that no allowed ratio fits, the nearest is taken and the crop is cut to the image.
    """
    u_BD = order.uniforms(samples, seed=seed, epoch=epoch, draws=CROP_DRAWS)
    heights, widths = heights.astype(np.float64), widths.astype(np.float64)
    share_B = share[0] + (share[1] - share[0]) * u_BD[:, 0]
    low_B = np.clip(share_B * widths / heights, ratio[0], ratio[1])
    high_B = np.clip(widths / (heights * share_B), ratio[0], ratio[1])
    ratio_B = np.exp(np.log(low_B) + (np.log(high_B) - np.log(low_B)) * u_BD[:, 1])
    area_B = share_B * heights * widths
    width_B = np.clip(np.rint(np.sqrt(area_B * ratio_B)), 1, widths)
    height_B = np.clip(np.rint(np.sqrt(area_B / ratio_B)), 1, heights)
    left_B = np.floor(u_BD[:, 2] * (widths - width_B + 1))
    top_B = np.floor(u_BD[:, 3] * (heights - height_B + 1))
    left_B, top_B, width_B, height_B = (part.astype(np.int64) for part in (left_B, top_B, width_B, height_B))
    return Boxes(left_B, top_B, width_B, height_B, mirror=(u_BD[:, 4] < 0.5) & flip)


def centre_boxes(heights: np.ndarray, widths: np.ndarray, *, share: float) -> Boxes:
    """The centred square with `share` of the short side: what evaluation, prediction and serving see."""
    side_B = np.maximum(1, np.rint(np.minimum(heights, widths) * share)).astype(np.int64)
    left_B, top_B = (widths - side_B) // 2, (heights - side_B) // 2
    return Boxes(left_B, top_B, side_B, side_B, mirror=np.zeros(len(side_B), bool))


def cut(canvas: np.ndarray, boxes: Boxes, index: int, *, out: np.ndarray) -> None:
    """Writes box `index` of `canvas` uint8 [H, W, 3], resized and mirrored, to `out` uint8 [P, P, 3].

    Shrinking averages areas (no aliasing), enlarging interpolates linearly.
    """
    left, top = int(boxes.left[index]), int(boxes.top[index])
    crop = canvas[top : top + int(boxes.height[index]), left : left + int(boxes.width[index])]
    side = out.shape[0]
    shrinks = crop.shape[0] > side and crop.shape[1] > side
    cv2.resize(crop, (side, side), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if boxes.mirror[index]:
        cv2.flip(out, 1, dst=out)


def canvas_px(image_px: int, *, crop_share_min: float) -> int:
    """Short side to store so that the smallest crop still holds image_px pixels a side: ⌈P / √share⌉, at most 2 P."""
    return min(int(np.ceil(image_px / np.sqrt(crop_share_min) - 1e-9)), 2 * image_px)
