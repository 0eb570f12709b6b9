"""From a stored canvas to the model's square: crop, resize, mirror. Pure functions of the sample's random numbers.

B images; H, W canvas height and width; P side of the square in pixels.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fanlight.data import order
from fanlight.errors import ConfigError

# Which draws each kind of change takes. A new kind takes numbers that are free, so that nothing else changes with it.
CROP_DRAWS = 4  # from 0: share, ratio, left, top
MIRROR_DRAW = 4
JITTER_DRAW, JITTER_DRAWS = 5, 8  # four amounts, four keys whose order is the order of the four operations
ERASE_DRAW, ERASE_DRAWS = 13, 5  # share, ratio, left, top, whether
MIX_DRAW, MIX_DRAWS = 18, 6  # whether, which, two of the Beta, across, down; of a pair's first sample
POLICY_DRAW, POLICY_DRAWS = 24, 3  # for each operation: which, magnitude, sign; any number of operations, so the last
GROWING_SHARE = 0.7  # of the epochs, where sides grow; the rest settles norms and last layer at the side that is scored
VIEWS_MOST = 10  # of one image: five squares and their mirror images
CORNER_SHARE = 0.875  # of the short side, at most: 224 of 256 px in Krizhevsky et al. 2012
CORNERS = ((0, 0), (1, 1), (1, 0), (0, 1))  # (right, bottom), in pairs that cover the image evenly


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

    Whether an image is mirrored is drawn for its first epoch, and alternates from there (Jordan 2024): two epochs show
    both of its sides, where independent draws would show half of the images one side twice.
    """
    u_BD = order.uniforms(samples, seed=seed, epoch=epoch, draws=CROP_DRAWS)
    first_B1 = order.uniforms(samples, seed=seed, epoch=0, draws=1, first_draw=MIRROR_DRAW)
    boxes = boxes_within(u_BD, heights, widths, share=share, ratio=ratio)
    return replace(boxes, mirror=((first_B1[:, 0] < 0.5) ^ bool(epoch % 2)) & flip)


def boxes_within(
    u_BD: np.ndarray, heights: np.ndarray, widths: np.ndarray, *, share: tuple[float, float], ratio: tuple[float, float]
) -> Boxes:
    """Boxes of a share of the area, from four uniforms each: share, ratio, left, top. Not mirrored."""
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
    return Boxes(left_B, top_B, width_B, height_B, mirror=np.zeros(len(left_B), bool))


def centre_boxes(heights: np.ndarray, widths: np.ndarray, *, share: float) -> Boxes:
    """The centred square with `share` of the short side: what evaluation, prediction and serving see."""
    side_B = np.maximum(1, np.rint(np.minimum(heights, widths) * share)).astype(np.int64)
    left_B, top_B = (widths - side_B) // 2, (heights - side_B) // 2
    return Boxes(left_B, top_B, side_B, side_B, mirror=np.zeros(len(side_B), bool))


def view_boxes(heights: np.ndarray, widths: np.ndarray, *, share: float, views: int, flip: bool) -> list[Boxes]:
    """`views` ways to look at each image, the first ones of: the centre, then the four corners of the centred square
    (Krizhevsky et al. 2012), with `flip` each followed by its mirror image. A pure function of the sizes.

    ConfigError as check_views.
    """
    check_views(views, flip=flip)
    centre = centre_boxes(heights, widths, share=share)
    whole = centre_boxes(heights, widths, share=1.0)
    side_B = np.minimum(centre.width, centre_boxes(heights, widths, share=CORNER_SHARE).width)
    corners = (
        replace(
            whole, left=whole.left + right * (whole.width - side_B), top=whole.top + bottom * (whole.height - side_B),
            width=side_B, height=side_B,
        )
        for right, bottom in CORNERS
    )  # fmt: skip
    squares = [centre, *corners]
    if flip:
        squares = [view for box in squares for view in (box, replace(box, mirror=~box.mirror))]
    return squares[:views]


def check_views(views: int, *, flip: bool) -> None:
    """ConfigError for a number of views that there are not: with `flip` 1 … 10, without 1 … 5."""
    most = VIEWS_MOST if flip else VIEWS_MOST // 2
    if not 1 <= views <= most:
        why = "" if flip else ", since this run mirrors no image"
        raise ConfigError(f"--tta {views}: an image has 1 to {most} views{why}; use --tta {min(max(views, 1), most)}")


def view_names(views: int, *, flip: bool) -> str:
    """What `view_boxes` shows, in words: `centre, centre mirrored`."""
    squares = ["centre", "top left", "bottom right", "top right", "bottom left"]
    names = [view for name in squares for view in ((name, f"{name} mirrored") if flip else (name,))]
    return ", ".join(names[:views])


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


def grown_epoch(epochs: int) -> int:
    """The first epoch of `epochs` at the full side, where sides grow."""
    return min(epochs - 1, math.ceil(GROWING_SHARE * epochs))


def side_px(epoch: int, *, epochs: int, start_px: int, full_px: int) -> int:
    """Side of the training images in `epoch` (from 0): from `start_px`, linearly over the first epochs, to `full_px`, in
    multiples of 32 (of 16 up to 64 px). It never shrinks, and the last epoch is of `full_px`."""
    grown = grown_epoch(epochs)
    if epoch >= grown:
        return full_px
    unit = 32 if full_px > 64 else 16
    return max(start_px, (start_px + (full_px - start_px) * epoch // grown) // unit * unit)


def canvas_px(image_px: int, *, crop_share_min: float) -> int:
    """Short side to store so that the smallest crop still holds image_px pixels a side: ⌈P / √share⌉, at most 2 P."""
    return min(int(np.ceil(image_px / np.sqrt(crop_share_min) - 1e-9)), 2 * image_px)
