"""The only way from bytes to pixels: recognise, check, decode, orient, shrink.

Packing, direct reading, prediction and export call `to_canvas`, so the same bytes are the same pixels everywhere. Files
are recognised by their bytes, never by their names. Everything here is pure and may be called from many threads.
"""

import importlib
import io
import logging
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image, ImageFile

from fanlight.errors import DataError

PIXEL_LIMIT = 200_000_000  # width × height; a larger image is a mistake or an attack
LONG_CANVASES = 3  # the long side is at most this many canvases
VERSION = "1"  # of the pixels that `to_canvas` makes; part of every pack's key

Image.MAX_IMAGE_PIXELS = None  # Pillow would warn from half its own limit on; `header` refuses by PIXEL_LIMIT instead
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a grey-filled photo would train without a word
logging.getLogger("PIL").addHandler(logging.NullHandler())  # it would print of some damaged files, without their names
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd TIFF tags and the like, which do not change pixels
cv2.setNumThreads(1)  # parallel over images, never inside one

_MODULES = {  # format -> Pillow module and class, imported when the first such file comes
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6fF]\s",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "HEIC": rb"....ftyp(hei[cx]|hev[cx]|mif1|msf1)",
}
_RECOGNISE = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), magic) for name, magic in _MAGIC.items()), re.DOTALL)
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([1-8])')
_classes: dict[str, type[ImageFile.ImageFile]] = {}


class Unreadable(DataError):
    """These bytes are no image that can be used; `reason` is a short text without the file's name."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What an image says of itself, in pixels after its EXIF orientation is applied."""

    format: str
    width: int
    height: int


def decoder_version() -> str:
    """Names everything that decides the pixels, for keys of packs."""
    return f"canvas {VERSION}, pillow {PIL.__version__}, opencv {cv2.__version__}"


def header(data: bytes) -> Header:
    """Format and size without decoding pixels; `Unreadable` where `to_canvas` could not work either."""
    return _open(data)[2]


def canvas_size(width: int, height: int, canvas_px: int) -> tuple[int, int]:
    """(width, height) on the canvas: short side min(own, canvas_px), aspect kept, long side ≤ 3 · canvas_px.

    Never larger than the image, never less than 1. Integers only: offsets in a pack are computed from it."""
    short, long = sorted((width, height))
    longest = LONG_CANVASES * canvas_px
    if long > longest and (short <= canvas_px or long * canvas_px > longest * short):
        new_short, new_long = max(1, _rounded(short * longest, long)), longest
    elif short > canvas_px:
        new_short, new_long = canvas_px, _rounded(long * canvas_px, short)
    else:
        new_short, new_long = short, long
    return (new_short, new_long) if width <= height else (new_long, new_short)


def to_canvas(data: bytes, canvas_px: int | None) -> np.ndarray:
    """RGB pixels, uint8 [h, w, 3], of exactly `canvas_size` of the header's size; None keeps the full size.

    JPEG is decoded at the smallest scale not below the canvas, then averaged down by area. Transparency goes over
    white, 16-bit grey is divided by 257, 32-bit grey stretched from its minimum to its maximum; of an animation the
    first frame counts. Raises `Unreadable`."""
    image, orientation, head = _open(data)
    size = (head.width, head.height) if canvas_px is None else canvas_size(head.width, head.height, canvas_px)
    stored = size[::-1] if orientation >= 5 else size  # width and height as the file has them
    try:
        image.draft(None, stored)
        image.load()
        pixels_HWC = _rgb(image)
        if pixels_HWC.shape[1::-1] != stored:
            pixels_HWC = cv2.resize(pixels_HWC, stored, interpolation=cv2.INTER_AREA)
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        raise _unreadable(head.format, error) from None
    pixels_HWC = np.ascontiguousarray(_upright(pixels_HWC, orientation=orientation))
    return pixels_HWC if pixels_HWC.flags.writeable else pixels_HWC.copy()


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _open(data: bytes) -> tuple[ImageFile.ImageFile, int, Header]:
    """The image before decoding, its EXIF orientation (1 … 8) and its header."""
    if not data:
        raise Unreadable("empty file")
    found = _RECOGNISE.match(data)
    if not found:
        raise Unreadable(f"not an image: starts with {data[:12]!r}")
    format = str(found.lastgroup)
    if format not in _MODULES:
        raise Unreadable(f"{format} is not read; convert it to JPEG or PNG")
    if _is_cut_short(format, data):
        raise Unreadable(f"truncated {format}: its end is missing")
    try:
        image = _class_of(format)(io.BytesIO(data))
        width, height = image.size
        orientation = _orientation(image.info)
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        raise _unreadable(format, error) from None
    if width * height > PIXEL_LIMIT:
        raise Unreadable(f"{width}x{height} pixels, limit is {PIXEL_LIMIT // 1_000_000} million")
    return image, orientation, Header(format, *((height, width) if orientation >= 5 else (width, height)))


