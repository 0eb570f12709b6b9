"""Zip and tar as indices of byte ranges: names, sizes and offsets, read once; members are then read at their places.

An archive that was made to do harm is refused whole (DataError): names that point out of it, members that overlap, sizes that
no honest file has. A member that is damaged is an OSError when it is read, and does not harm the others.
"""

from __future__ import annotations

import bz2
import errno
import io
import lzma
import re
import stat
import zlib
from collections.abc import Iterable

from fanlight.console import bytes_text, warn
from fanlight.data import inside
from fanlight.data.inside import Part, Reader
from fanlight.errors import DataError

GROWTH_MOST = 100  # bytes out of one compressed byte, beyond GROWTH_FREE: photos give 1, MNIST 5, bombs 1,000
GROWTH_FREE = 256 << 20
DEEP_MOST = 64  # folders in folders
BLOCK = 512  # of a tar
ZIP_LOCAL = 30  # bytes of a local header before the name
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
_OCTAL, _DECIMAL = re.compile(rb"[0-7]*"), re.compile(r"[0-9]{1,19}")
_FILES, _FOLDERS = (b"0", b"\0", b"7"), (b"5", b"D", b"V")  # kinds of a tar's header; V is the name of the whole


def is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_tar(head: bytes) -> bool:
    """By the header's checksum, so that tars older than the mark `ustar` count too."""
    return len(head) >= BLOCK and _checksum_is_right(head[:BLOCK])


def clean(name: str, *, told: str) -> str:
    """A member's name, relative and with single forward slashes. DataError for one that, extracted, would land elsewhere."""
    if inside.points_out(name):
        raise DataError(
            f"{told} holds {name!r}, which points out of it, so it was made to do harm; unpack what you trust of it, and "
            "give the folder"
        )
    if name.count("/") > DEEP_MOST:
        raise DataError(
            f"{told} has folders more than {DEEP_MOST} deep; unpack what you trust of it, and give the folder"
        )
    return "/".join(piece for piece in name.replace("\\", "/").split("/") if piece not in ("", "."))


def check_growth(told: str, *, before: int, after: int) -> None:
    """DataError for what grows as only a bomb does."""
    if after > GROWTH_FREE + GROWTH_MOST * before:
        raise DataError(
            f"{told} would grow from {bytes_text(before)} to over {bytes_text(after)}, as a decompression bomb does; unpack it "
            "yourself if you trust it, and give the folder"
        )


class Zip:
    """Stored, deflated, bzip2 and LZMA members, with zip64; each is checked against its sum when it is read."""

    def __init__(self, part: Part, *, told: str):
        import zipfile

        self._part = part
        try:
            with io.BufferedReader(Reader(part)) as file, zipfile.ZipFile(file) as archive:  # type: ignore[type-var]
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except Exception as error:  # zipfile raises almost anything on damaged files
            raise DataError(f"{told} is a damaged zip ({error}); download or make it again") from None
        self._members: dict[str, tuple[int, int, int, int, int]] = {}  # method, offset, compressed, size, checksum
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.flag_bits & 1:
                raise DataError(f"{told} is encrypted; unpack it with its password, and give the folder")
            if info.header_offset < end or info.header_offset < 0:
                raise DataError(
                    f"{told} has members that overlap, as a decompression bomb has; download or make it again"
                )
            end = info.header_offset + ZIP_LOCAL + info.compress_size
        check_growth(told, before=part.size, after=sum(info.file_size for info in infos))
        doubled: list[str] = []
        odd: list[str] = []
        for info in infos:
            name = clean(_zip_name(info), told=told)
            if not name:  # `.`, which is the folder itself
                continue
            if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):
                odd.append(name)
                continue
            if name in self._members:
                doubled.append(name)
            self._members[name] = (
                info.compress_type, info.header_offset, info.compress_size, info.file_size, info.CRC,
            )  # fmt: skip
        _warn_of_doubled(doubled, told=told)
        _warn_of_odd(odd, told=told)

    def names(self) -> Iterable[str]:
        return self._members

    def size(self, name: str) -> int:
        return self._members[name][3]

    def part(self, name: str) -> Part | None:
        method, offset, compressed, _, _ = self._members[name]
        return self._part.within(self._data(offset, name), compressed) if method == STORED else None

    def read(self, name: str) -> bytes:
        method, offset, compressed, size, checksum = self._members[name]
        raw = self._part.read(self._data(offset, name), compressed)
        try:
            data = _expand(raw, method, size=size)
        except NotImplementedError as error:
            raise OSError(errno.EINVAL, str(error), name) from None
        except Exception as error:  # zlib's, bz2's and lzma's own errors
            raise OSError(errno.EIO, f"damaged in its zip ({error})", name) from None
        if len(data) != size or zlib.crc32(data) != checksum:
            raise OSError(errno.EIO, "damaged in its zip (wrong checksum)", name)
        return data

    def _data(self, offset: int, name: str) -> int:
        """Where a member's bytes begin: the local header's own lengths count, which may differ from the directory's."""
        head = self._part.read(offset, ZIP_LOCAL)
        if len(head) < ZIP_LOCAL or not head.startswith(b"PK\x03\x04"):
            raise OSError(errno.EIO, "damaged in its zip (no header)", name)
        return offset + ZIP_LOCAL + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _zip_name(info: object) -> str:
    """As UTF-8 where the bytes are that, said or not: some programs write it and do not set the flag."""
    name, flags = str(info.filename), info.flag_bits  # type: ignore[attr-defined]
    if flags & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _expand(raw: bytes, method: int, *, size: int) -> bytes:
    """At most one byte more than `size`, which is what shows that there is too much."""
    if method == STORED:
        return raw
    if method == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, size + 1)
    if method == BZIP2:
        return bz2.BZ2Decompressor().decompress(raw, size + 1)
    if method == LZMA:
        start = 4 + int.from_bytes(raw[2:4], "little")
        first, dictionary = raw[4], int.from_bytes(raw[5:9], "little")
        filters = {
            "id": lzma.FILTER_LZMA1, "lc": first % 9, "lp": first // 9 % 5, "pb": first // 45,
            "dict_size": max(4096, min(dictionary, size)),  # the file's own may claim 4 GB
        }  # fmt: skip
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters]).decompress(raw[start:], size + 1)
    raise NotImplementedError(f"compressed by method {method} of zip, which is not read; unpack the zip")


