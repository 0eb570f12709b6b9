import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from fanlight.data.canvas import PIXEL_LIMIT, Unreadable, canvas_size, decoder_version, header, to_canvas

SCALED_JPEG_MEAN_ERROR = 6.0  # of 255: libjpeg's scaled decode against full decode and area average, smooth image


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth, with no symmetry, so that a wrong turn is seen."""
    small = np.random.default_rng(7).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_saying(width: int, height: int) -> bytes:
    """A PNG's first chunk for any size, then the end."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 1_000))
def test_canvas_size_keeps_its_promises(width: int, height: int, canvas_px: int) -> None:
    w, h = canvas_size(width, height, canvas_px)
    assert 1 <= w <= width
    assert 1 <= h <= height
    assert min(w, h) <= canvas_px
    assert max(w, h) <= 3 * canvas_px
    if max(width, height) <= 3 * min(width, height):
        assert min(w, h) == min(width, height, canvas_px)
    assert canvas_size(height, width, canvas_px) == (h, w)
    if w > 1 and h > 1:  # the aspect is kept to within half a pixel of one side
        assert abs(w * height - h * width) <= max(width, height) / 2
    assert canvas_size(w, h, canvas_px) == (w, h)


@pytest.mark.parametrize(
    ("own", "canvas_px", "size"),
    [
        ((640, 480), 181, (241, 181)),
        ((480, 640), 181, (181, 241)),
        ((100, 80), 181, (100, 80)),
        ((4000, 100), 100, (300, 8)),
        ((1000, 100), 200, (600, 60)),
        ((100_000, 1), 50, (150, 1)),
    ],
)
def test_canvas_size_examples(own: tuple[int, int], canvas_px: int, size: tuple[int, int]) -> None:
    assert canvas_size(*own, canvas_px) == size


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_their_pixels(format: str) -> None:
    data = encoded(picture(), format)
    assert np.array_equal(to_canvas(data, None), picture())
    assert (header(data).width, header(data).height, header(data).format) == (64, 48, format)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "JPEG2000", "GIF"])
def test_lossy_formats_come_near(format: str) -> None:
    data = encoded(picture(), format, **({} if format == "GIF" else {"quality": 95} if format != "JPEG2000" else {}))
    assert header(data).format == format
    assert np.abs(to_canvas(data, None).astype(int) - picture()).mean() < 10


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = to_canvas(data, None)
    assert np.array_equal(pixels, expected)
    assert (header(data).width, header(data).height) == (pixels.shape[1], pixels.shape[0])
    assert pixels.flags.c_contiguous and pixels.flags.writeable
    assert to_canvas(data, 24).shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))


