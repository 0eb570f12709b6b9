"""Files inside files: `photos.zip/cats/1.jpg` is read like any other file, in place.

Where a path goes through a regular file, that file is opened as an archive (zip, tar, compressed ones after decompressing
them once into the cache) or as an array of samples (CIFAR, MNIST), once per process, and its members are read at their
offsets by any number of threads. Nothing is ever written to where a member's name points. After a fork the indices stay, and
reading needs no file position, so parent and child do not disturb each other.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fanlight.errors import DataError

OPEN_FILES = 128  # kept open at once, of a process's usual 1,024: there may be thousands of shards
MEMBER_BYTES_MOST = 1 << 30  # an image of more is a mistake or an attack
HEAD_BYTES = 512  # enough to tell what a file is
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

Key = tuple[int, int, int]  # size, mtime_ns and inode of the file that an index was made of


class Archive(Protocol):
    """A file that holds files. Never changed after it is made, so threads share it."""

    def names(self) -> Iterable[str]:
        """Members in the archive's order, with forward slashes; no folders, links or devices."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a member; KeyError where there is none."""
        ...

    def read(self, name: str) -> bytes:
        """KeyError where there is no such member, OSError where its bytes cannot be had."""
        ...

    def part(self, name: str) -> Part | None:
        """Where a member's bytes lie as they are, None where they are compressed. KeyError as above."""
        ...


@dataclass(frozen=True)
class Part:
    """A range of a file's bytes. OSError from `read` where the file is another one by now."""

    path: str
    key: Key
    start: int
    size: int

    @classmethod
    def whole(cls, path: str) -> Part:
        state = os.stat(path)
        return cls(path, _key(state), 0, state.st_size)

    def within(self, start: int, size: int) -> Part:
        """A range of this range; what lies beyond its end is cut off."""
        start = min(start, self.size)
        return Part(self.path, self.key, self.start + start, min(size, self.size - start))

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """As many of `size` bytes from `start` as there are."""
        left = max(0, self.size - start)
        size = left if size is None else min(size, left)
        file = _file(self.path, self.key)
        found = file.read(size, self.start + start)
        while len(found) < size and (more := file.read(size - len(found), self.start + start + len(found))):
            found += more
        return found


class Reader(io.RawIOBase):
    """A Part as a file with a position, for the standard library's parsers."""

    def __init__(self, part: Part):
        self._part, self._at = part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "position before the file's beginning")
        self._at = at
        return at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._part.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _File:
    """An open file, closed when the last who reads from it lets go."""

    def __init__(self, path: str, key: Key):
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        state = os.fstat(self._handle)
        if not stat.S_ISREG(state.st_mode) or _key(state) != key:
            raise OSError(errno.EIO, "it changed while it was read", path)

    def read(self, size: int, at: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._handle, size, at)
        with _files_lock:  # Windows
            os.lseek(self._handle, at, os.SEEK_SET)
            return os.read(self._handle, size)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


_files: OrderedDict[tuple[str, Key], _File] = OrderedDict()  # the last used at the end
_files_lock = threading.Lock()
_archives: dict[str, tuple[Key, Archive]] = {}  # by path, with the state of the file that it was opened in
_inner: dict[str, tuple[Archive, Archive]] = {}  # archives in archives: by path, with the one that they are in
_opening = threading.RLock()  # an archive is opened by one thread; an archive in it by the same


def _forget_locks() -> None:
    """In a forked child: a lock that another thread held in the parent would never be let go."""
    global _files_lock, _opening
    _files_lock, _opening = threading.Lock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def read(path: str) -> bytes:
    """The bytes of a member. OSError as for a file: no such member, damaged, too large, or its archive is none."""
    archive, name = _member(path)
    if archive.size(name) > MEMBER_BYTES_MOST:
        raise OSError(errno.EFBIG, f"larger than {MEMBER_BYTES_MOST >> 30} GB", path)
    return archive.read(name)


def state(path: str) -> tuple[int, int]:
    """(bytes, mtime_ns) of a member: its own size, its archive's time of change. OSError where there is none."""
    archive, name = _member(path)
    outer = outermost(path)
    assert outer is not None
    return archive.size(name), os.stat(outer[0]).st_mtime_ns


def outermost(path: str) -> tuple[str, str] | None:
    """The regular file that a path goes through or ends at, and what follows it; None where it does not."""
    head, tail = path.rstrip("/"), ""
    while head:
        try:
            found = os.stat(head)
        except NotADirectoryError:
            head, _, last = head.rpartition("/")
            tail = f"{last}/{tail}" if tail else last
            continue
        except (OSError, ValueError):  # ValueError: a name with a zero byte
            return None
        return (head, tail) if stat.S_ISREG(found.st_mode) else None
    return None


def opened(path: str) -> Archive | None:
    """The archive at `path`, which may lie in another; None where it is no archive. DataError where it is damaged or made to
    do harm, OSError where it cannot be read."""
    outer = outermost(path)
    if outer is None:
        return None
    archive = _top(outer[0])
    if archive is None or not outer[1]:
        return archive
    try:
        owner, name = _find(archive, outer[0], outer[1])
        return _nested(owner, name, told=path)
    except KeyError:
        return None


