"""Files inside archives: read in place by many, and what is refused before anything is read."""

import contextlib
import gzip
import io
import lzma
import os
import struct
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import layouts
from fanlight.data import archives, cache, inside, unpacked
from fanlight.data.formats import recognise
from fanlight.data.manifest import file_state, read_file
from fanlight.data.scan import scan
from fanlight.errors import DataError, DiskError
from fanlight.train import predict


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


FILES = layouts.class_files(count=3)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_s_members_are_read_like_files(tmp_path: Path, method: int) -> None:
    path = layouts.zipped(tmp_path / "p.zip", FILES, method=method)
    for name, data in FILES.items():
        assert read_file(path / name) == data
        assert file_state(path / name) == (len(data), path.stat().st_mtime_ns)
    for wrong in ("blue", "blue/9.jpg", "blue/0.jpg/x"):
        assert file_state(path / wrong) == (0, 0)
        with pytest.raises(FileNotFoundError, match="No such file or directory"):
            read_file(path / wrong)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_s_members_whatever_its_dialect(tmp_path: Path, form: int) -> None:
    names = {"cat/1.jpg": b"1", f"cat/{'long' * 30}/{'name' * 20}.jpg": b"22", "dog/é中.jpg": b"333", "empty": b""}
    with tarfile.open(tmp_path / "p.tar", "w", format=form) as archive:
        for name, data in names.items():
            about = tarfile.TarInfo(f"./{name}")
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    found = inside.opened(str(tmp_path / "p.tar"))
    assert found is not None and list(found.names()) == list(names)
    assert all(read_file(tmp_path / "p.tar" / name) == data for name, data in names.items())


pieces = st.text(st.sampled_from("abcXY01 _-.,'äß中\U0001f600"), min_size=1, max_size=40).filter(
    lambda text: text.strip(". ")
)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.lists(pieces, min_size=1, max_size=5).map("/".join), st.binary(max_size=600), min_size=1, max_size=6
    )
)
def test_any_names_and_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for path in (layouts.zipped(folder / "p.zip", files), layouts.tarred(folder / "p.tar", files)):
        found = inside.opened(str(path))
        assert found is not None and {name: found.read(name) for name in found.names()} == files


