"""Operations on the colours of one image, uint8 [P, P, 3] RGB, with OpenCV: tables of 256 entries where one suffices.

Each takes (image, amount) and returns another image, or the same where the amount changes nothing. Semantics are
Pillow's ImageEnhance and ImageOps, which the policies were published with; values are rounded, not cut off.
"""

import cv2
import numpy as np

_LEVELS = np.arange(256, dtype=np.float64)


def identity(image: np.ndarray, amount: float) -> np.ndarray:
    """The image as it is."""
    return image


def brightness(image: np.ndarray, amount: float) -> np.ndarray:
    """Pixels times 1 + amount."""
    return cv2.LUT(image, _table(_LEVELS * (1 + amount)))


def contrast(image: np.ndarray, amount: float) -> np.ndarray:
    """The distance from the image's mean grey, times 1 + amount."""
    mean = np.floor(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.LUT(image, _table(mean + (_LEVELS - mean) * (1 + amount)))


def saturation(image: np.ndarray, amount: float) -> np.ndarray:
    """The distance from each pixel's grey, times 1 + amount."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, 1 + amount, grey, -amount, 0)


def hue(image: np.ndarray, amount: float) -> np.ndarray:
    """Hues turned by `amount` whole turns, in steps of 1/256."""
    steps = round(amount * 256) % 256
    if not steps:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(steps)  # wraps around, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def sharpness(image: np.ndarray, amount: float) -> np.ndarray:
    """The distance from the image blurred by Pillow's SMOOTH, times 1 + amount; the outermost pixels stay."""
    kernel = np.full((3, 3), -amount / 13)
    kernel[1, 1] = 1 + amount - 5 * amount / 13
    out = cv2.filter2D(image, -1, kernel)
    out[0], out[-1], out[:, 0], out[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return out


def posterize(image: np.ndarray, amount: float) -> np.ndarray:
    """The lowest round(amount) bits of each value are 0."""
    return image & np.uint8(0xFF << round(amount) & 0xFF)


def solarize(image: np.ndarray, amount: float) -> np.ndarray:
    """Values of 256 − amount and above become 255 minus themselves."""
    return cv2.LUT(image, _table(np.where(256 - amount > _LEVELS, _LEVELS, 255 - _LEVELS)))


def autocontrast(image: np.ndarray, amount: float) -> np.ndarray:
    """Each channel stretched from its lowest to its highest value; the amount means nothing."""
    tables = []
    for channel in cv2.split(image):
        low, high, _, _ = cv2.minMaxLoc(channel)
        tables.append(_table(_LEVELS if low == high else (_LEVELS - low) * (255 / (high - low))))
    return cv2.LUT(image, np.stack(tables, axis=-1)[None])


def equalize(image: np.ndarray, amount: float) -> np.ndarray:
    """Each channel's histogram flattened, by Pillow's whole numbers; the amount means nothing."""
    tables = []
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        step = int(counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        tables.append(_table(_LEVELS if step == 0 else (step // 2 + below) // step))
    return cv2.LUT(image, np.stack(tables, axis=-1)[None])


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
