"""Files that hold many samples of one size: CIFAR's binary and Python versions, MNIST's IDX. Each sample is a member.

`data_batch_1.bin/00042` has the bytes of a small PPM (RGB) or PGM (grey): the one way from bytes to pixels is theirs too, and
their hash is the sample's identity. N samples of C colours, H rows, W columns.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fanlight.data import plain_pickle
from fanlight.data.inside import Part
from fanlight.data.plain_pickle import Array
from fanlight.errors import DataError

CIFAR_PIXELS = 3072  # 3 colours of 32 × 32
CIFAR_LABELS = {3073: 1, 3074: 2}  # bytes of a record -> of its labels: CIFAR-10; CIFAR-100, coarse before fine
PICKLE_BYTES_MOST = 1 << 30
NUMBER_MOST = 1 << 64  # of a name or a label: one of 6,000 digits cannot even be printed


@dataclass(frozen=True)
class Samples:
    """Records of one size, one after another. `source` is a range of a file, or bytes where a file has none of that order."""

    source: Part | bytes
    first: int  # byte where the first sample's pixels begin
    stride: int  # bytes from one sample to the next
    count: int
    shape_CHW: tuple[int, int, int]
    is_planar: bool  # all of a colour before the next, as CIFAR has them

    @property
    def _pixels(self) -> int:
        return math.prod(self.shape_CHW)

    @property
    def _head(self) -> bytes:
        channels, height, width = self.shape_CHW
        return b"P%d\n%d %d\n255\n" % (6 if channels == 3 else 5, width, height)

    def names(self) -> Iterable[str]:
        return [self.name(number) for number in range(self.count)]

    def name(self, number: int) -> str:
        return f"{number:0{self._digits}d}"

    def size(self, name: str) -> int:
        self._number(name)
        return len(self._head) + self._pixels

    def read(self, name: str) -> bytes:
        at = self.first + self._number(name) * self.stride
        source, size = self.source, self._pixels
        raw = source.read(at, size) if isinstance(source, Part) else source[at : at + size]
        if len(raw) != size:
            raise OSError(errno.EIO, "cut off with its file", name)
        if self.is_planar:
            raw = np.frombuffer(raw, np.uint8).reshape(self.shape_CHW).transpose(1, 2, 0).tobytes()
        return self._head + raw

    def part(self, name: str) -> Part | None:
        self._number(name)
        return None

    @property
    def _digits(self) -> int:
        return max(5, len(str(self.count - 1)))

    def _number(self, name: str) -> int:
        number = int(name) if name.isascii() and name.isdigit() and len(name) == self._digits else self.count
        if number >= self.count:
            raise KeyError(name)
        return number


def opened(part: Part, head: bytes, *, told: str) -> Samples | None:
    """The samples of a file, None where it is no such file. DataError for a pickle that is not plain or damaged."""
    if (shape := idx_shape(head)) is not None:
        return _idx_samples(part, shape, told=told)
    if plain_pickle.is_pickle(head):
        return pickled(part, told=told)[0]
    name = told.rpartition("/")[2].lower()
    if name.endswith(".bin") and (stride := cifar_stride(part.size, name)):
        first = CIFAR_LABELS[stride]
        return Samples(part, first, stride, part.size // stride, (3, 32, 32), is_planar=True)
    return None


def cifar_stride(size: int, name: str) -> int | None:
    """Bytes per record of a CIFAR binary file of that size, None where it is none."""
    likely = sorted(CIFAR_LABELS, key=lambda stride: (stride == 3074) == ("batch" in name))  # where both fit
    return next((stride for stride in likely if size and size % stride == 0), None)


def idx_shape(head: bytes) -> tuple[int, ...] | None:
    """Sizes of an IDX file of bytes, as its first bytes tell; None where it is none."""
    if len(head) < 8 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4 or len(head) < 4 + 4 * head[3]:
        return None
    return tuple(int.from_bytes(head[at : at + 4], "big") for at in range(4, 4 + 4 * head[3], 4))


def idx_labels(data: bytes, *, told: str) -> list[int]:
    """The numbers of an IDX file of labels."""
    shape = idx_shape(data)
    if shape is None or len(shape) != 1 or len(data) != 8 + shape[0]:
        raise DataError(f"{told} is not a whole IDX file of labels; download it again")
    return list(data[8:])


def _idx_samples(part: Part, shape: tuple[int, ...], *, told: str) -> Samples | None:
    if len(shape) == 1:
        return None
    count, *sides = shape
    if len(sides) == 2:
        sides.append(1)
    if len(sides) != 3 or sides[2] not in (1, 3) or not all(0 < side < 1 << 16 for side in sides[:2]):
        raise DataError(f"{told} is an IDX file of {'×'.join(map(str, shape))}, and no images of 1 or 3 colours")
    height, width, channels = sides
    size, first = height * width * channels, 4 + 4 * len(shape)
    if part.size != first + count * size:
        raise DataError(
            f"{told} has {part.size} bytes where its {count} images of {width}x{height} take {first + count * size}; "
            "download it again"
        )
    return Samples(part, first, size, count, (channels, height, width), is_planar=False)


def held(part: Part, *, told: str) -> dict[str, Any]:
    """What a pickle of CIFAR's holds, a dict with its keys as text. DataError for any other, and for one too large."""
    if part.size > PICKLE_BYTES_MOST:
        raise DataError(f"{told} is a pickle of more than {PICKLE_BYTES_MOST >> 30} GB, which is not read")
    found = plain_pickle.load(part.read(), told=told)
    if not isinstance(found, dict):
        raise DataError(f"{told} is a pickle of a {type(found).__name__}, not of a dict as CIFAR has it")
    return {text(key, told=told): value for key, value in found.items()}


def text(value: Any, *, told: str) -> str:
    """A name in a pickle: text, bytes or a number. DataError for what is none, as a list in lists without end would be."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < NUMBER_MOST):
        return str(value)
    raise DataError(
        f"{told} has a {type(value).__name__} where a name belongs, as no CIFAR file has; download it again"
    )


def pickled(part: Part, *, told: str) -> tuple[Samples | None, dict[str, Any]]:
    """The samples of a pickled CIFAR batch (None where it has no `data`) and everything that it holds, keys as text."""
    found = held(part, told=told)
    data = found.get("data")
    if not isinstance(data, Array):
        return None, found
    side = math.isqrt(data.shape[1] // 3) if len(data.shape) == 2 else 0
    if data.dtype != "<u1" or not side or 3 * side * side != data.shape[1]:
        raise DataError(f"{told}: its data is {data.shape} of {data.dtype}, not N × 3072 bytes as CIFAR has it")
    place, first = (data.data, 0) if data.start is None else (part, data.start)
    samples = Samples(place, first, data.shape[1], data.shape[0], (3, side, side), is_planar=True)
    return samples, {**found, "data": None}


def numbers(value: Any) -> list[int] | None:
    """A pickled list or array of whole numbers."""
    if isinstance(value, Array) and value.dtype[1] in "iu" and len(value.shape) == 1:
        return [int(number) for number in np.frombuffer(value.data, value.dtype)]
    if isinstance(value, list) and all(isinstance(number, int) and abs(number) < NUMBER_MOST for number in value):
        return value
    return None