LINKS = {"a/link": tarfile.SYMTYPE, "a/hard": tarfile.LNKTYPE, "a/device": tarfile.CHRTYPE, "a/fifo": tarfile.FIFOTYPE}


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no image")
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        for name, kind in LINKS.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, str(tmp_path / "secret")
            archive.addfile(about)
        archive.addfile(tarfile.TarInfo("a/file"))
    found = inside.opened(str(tmp_path / "p.tar"))
    assert found is not None and list(found.names()) == ["a/file"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/file"))
        for name, kind in (LINKS | {"a/folder": tarfile.DIRTYPE}).items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "a/file"
            archive.addfile(about)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        link = zipfile.ZipInfo("b/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "a/file")
        archive.writestr("a/file", b"")
    for kind, count, first in (("tar", 4, "a/link"), ("zip", 1, "b/link")):
        found = inside.opened(str(tmp_path / f"p.{kind}"))
        assert found is not None and list(found.names()) == ["a/file"]
        words = f"p.{kind} holds {count} links, devices or sparse files, which are left out, such as '{first}'"
        assert words in capsys.readouterr().err


def test_a_tar_that_ends_with_a_member_may_be_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = layouts.tarred(tmp_path / "whole.tar", {"a": bytes(600), "b": bytes(512)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: 512 + 1024])
    (tmp_path / "half.tar").write_bytes(data[: 512 + 700])
    for name, words in {
        "whole": "",
        "cut": "may be cut off. It has no end mark after 'a'",
        "half": "is cut off. Its last file",
    }.items():
        found = inside.opened(str(tmp_path / f"{name}.tar"))
        assert found is not None and list(found.names()) == (["a", "b"] if name == "whole" else ["a"])
        said = capsys.readouterr().err
        assert words in said and bool(said) == (name != "whole")


def header(size: bytes, *, name: bytes = b"a", kind: bytes = b"0") -> bytes:
    """A tar's header with a right checksum, whatever it says of its size."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(block)


@pytest.mark.parametrize(
    "size", [b"-0000002000", b"-1", b"+1", b"0o7", b"1_0", b"8", b"\xff" * 12, b"\xc0" + bytes(11)]
)
def test_a_tar_of_a_size_that_is_none_is_refused(tmp_path: Path, size: bytes) -> None:
    """A negative one would lead back to a header that was read before, for ever."""
    (tmp_path / "p.tar").write_bytes(header(b"0") * 2 + header(size) + bytes(1024))
    with pytest.raises(DataError, match=r"p\.tar is a damaged tar \(no size at byte 1148\); download or make it again"):
        inside.opened(str(tmp_path / "p.tar"))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.binary(max_size=12) | st.from_regex(rb"[-+ 0-7_]{0,12}", fullmatch=True),
                          st.sampled_from(b"\x000127xLKgS5V")), min_size=1, max_size=6), st.binary(max_size=600))  # fmt: skip
def test_any_header_comes_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, headers: list[tuple[bytes, int]], rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "p.tar"
    path.write_bytes(b"".join(header(size, kind=bytes([kind])) for size, kind in headers) + rest)
    with contextlib.suppress(DataError):  # and nothing else
        found = archives.Tar(inside.Part.whole(str(path)), told="p.tar")
        assert all(found.size(name) >= 0 for name in found.names())


@pytest.mark.parametrize("size", [b"\xc2\xb2", b"9" * 5000, b"-5"])
def test_a_pax_size_that_is_none_is_not_used(tmp_path: Path, size: bytes) -> None:
    record = next(b"%d size=%s\n" % (n, size) for n in range(9, 6000) if len(b"%d size=%s\n" % (n, size)) == n)
    padded = record + bytes(-len(record) % 512)
    data = header(b"%o" % len(record), kind=b"x") + padded + header(b"3") + b"abc".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "p.tar").write_bytes(data)
    assert read_file(tmp_path / "p.tar/a") == b"abc"


def test_a_zip_member_that_is_the_folder_itself_is_no_file(tmp_path: Path) -> None:
    found = inside.opened(str(layouts.zipped(tmp_path / "p.zip", {".": b"x", "./.": b"x", "a": b"y"})))
    assert found is not None and list(found.names()) == ["a"]


@pytest.mark.parametrize(
    "name", ["../x.jpg", "cats/../../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "cats\\..\\x.jpg", "\\x.jpg"]
)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_with_names_that_point_out_of_it_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    files = {"cats/1.jpg": b"1", name: b"2"}
    path = tmp_path / f"p.{kind}"
    layouts.zipped(path, files) if kind == "zip" else layouts.tarred(path, files, mode=f"w:{kind[4:]}")
    with pytest.raises(DataError, match=r"which points out of it, so it was made to do harm; unpack what you trust"):
        recognise(str(path), cache=tmp_path)
    with pytest.raises(DataError, match="points out of it"):
        read_file(path / "cats/1.jpg")


def test_names_of_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("katze/ä.jpg", "dog/aaaa.jpg", "dog/bbbb.jpg"):
            archive.writestr(name, b"x")
    data = path.read_bytes().replace(b"dog/aaaa", b"dog/\x84\x81aa").replace(b"dog/bbbb", b"dog/\xc3\xa4bb")
    path.write_bytes(data)
    found = inside.opened(str(path))
    assert found is not None and sorted(found.names()) == ["dog/äbb.jpg", "dog/äüaa.jpg", "katze/ä.jpg"]


def test_zip64(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert all(read_file(tmp_path / "p.zip" / name) == data for name, data in FILES.items())


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(layouts.zipped(tmp_path / "p.zip", FILES).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"p\.zip is encrypted; unpack it with its password, and give the folder"):
        recognise(str(tmp_path / "p.zip"), cache=tmp_path)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """The bomb whose members share their bytes."""
    data = bytearray(layouts.zipped(tmp_path / "p.zip", FILES, method=zipfile.ZIP_STORED).read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = struct.pack("<I", 10)
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(DataError, match="has members that overlap, as a decompression bomb has"):
        inside.opened(str(tmp_path / "p.zip"))


@pytest.mark.parametrize("kind", ["zip", "gz", "xz", "bz2"])
def test_bombs_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(archives, "GROWTH_FREE", 1 << 20)
    zeros = bytes(8 << 20)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        layouts.zipped(path, {"cat/1.jpg": zeros})
    else:
        path.write_bytes(layouts.COMPRESSED[kind](zeros))
    with pytest.raises(
        DataError, match=r"would grow from .* as a decompression bomb does; unpack it yourself if you trust"
    ):
        recognise(str(path), cache=tmp_path)
    assert cache.entries() == [] and not list(own_cache.rglob("*.part")), "nothing of it stays"


def test_a_member_that_lies_of_its_size(tmp_path: Path) -> None:
    """Its bytes end a byte after what it promised, so nothing large is ever made."""
    data = bytearray(layouts.zipped(tmp_path / "p.zip", {"cat/1.jpg": bytes(1 << 20), "dog/1.jpg": b"x"}).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(OSError, match=r"damaged in its zip \(wrong checksum\)"):
        read_file(tmp_path / "p.zip/cat/1.jpg")
    assert read_file(tmp_path / "p.zip/dog/1.jpg") == b"x"


def test_a_member_too_large_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "MEMBER_BYTES_MOST", max(map(len, FILES.values())))
    path = layouts.zipped(tmp_path / "p.zip", FILES | {"red/large.jpg": bytes(100_000)})
    manifest = scan(recognise(str(path), cache=tmp_path), workers=1)
    assert [reason for reason in manifest.column("reason") if reason] == ["cannot be read: larger than 0 GB"]


def test_damaged_members_are_quarantined_by_name_and_the_rest_kept(tmp_path: Path) -> None:
    data = bytearray(layouts.zipped(tmp_path / "p.zip", FILES, method=zipfile.ZIP_STORED).read_bytes())
    data[data.index(FILES["green/1.jpg"]) + 200] ^= 0xFF
    (tmp_path / "p.zip").write_bytes(data)
    layouts.tarred(tmp_path / "p.tar", FILES)
    whole = (tmp_path / "p.tar").read_bytes()
    (tmp_path / "p.tar").write_bytes(whole[: whole.index(FILES["red/2.jpg"]) + 50])
    wanted = {"p.zip": ("green/1.jpg", "cannot be read: damaged in its zip (wrong checksum)"),
              "p.tar": ("red/2.jpg", "cannot be read: cut off with its tar")}  # fmt: skip
    for name, expected in wanted.items():
        manifest = scan(recognise(str(tmp_path / name), cache=tmp_path), workers=1)
        assert [
            (path, reason) for path, reason in zip(manifest.column("path"), manifest.column("reason")) if reason
        ] == [expected]
        assert manifest.ok.sum() == 8


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_damaged_archives_name_the_way_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"p.{kind}"
    layouts.zipped(path, FILES) if kind == "zip" else layouts.tarred(path, FILES, mode=f"w:{kind[4:]}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if kind != "tar" else data[:512] + b"x" * 4096)
    with pytest.raises(DataError, match=r"download or make it again|no images|none of the"):
        scan(recognise(str(path), cache=tmp_path), workers=1)


def test_many_threads_read_one_archive(tmp_path: Path) -> None:
    path = layouts.zipped(tmp_path / "p.zip", FILES)
    names = list(FILES) * 40
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda name: read_file(path / name), names))
    assert found == [FILES[name] for name in names]


def test_a_forked_child_reads_while_the_parent_holds_every_lock(tmp_path: Path) -> None:
    path = layouts.zipped(tmp_path / "p.zip", FILES)
    other = layouts.tarred(tmp_path / "q.tar", FILES)
    read_file(path / "blue/0.jpg")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with inside._opening, inside._files_lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        right = read_file(path / "red/1.jpg") == read_file(other / "red/1.jpg") == FILES["red/1.jpg"]
        os._exit(0 if right else 1)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_file(path / "red/1.jpg") == FILES["red/1.jpg"]


def test_more_archives_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "OPEN_FILES", 3)
    monkeypatch.setattr(inside, "_files", type(inside._files)())
    for number in range(9):
        layouts.tarred(tmp_path / f"{number}.tar", {"a": bytes([number])})
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: read_file(tmp_path / f"{number % 9}.tar/a"), range(90)))
    assert found == [bytes([number % 9]) for number in range(90)]
    assert len(inside._files) == 3


def test_an_archive_that_changes_is_opened_again(tmp_path: Path) -> None:
    path = layouts.zipped(tmp_path / "p.zip", FILES)
    manifest = scan(recognise(str(path), cache=tmp_path), workers=1)
    assert manifest.changed() == []
    os.utime(path, ns=(1, 1))
    assert len(manifest.changed()) == 9
    layouts.zipped(path, FILES | {"blue/0.jpg": b"other"})
    assert read_file(path / "blue/0.jpg") == b"other"
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*blue/0\.jpg: .* It changed since it was checked"):
        manifest.read(0)


def test_what_is_decompressed_is_kept_once_and_listed(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "SAID_FROM", 0)
    path = layouts.tarred(tmp_path / "photos.tar.xz", FILES, mode="w:xz")
    assert read_file(path / "red/1.jpg") == FILES["red/1.jpg"]
    assert "can only be read from its beginning: decompressing it once, into" in capsys.readouterr().out
    (entry,) = cache.entries()
    assert (entry.kind, entry.text) == ("archive", "photos.tar.xz") and entry.bytes > sum(map(len, FILES.values()))
    monkeypatch.setattr(inside, "_archives", {})
    assert read_file(path / "red/2.jpg") == FILES["red/2.jpg"]
    assert capsys.readouterr().out == ""
    cache.clear()
    assert cache.entries() == []
    monkeypatch.setattr(inside, "_archives", {})
    assert read_file(path / "red/2.jpg") == FILES["red/2.jpg"]


def test_several_streams_and_padding_are_one_file(tmp_path: Path) -> None:
    plain = layouts.tarred(tmp_path / "p.tar", FILES).read_bytes()
    half = len(plain) // 2
    for name, pack in (("gz", gzip.compress), ("xz", lzma.compress)):
        (tmp_path / f"p.tar.{name}").write_bytes(pack(plain[:half]) + pack(plain[half:]) + bytes(512))
        assert read_file(tmp_path / f"p.tar.{name}/red/2.jpg") == FILES["red/2.jpg"]


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    path = layouts.tarred(tmp_path / "p.tar.gz", FILES, mode="w:gz")
    monkeypatch.setattr(unpacked.machine, "disk_free", lambda folder: 2000)
    with pytest.raises(
        DiskError, match=r"cannot be unpacked into .*: No space left on device; make room, set FANLIGHT_CACHE"
    ):
        read_file(path / "red/1.jpg")
    assert not list(own_cache.rglob("*")), "no lock, no part, no folder"


def test_an_archive_in_an_archive(tmp_path: Path) -> None:
    inner = layouts.tarred(tmp_path / "in.tar", FILES).read_bytes()
    for method in METHODS[:2]:
        path = layouts.zipped(tmp_path / f"{method}.zip", {"x/in.tar": inner}, method=method)
        assert read_file(path / "x/in.tar/red/1.jpg") == FILES["red/1.jpg"]


def test_files_that_predict_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.zipped(tmp_path / "p.zip", FILES | {"__MACOSX/._0.jpg": b"x", "red/.hidden": b"x"})
    assert predict.expand(["p.zip"]) == [f"p.zip/{name}" for name in FILES]
    assert predict.expand(["p.zip/red"]) == ["p.zip/red/0.jpg", "p.zip/red/1.jpg", "p.zip/red/2.jpg"]
    assert predict.expand(["p.zip/red/1.jpg", "p.zip/*/2.jpg"]) == ["p.zip/red/1.jpg"] + [
        f"p.zip/{name}/2.jpg" for name in ("blue", "green", "red")
    ]
    with pytest.raises(DataError, match=r"p\.zip/none names no file"):
        predict.expand(["p.zip/none"])
