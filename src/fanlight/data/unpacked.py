"""What can only be read from first to last, put once into the cache as it is read: .gz, .xz, .bz2, and tables with images.

One process writes, others wait for it; a copy appears whole or not at all and is named by its original's place, size and time
of change. Growth and room on the disk are watched.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fanlight import machine
from fanlight.console import bytes_text, say
from fanlight.data import archives, cache, leftovers
from fanlight.data.inside import HEAD_BYTES, Archive, Part, Reader
from fanlight.errors import DataError, DiskError, disk_is_full

AT_ONCE = 1 << 20  # bytes
XZ_MEMORY = 1 << 29  # bytes that a decoder may ask for; the highest level asks for 65 MB
DISK_RESERVE = 0.05  # of the disk's free bytes stay free
SAID_FROM = 8 << 20  # bytes of an original that takes a moment
GZIP, XZ, BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh"


def is_compressed(head: bytes) -> bool:
    return head.startswith((GZIP, XZ, BZIP2))


def peek(data: bytes, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of what is compressed in `data`, or of `data` itself; as many as its beginning gives."""
    try:
        return _decoder(data)().decompress(data, size) if is_compressed(data) else data[:size]
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return b""


def whole(part: Part, *, told: str) -> Part:
    """The decompressed copy of a compressed file. DataError where it is damaged, a bomb, or has no room."""

    def write(out: IO[bytes]) -> None:
        if part.size > SAID_FROM:
            say(
                f"{told} can only be read from its beginning: decompressing it once, into {cache.folder() / 'archives'}"
            )
        done, room = 0, _room()
        try:
            for data in _decompressed(part):
                done += len(data)
                archives.check_growth(told, before=part.size, after=done)
                if done > room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                out.write(data)
        except (EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{told} is damaged or cut off ({error}); download or make it again") from None

    return _kept(part, "whole", write, told=told)


def member(owner: Archive, name: str, *, told: str) -> Part:
    """The bytes of a compressed member of `owner` as a file of their own."""
    data = owner.read(name)
    digest = hashlib.sha256(data).hexdigest()
    return _kept_by(digest, lambda out: out.write(data), told=told)


def has_images(part: Part, head: bytes) -> bool:
    """Whether a file is a Parquet table with a column of image files, as the Hugging Face hub keeps them."""
    try:
        return head.startswith(b"PAR1") and image_column(part) is not None
    except ValueError:
        return False


def image_column(part: Part) -> str | None:
    """Name of the first column of {bytes, path} in a Parquet table. ValueError where it is damaged, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if part.read(0, 4) != b"PAR1":
            raise ValueError("its first bytes are not PAR1")
        with io.BufferedReader(Reader(part)) as file:  # type: ignore[type-var]
            schema = pq.ParquetFile(file).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    return None


def images(part: Part, *, told: str) -> Part:
    """The image files of a Parquet table as a tar of members 00000, 00001, …, by row; a row without one is an empty file."""
    import tarfile

    def write(out: IO[bytes]) -> None:
        if part.size > SAID_FROM:
            say(f"{told} is a table with images: copying them once into {cache.folder() / 'archives'}")
        room = _room()
        for number, data in enumerate(_rows(part, f"{image_column(part)}.bytes", told=told)):
            about = tarfile.TarInfo(f"{number:05d}")
            about.size = len(data)
            out.write(about.tobuf() + data + bytes(-len(data) % archives.BLOCK))
            if out.tell() > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        out.write(bytes(2 * archives.BLOCK))

    return _kept(part, "images", write, told=told)


def _rows(part: Part, column: str, *, told: str) -> Iterator[bytes]:
    """The values of a column of bytes inside a column; empty where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with io.BufferedReader(Reader(part)) as file:  # type: ignore[type-var]
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=[column]):
                for row in batch.column(0).to_pylist():
                    yield (row or {}).get("bytes") or b""
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{told} is a damaged Parquet table ({why}); download it again") from None


def _kept(part: Part, what: str, write: Callable[[IO[bytes]], Any], *, told: str) -> Part:
    text = f"{os.path.realpath(part.path)} {part.key[:2]} {part.start} {part.size} {what}"
    return _kept_by(hashlib.sha256(os.fsencode(text)).hexdigest(), write, told=told)


def _kept_by(digest: str, write: Callable[[IO[bytes]], Any], *, told: str) -> Part:
    """The copy of that name, written by `write` where there is none."""
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in Path(told).name)[-60:]
    target = cache.folder() / "archives" / f"{digest[:24]}-{stem}"
    if not target.exists():
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        new = leftovers.missing(target.parent)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target.with_name(f".{target.name}.lock")):
                if not target.exists():  # another process made it while this one waited
                    try:
                        with open(part, "wb") as out:
                            write(out)
                        part.rename(target)
                    finally:
                        with contextlib.suppress(OSError):
                            part.unlink()
        except OSError as error:
            kind = DiskError if disk_is_full(error) else DataError
            raise kind(
                f"{told} cannot be unpacked into {target.parent}: {error.strerror or error}; make room, set FANLIGHT_CACHE to "
                "another folder, or unpack it yourself"
            ) from None
        finally:
            leftovers.remove(new)  # which are empty where nothing was kept
    return Part.whole(str(target))


def _room() -> int:
    return int(machine.disk_free(cache.folder()) * (1 - DISK_RESERVE))


def _decoder(head: bytes) -> Callable[[], Any]:
    if head.startswith(GZIP):
        return lambda: zlib.decompressobj(31)
    if head.startswith(XZ):
        return lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)
    return bz2.BZ2Decompressor


def _decompressed(part: Part) -> Iterator[bytes]:
    """Pieces of at most AT_ONCE bytes; several streams one after another are one. EOFError where the last is not whole."""
    make = _decoder(part.read(0, HEAD_BYTES))
    decoder, at, left = make(), 0, b""
    while True:
        is_end = False
        if not left and getattr(decoder, "needs_input", True):
            left, at = part.read(at, AT_ONCE), at + AT_ONCE
            is_end = not left
        data = decoder.decompress(left, AT_ONCE)
        left = getattr(decoder, "unconsumed_tail", b"")  # zlib gives back what it had no room for, the others keep it
        if data:
            yield data
        if decoder.eof:
            left = decoder.unused_data
            if not left:
                left, at = part.read(at, AT_ONCE), at + AT_ONCE
            if not left.strip(b"\0"):  # padding may follow
                return
            decoder = make()
        elif is_end and not data:
            raise EOFError(f"its end is missing after {bytes_text(part.size)}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process writes; others that want the same copy wait for it."""
    with open(path, "w") as file:
        with contextlib.suppress(ImportError):  # systems without it write twice at worst: a copy is renamed when whole
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        except BaseException:  # who waited for it writes the copy all the same, to a file of its own
            path.unlink(missing_ok=True)
            raise