def part(path: str) -> Part:
    """The bytes of a file or a member as a range of a file; a compressed member is copied into the cache. OSError where there
    is none."""
    outer = outermost(path)
    if outer is not None and not outer[1]:
        return Part.whole(outer[0])
    archive, name = _member(path)
    return _member_part(archive, name, told=path)


def files(pattern: str) -> list[str]:
    """Paths of the members that an archive, a folder in one, a member or a glob into one names; empty where it names none, or
    goes through no archive. Hidden members do not count. DataError where the archive is empty or cannot be read."""
    outer = outermost(pattern)
    if outer is None:
        return []
    try:
        archive = opened(pattern)
        if archive is not None:
            found = [f"{pattern.rstrip('/')}/{name}" for name in archive.names() if not _is_hidden(name)]
            if not found:
                raise DataError(f"{pattern} is an empty archive: there is no file in it")
            return found
        archive, inner = (opened(outer[0]) if outer[1] else None), outer[1]
    except OSError as error:
        raise DataError(f"cannot read {pattern}: {error.strerror or error}") from None
    if archive is None:
        return []
    with contextlib.suppress(OSError):
        state(pattern)
        return [pattern]
    names = [name for name in archive.names() if not _is_hidden(name)]
    found = [name for name in names if name.startswith(f"{inner}/")] or fnmatch.filter(names, inner)
    return [f"{outer[0]}/{name}" for name in found]


def points_out(name: str) -> bool:
    """Whether a name, taken from a folder or an archive, may lead to somewhere else, on this system or on another."""
    return bool(name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in name.replace("\\", "/").split("/"))


def _is_hidden(name: str) -> bool:
    return any(piece.startswith((".", "__MACOSX")) for piece in name.split("/"))


def _member(path: str) -> tuple[Archive, str]:
    outer = outermost(path)
    archive = _top(outer[0]) if outer else None
    if outer is None or archive is None:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    try:
        owner, name = _find(archive, outer[0], outer[1])
        owner.size(name)
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    return owner, name


def _find(archive: Archive, place: str, name: str) -> tuple[Archive, str]:
    """The innermost archive that `name` leads to from `archive`, and what is left of the name. KeyError where it leads
    nowhere."""
    try:
        archive.size(name)
        return archive, name
    except KeyError:
        pass
    cut = name.find("/")
    while cut >= 0:
        try:
            archive.size(name[:cut])
        except KeyError:
            cut = name.find("/", cut + 1)
            continue
        place = f"{place}/{name[:cut]}"
        inner = _nested(archive, name[:cut], told=place)
        if inner is None:
            raise KeyError(name)
        return _find(inner, place, name[cut + 1 :])
    raise KeyError(name)


def _top(path: str) -> Archive | None:
    key = _key(os.stat(path))
    found = _archives.get(path)
    if found is None or found[0] != key:
        with _opening:
            found = _archives.get(path)
            if found is None or found[0] != key:
                archive = _open(Part.whole(path), told=path)
                if archive is None:
                    return None
                _archives[path] = found = (key, archive)
    return found[1]


def _nested(owner: Archive, name: str, *, told: str) -> Archive | None:
    found = _inner.get(told)
    if found is None or found[0] is not owner:
        with _opening:
            found = _inner.get(told)
            if found is None or found[0] is not owner:
                archive = _open(_member_part(owner, name, told=told), told=told)
                if archive is None:
                    return None
                _inner[told] = found = (owner, archive)
    return found[1]


def _member_part(owner: Archive, name: str, *, told: str) -> Part:
    from fanlight.data import unpacked

    part = owner.part(name)
    if part is None and owner.size(name) > MEMBER_BYTES_MOST:
        raise OSError(errno.EFBIG, f"larger than {MEMBER_BYTES_MOST >> 30} GB", told)
    return part or unpacked.member(owner, name, told=told)


def _open(part: Part, *, told: str) -> Archive | None:
    from fanlight.data import archives, arrays, unpacked

    head = part.read(0, HEAD_BYTES)
    if archives.is_zip(head):
        return archives.Zip(part, told=told)
    if archives.is_tar(head):
        return archives.Tar(part, told=told)
    if unpacked.is_compressed(head):
        part = unpacked.whole(part, told=told)
        head = part.read(0, HEAD_BYTES)
        if archives.is_tar(head):
            return archives.Tar(part, told=told)
    elif unpacked.has_images(part, head):
        return archives.Tar(unpacked.images(part, told=told), told=told)
    return arrays.opened(part, head, told=told)


def _file(path: str, key: Key) -> _File:
    with _files_lock:
        file = _files.get((path, key))
        if file is not None:
            _files.move_to_end((path, key))
            return file
    file = _File(path, key)
    with _files_lock:
        _files[path, key] = file
        while len(_files) > OPEN_FILES:
            _files.popitem(last=False)
    return file


def _key(state: os.stat_result) -> Key:
    return state.st_size, state.st_mtime_ns, state.st_ino