def _class_of(format: str) -> type[ImageFile.ImageFile]:
    """Pillow's class for a format, past `Image.open`, which tries plugins in turn and has its own bomb warnings."""
    if format not in _classes:
        module, name = _MODULES[format]
        kind = getattr(importlib.import_module(f"PIL.{module}"), name)
        if format == "JPEG":  # reading the density parses all of EXIF: slow, and warns about cameras' mistakes
            kind = type(name, (kind,), {"_read_dpi_from_exif": lambda self: None})
        _classes[format] = kind
    return _classes[format]


def _is_cut_short(format: str, data: bytes) -> bool:
    """Whether the mark of the end is missing, as after a broken download, even if zeros fill the rest."""
    if format == "JPEG":
        return b"\xff\xd9" not in data[-4096:] and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if format == "PNG":
        return data.rfind(b"IEND") < 0
    return format == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _unreadable(format: str, error: Exception) -> Unreadable:
    text = str(error) or type(error).__name__
    is_truncated = "truncat" in text.lower() or isinstance(error, (EOFError, struct.error))
    return Unreadable(f"truncated {format}: {text}" if is_truncated else f"damaged {format}: {text}")


def _orientation(info: dict[Any, Any]) -> int:
    """EXIF orientation, or XMP's where EXIF has none. TIFF applies its own while loading and has neither key."""
    exif = info.get("exif")
    if isinstance(exif, bytes) and (value := _exif_orientation(exif.removeprefix(b"Exif\0\0"))):
        return value
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
    found = _XMP_ORIENTATION.search(xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp)
    return int(found[1]) if found else 1


def _exif_orientation(tiff: bytes) -> int | None:
    """Tag 0x0112 of the first directory. Read here because Pillow's parser warns about tags that nobody asked for."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def _rgb(image: ImageFile.ImageFile) -> np.ndarray:
    """uint8 [h, w, 3] of a loaded image of any mode."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _three((np.asarray(image).astype(np.uint32) + 128) // 257)
    if image.mode in ("I", "F"):
        return _three(_stretched(np.asarray(image).astype(np.float64)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _three(grey_HW: np.ndarray) -> np.ndarray:
    return np.repeat(grey_HW.astype(np.uint8)[:, :, None], 3, axis=2)


def _stretched(grey_HW: np.ndarray) -> np.ndarray:
    """Minimum -> 0, maximum -> 255; a constant image and values that are not finite -> 0."""
    finite_HW = np.isfinite(grey_HW)
    if not finite_HW.any():
        return np.zeros_like(grey_HW)
    low, high = grey_HW[finite_HW].min(), grey_HW[finite_HW].max()
    return np.rint(np.where(finite_HW, grey_HW - low, 0) * (255 / (high - low) if high > low else 0))


def _upright(pixels_HWC: np.ndarray, *, orientation: int) -> np.ndarray:
    """The view that EXIF orientation 1 … 8 asks for."""
    if orientation >= 5:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels_HWC[::rows, ::columns]