def test_orientation_in_xmp_counts_where_exif_has_none() -> None:
    data = encoded(picture(), "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert (header(data).width, header(data).height) == (48, 64)


def test_damaged_exif_neither_warns_nor_matters() -> None:
    entries = struct.pack("<H", 40) + struct.pack("<HHII", 0x011A, 5, 9_999, 0x7FFFFFF0) * 3
    for exif in (
        b"Exif\0\0II*\0\x08\0\0\0" + entries,
        b"Exif\0\0MM",
        b"Exif\0\0rubbish",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
    ):
        assert to_canvas(encoded(picture(), "JPEG", exif=exif), 24).shape == (24, 32, 3)


@pytest.mark.parametrize("size", [(480, 640), (481, 643), (700, 200), (37, 1999), (1, 900)])
@pytest.mark.parametrize("canvas_px", [1, 17, 90, 181, 5_000])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_shape_is_the_one_computed_before_decoding(size: tuple[int, int], canvas_px: int, format: str) -> None:
    data = encoded(picture(*size), format)
    head = header(data)
    assert to_canvas(data, canvas_px).shape == (*canvas_size(head.width, head.height, canvas_px)[::-1], 3)


def test_scaled_jpeg_is_the_area_average() -> None:
    data = encoded(picture(480, 640), "JPEG", quality=95)
    expected = cv2.resize(to_canvas(data, None), (241, 181), interpolation=cv2.INTER_AREA)
    assert np.abs(to_canvas(data, 181).astype(int) - expected).mean() < SCALED_JPEG_MEAN_ERROR


def test_transparency_goes_over_white() -> None:
    grey = np.full((8, 8), 100, np.uint8)
    for alpha, value in ((255, 100), (0, 255), (51, 224)):
        layer = np.full((8, 8), alpha, np.uint8)
        for image in (Image.merge("LA", [Image.fromarray(grey), Image.fromarray(layer)]),):
            for data in (encoded(image, "PNG"), encoded(image.convert("RGBA"), "PNG")):
                assert np.unique(to_canvas(data, None)).tolist() == [value]


def test_palette_transparency_goes_over_white() -> None:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([255, 0, 0, 0, 128, 0])
    image.putpixel((0, 0), 0)
    for transparency in (0, b"\0\xff"):
        pixels = to_canvas(encoded(image, "PNG", transparency=transparency), None)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[5, 5].tolist() == [0, 128, 0]
    assert to_canvas(encoded(image, "PNG"), None)[0, 0].tolist() == [255, 0, 0]


def test_grey_and_bits() -> None:
    grey = picture()[:, :, 0]
    assert np.array_equal(to_canvas(encoded(grey, "PNG"), None), np.repeat(grey[:, :, None], 3, 2))
    bits = Image.fromarray(grey).convert("1")
    assert np.unique(to_canvas(encoded(bits, "PNG"), None)).tolist() == [0, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_divided_by_257(format: str) -> None:
    deep = (np.arange(256, dtype=np.uint32).reshape(16, 16) * 257).astype(np.uint16)
    assert np.array_equal(to_canvas(encoded(deep, format), None)[:, :, 1].ravel(), np.arange(256))


def test_32_bit_grey_is_stretched() -> None:
    values = np.array([[-3.0, 0.0], [1.0, np.nan]], np.float32)
    assert to_canvas(encoded(values, "TIFF"), None)[:, :, 0].tolist() == [[0, 191], [255, 0]]
    assert to_canvas(encoded(np.array([[10, 20, 30]], np.int32), "TIFF"), None)[0, :, 2].tolist() == [0, 128, 255]
    assert not to_canvas(encoded(np.full((3, 3), 7.0, np.float32), "TIFF"), None).any()
    assert not to_canvas(encoded(np.full((3, 3), np.nan, np.float32), "TIFF"), None).any()


def test_cmyk_and_lab() -> None:
    cmyk = Image.fromarray(picture()).convert("CMYK")
    for data in (encoded(cmyk, "JPEG", quality=95), encoded(cmyk, "TIFF")):
        assert np.abs(to_canvas(data, None).astype(int) - np.asarray(cmyk.convert("RGB"))).mean() < 4
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(picture()), to_lab)
    assert lab is not None
    assert np.abs(to_canvas(encoded(lab, "TIFF"), None).astype(int) - picture()).mean() < 10


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert np.unique(to_canvas(data, None).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(format: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encoded(noise, format)
    with pytest.raises(Unreadable, match=r"truncated|damaged"):
        to_canvas(data[: int(len(data) * share)], None)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_header_alone_finds_a_missing_end(format: str) -> None:
    data = encoded(picture(200, 300), format)
    cut = data[: len(data) * 2 // 3]
    for broken in (cut, cut + bytes(len(data) - len(cut))):
        if format == "WEBP" and len(broken) == len(data):
            continue
        with pytest.raises(Unreadable, match=f"truncated {format}"):
            header(broken)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_damage_of_any_kind_is_unreadable_or_an_image(format: str) -> None:
    rng = np.random.default_rng(3)
    good = encoded(picture(20, 30), format)
    for cut in range(0, len(good), max(1, len(good) // 40)):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 8):
            damaged[place] = rng.integers(256)
        for data in (good[:cut], bytes(damaged)):
            with warnings.catch_warnings():  # rare tags of damaged TIFF files warn; the product ignores these
                warnings.simplefilter("ignore")
                try:
                    assert to_canvas(data, 16).shape[2] == 3
                except Unreadable:
                    continue


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<svg xmlns=", "not an image: starts with b'<svg"),
        (b"BMW is a maker of cars", "BMP"),
        (b"P6 is a problem", "PPM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not read; convert it"),
        (png_saying(90_000, 90_000), "90000x90000 pixels, limit is 200 million"),
        (png_saying(0, 5), "PNG"),
        (png_saying(5, 5), "truncated|damaged"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as caught:
        to_canvas(data, 64)
    assert str(caught.value) == caught.value.reason
    assert PIXEL_LIMIT == 200_000_000


def test_names_do_not_matter_and_threads_agree() -> None:
    data = [encoded(picture(100 + step, 140), "JPEG") for step in range(16)]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda one: to_canvas(one, 32), data * 4))
    for place, pixels in enumerate(parallel):
        assert np.array_equal(pixels, to_canvas(data[place % 16], 32))


def test_decoder_version_names_the_decoders() -> None:
    assert cv2.__version__ in decoder_version()
    assert "pillow" in decoder_version()
