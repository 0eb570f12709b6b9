"""What all pages share: one file that needs no other and loads nothing. Every name in it may be hostile: autoescape is on,
and a policy in each page forbids scripts. Pictures and figures are data URIs."""

import base64
import os
from pathlib import Path
from typing import Any

from fanlight.console import bytes_text, count_text, seconds_text

THUMBNAIL_PX = 160
JPEG_QUALITY = 85


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder. A name that the template has and `values` lack is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: "–" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "seconds": seconds, "bytes": size, "whole": whole, "count": count}
    environment.filters["counted"] = count_text
    return environment.get_template(template).render(**values)


def write(path: Path, page: str) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}")  # a disk that is full must not cost the page that is there
    try:
        part.write_text(page, encoding="utf-8", errors="replace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def uri(content: str | bytes, kind: str = "") -> str:
    """A data URI; of a drawing, SVG text or PNG bytes, without saying its kind."""
    if isinstance(content, str):
        content, kind = content.encode(), kind or "image/svg+xml"
    return f"data:{kind or 'image/png'};base64,{base64.b64encode(content).decode()}"


def thumbnail(path: Path) -> tuple[str | None, str]:
    """A data URI, or None and why there is none."""
    from fanlight.data.canvas import to_canvas
    from fanlight.data.manifest import read_file
    from fanlight.errors import FanlightError

    try:
        pixels_HWC = to_canvas(read_file(path), canvas_px=THUMBNAIL_PX)
    except OSError:
        return None, "file not found"
    except (FanlightError, ValueError) as error:
        return None, f"cannot be decoded: {error}"
    return jpeg(pixels_HWC), ""


def jpeg(pixels_HWC: Any) -> str:
    """RGB pixels, uint8 [h, w, 3], as a data URI."""
    import cv2

    _, encoded = cv2.imencode(".jpg", pixels_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return uri(encoded.tobytes(), "image/jpeg")


def sentence(words: str) -> str:
    return words and f"{words[0].upper()}{words[1:]}."


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def seconds(value: float | None) -> str:
    return "–" if value is None else seconds_text(value)


def size(value: float | None) -> str:
    return "–" if value is None else bytes_text(value)


def count(value: int | list[Any] | None) -> int | None:
    """Of a number, or of a list of the things themselves."""
    return len(value) if isinstance(value, list) else value


def whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