class Tar:
    """A plain tar: old, ustar, GNU or pax. Links, devices and sparse files are left out, and named in a warning."""

    def __init__(self, part: Part, *, told: str):
        self._part = part
        self._places: dict[str, tuple[int, int]] = {}
        at, name, extra = 0, "", dict[str, str]()
        doubled: list[str] = []
        odd: list[str] = []
        while at + BLOCK <= part.size:  # `at` grows by a block at least, as no size is negative
            block = part.read(at, BLOCK)
            if not any(block):
                break
            if not _checksum_is_right(block):
                raise DataError(f"{told} is a damaged tar (no header at byte {at}); download or make it again")
            kind, size = block[156:157], _size(block[124:136])
            if size is None:
                raise DataError(f"{told} is a damaged tar (no size at byte {at + 124}); download or make it again")
            if kind in b"xLKg":  # about the next file, or (g) about all
                text = part.read(at + BLOCK, min(size, 1 << 20))
                name, extra = (_text(text) if kind == b"L" else name), (_pax(text) if kind == b"x" else extra)
            else:
                size = int(extra["size"]) if _DECIMAL.fullmatch(extra.get("size", "")) else size
                is_sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in extra)
                found = clean(extra.get("path") or name or _name(block), told=told)
                is_folder = kind in _FOLDERS or _name(block).endswith("/") or not found
                if not is_folder and (kind not in _FILES or is_sparse):
                    odd.append(found)
                elif not is_folder:
                    if found in self._places:
                        doubled.append(found)
                    self._places[found] = (at + BLOCK, size)
                name, extra = "", {}
                more = block[482] if kind == b"S" else 0
                while more:  # blocks of its map follow
                    at += BLOCK
                    more = part.read(at, BLOCK).ljust(BLOCK, b"\0")[504]
            at += BLOCK + -(-size // BLOCK) * BLOCK
        else:  # no block of zeros, which ends a tar
            last = next(reversed(self._places), "")
            what, why = "is", "Its last file is not whole"
            if at <= part.size:
                what, why = "may be", f"It has no end mark after {last!r}"
            warn(f"{told} {what} cut off", why=why, do="Download or make it again")
        _warn_of_doubled(doubled, told=told)
        _warn_of_odd(odd, told=told)

    def names(self) -> Iterable[str]:
        return self._places

    def size(self, name: str) -> int:
        return self._places[name][1]

    def part(self, name: str) -> Part | None:
        return self._part.within(*self._places[name])

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        data = self._part.read(offset, size)
        if len(data) != size:
            raise OSError(errno.EIO, "cut off with its tar", name)
        return data


def _warn_of_doubled(names: list[str], *, told: str) -> None:
    if names:
        warn(
            f"{told} holds {len(names)} members under a name that another has, such as {names[0]!r}",
            why="The last of each name is used, as unpacking would leave it", do="Name them apart if each is meant",
        )  # fmt: skip


def _warn_of_odd(names: list[str], *, told: str) -> None:
    if names:
        warn(
            f"{told} holds {len(names)} links, devices or sparse files, which are left out, such as {names[0]!r}",
            why="Nothing of an archive is followed to another place", do="Pack the files themselves if they are meant",
        )  # fmt: skip


def _checksum_is_right(block: bytes) -> bool:
    """The sum of a header's bytes, its own field taken as blanks."""
    try:
        told = int(block[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    return told == sum(block[:148]) + 256 + sum(block[156:])


def _size(field: bytes) -> int | None:
    """Octal text, or, from 8 GB on, a binary number; None for what is neither. `int` would take a sign, too."""
    if field[0] == 0x80:
        return int.from_bytes(field[4:], "big")
    text = field.split(b"\0")[0].strip()
    return int(text or b"0", 8) if _OCTAL.fullmatch(text) else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])


def _pax(raw: bytes) -> dict[str, str]:
    """Records `17 path=cats/1.jpg`, each with its own length; what is not so ends them."""
    found, at = {}, 0
    while record := re.match(rb"(\d{1,9}) ", raw[at : at + 10]):
        end = at + int(record[1])
        key, _, value = raw[at + len(record[0]) : end - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        if end <= at + len(record[0]):
            break
        at = end
    return found
