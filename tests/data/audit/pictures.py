"""Pictures for the audit's tests, and folders of them."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from fanlight.data.formats import recognise
from fanlight.data.manifest import Manifest
from fanlight.data.scan import scan

WIDTH, HEIGHT = 144, 112


def picture(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """BGR, photo-like: noise with amplitudes ~ 1/f, and shapes with edges."""
    random = np.random.default_rng(number)
    image = np.zeros((height, width, 3), np.float32)
    for level in range(2, 7):
        noise = random.normal(0, 1, (2**level, 2**level, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / 2 ** (level - 2)
    image = np.clip(image + random.uniform(90, 160, 3), 0, 255).astype(np.uint8)
    for _ in range(8):
        middle = (int(random.integers(0, width)), int(random.integers(0, height)))
        axes = (int(random.integers(4, 30)), int(random.integers(4, 30)))
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        cv2.ellipse(image, middle, axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return image


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def turned(image: np.ndarray, degrees: float, *, zoom: float = 1.4) -> np.ndarray:
    """About its centre, nearer, so that no rim is seen."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def folder_of(root: Path, files: Mapping[str, bytes]) -> Manifest:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return scan(recognise(str(root), cache=root / "none"), workers=2)


def strangers(count: int, *, start: int = 1000) -> dict[str, bytes]:
    return {
        f"{'ab'[number % 2]}/s{number * 37 % 101}n{number}.jpg": jpeg(picture(start + number))
        for number in range(count)
    }


def film(start: int, count: int) -> list[np.ndarray]:
    """A window that moves over one large picture."""
    wide = picture(start, width=400, height=160)
    return [wide[10 + step : 110 + step, 6 * step : 6 * step + 140] for step in range(count)]
