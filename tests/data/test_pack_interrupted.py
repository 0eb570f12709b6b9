"""Packs that are interrupted, damaged or short of disk: made whole, or refused with a way out."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.packs import (
    CANVAS_PX,
    NPY_HEAD,
    SHARD_BYTES,
    SIZES,
    assert_right,
    make,
    photos,
    scanned,
    spoil,
)
from fanlight import machine
from fanlight.console import bytes_text
from fanlight.data import canvas, pack
from fanlight.errors import DiskError

pytest_plugins = ["data.fixtures"]

# --- interruptions


def interrupt_after(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """The packing stops, as by Control-C, in the middle of a shard."""
    to_canvas, calls = canvas.to_canvas, []

    def stopping(data: bytes, px: int | None) -> np.ndarray:
        calls.append(1)
        if len(calls) > images:
            raise KeyboardInterrupt
        return to_canvas(data, px)

    monkeypatch.setattr(canvas, "to_canvas", stopping)


def test_an_interrupted_pack_continues_at_its_last_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "data")
    spoil(tmp_path / "data/cat/0.png")
    manifest = scanned(tmp_path / "data")
    plan = pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES)
    in_shard = np.bincount(plan.shards).tolist()
    assert len(in_shard) >= 3
    with monkeypatch.context() as context:
        interrupt_after(context, in_shard[0] + in_shard[1])
        with pytest.raises(KeyboardInterrupt):
            make(manifest, tmp_path)
    folder = tmp_path / plan.key
    assert sorted(path.name for path in folder.glob("pixels-*.npy")) == ["pixels-00000.npy", "pixels-00001.npy"]
    assert pack.load(folder) is None
    calls: list[int] = []
    to_canvas = canvas.to_canvas
    monkeypatch.setattr(canvas, "to_canvas", lambda data, px: calls.append(1) or to_canvas(data, px))
    made = make(manifest, tmp_path)
    assert len(calls) == sum(in_shard[2:])
    monkeypatch.undo()
    assert list(made.failed) == [manifest.column("sha256")[0]]  # also when it lay in a shard kept from before
    assert_right(made, made.mark_failed(manifest))
    assert not list(folder.glob("*.part")) and not list(folder.glob("failed-*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from fanlight.data import canvas, manifest, pack
to_canvas, calls = canvas.to_canvas, []
def dying(data, px):
    calls.append(1)
    if len(calls) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return to_canvas(data, px)
canvas.to_canvas = dying
known = manifest.load(Path(sys.argv[1]))
pack.make(known, canvas_px=24, parent=Path(sys.argv[2]), workers=2, shard_bytes=4000)
"""


def test_a_killed_pack_continues(tmp_path: Path, decoded: list[int]) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    manifest.save(tmp_path / "m.parquet")
    in_shard = np.bincount(pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).shards).tolist()
    arguments = [str(tmp_path / "m.parquet"), str(tmp_path / "packs"), str(in_shard[0] + 1)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "packs").rglob("*.part"))) == 1
    made = make(manifest, tmp_path / "packs")
    assert len(decoded) == sum(in_shard[1:])
    assert_right(made, manifest)
    assert not list((tmp_path / "packs").rglob("*.part"))


@pytest.mark.parametrize(
    "damage", ["no pack.json", "no index", "half an index", "no shard", "short shard", "another's shard", "no json"]
)
def test_a_pack_that_is_not_whole_is_made_whole(tmp_path: Path, damage: str) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    made = make(manifest, tmp_path)
    index = made.folder / "index.parquet"
    edits: dict[str, Callable[[], object]] = {
        "no pack.json": (made.folder / "pack.json").unlink,
        "no index": index.unlink,
        "half an index": lambda: os.truncate(index, index.stat().st_size // 2),
        "no shard": made.shard_paths[1].unlink,
        "short shard": lambda: os.truncate(made.shard_paths[-1], made.shard_paths[-1].stat().st_size - 1),
        "another's shard": lambda: made.shard_paths[1].write_bytes(made.shard_paths[0].read_bytes()),
        "no json": lambda: (made.folder / "pack.json").write_text("[]"),
    }
    assert made.shard_paths[0].stat().st_size != made.shard_paths[1].stat().st_size
    edits[damage]()
    assert pack.load(made.folder) is None
    again = make(manifest, tmp_path)
    assert again.folder == made.folder
    assert_right(again, manifest)


def test_shards_of_another_layout_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data", sizes=[(20, 20)] * 10))
    with monkeypatch.context() as context:
        interrupt_after(context, 4)
        with pytest.raises(KeyboardInterrupt):
            make(manifest, tmp_path, shard_bytes=4 * 1200)  # shards of 4, 4 and 2 images
    assert_right(make(manifest, tmp_path, shard_bytes=6 * 1200), manifest)  # of 6 and 4


SLOW = """
import sys, time
from pathlib import Path
from fanlight.data import canvas, manifest, pack
to_canvas, calls = canvas.to_canvas, []
def slow(data, px):
    calls.append(1)
    time.sleep(0.02)
    return to_canvas(data, px)
canvas.to_canvas = slow
known = manifest.load(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
made = pack.make(known, canvas_px=24, parent=Path(sys.argv[2]), workers=2, shard_bytes=4000)
print("decoded", len(calls), len(made.sha256))
"""


def test_two_processes_make_one_pack(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    manifest.save(tmp_path / "m.parquet")
    command = [sys.executable, "-c", SLOW, str(tmp_path / "m.parquet"), str(tmp_path / "packs")]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = []
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        line = out.strip().splitlines()[-1].split()
        assert line[0] == "decoded" and int(line[2]) == len(SIZES)
        counts.append(int(line[1]))
    assert sorted(counts) == [0, len(SIZES)], "one waits for the other"
    folders = list((tmp_path / "packs").iterdir())
    assert len(folders) == 1
    made = pack.load(folders[0])
    assert made is not None
    assert_right(made, manifest)


# --- disks


def free_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(machine, "disk_free", lambda folder: count)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
@pytest.mark.parametrize("sizes", [SIZES, [(20, 20)] * 6])  # the second: smaller than the canvas asked for
def test_too_small_a_disk_is_refused_with_the_canvas_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], share: float, sizes: list[tuple[int, int]]
) -> None:
    manifest = scanned(photos(tmp_path / "data", sizes=sizes))
    needed = pack.plan(manifest, canvas_px=CANVAS_PX).bytes
    free = int(needed * share / (1 - pack.DISK_RESERVE))
    free_bytes(monkeypatch, free)
    usable = int(free * (1 - pack.DISK_RESERVE))
    with pytest.raises(DiskError) as caught:
        make(manifest, tmp_path / "packs")
    message = str(caught.value)
    assert message.startswith(
        f"the pack needs {bytes_text(needed)} and {tmp_path / 'packs'} has {bytes_text(usable)} free"
    )
    assert message.endswith("; free some room, or choose a folder on another disk")
    found = re.search(r"where images of a short side of (\d+) px would fit", message)
    assert found is not None
    fits = int(found[1])
    assert pack.plan(manifest, canvas_px=fits).bytes <= usable < pack.plan(manifest, canvas_px=fits + 1).bytes
    assert not decoded
    assert_right(make(manifest, tmp_path / "packs", canvas_px=fits), manifest, canvas_px=fits)


def test_no_canvas_fits_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    free_bytes(monkeypatch, 0)
    with pytest.raises(DiskError, match=r"has 0 bytes free; free some room, or choose a folder on another disk$"):
        make(manifest, tmp_path)


def test_a_reserve_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    needed = pack.plan(manifest, canvas_px=CANVAS_PX).bytes
    free_bytes(monkeypatch, needed + 1)
    with pytest.raises(DiskError, match="the pack needs"):
        make(manifest, tmp_path)
    free_bytes(monkeypatch, int(needed / (1 - pack.DISK_RESERVE)) + 2)
    assert_right(make(manifest, tmp_path), manifest)


def test_room_counts_what_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    in_shard = np.bincount(pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).shards).tolist()
    with monkeypatch.context() as context:
        interrupt_after(context, sum(in_shard[:-1]))
        with pytest.raises(KeyboardInterrupt):
            make(manifest, tmp_path)
    free_bytes(monkeypatch, 2 * SHARD_BYTES)
    assert pack.plan(manifest, canvas_px=CANVAS_PX).bytes > 2 * SHARD_BYTES
    assert_right(make(manifest, tmp_path), manifest)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve")
@pytest.mark.parametrize("shards_before", [0, 1])
def test_a_disk_that_fills_while_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_before: int) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    plan = pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES)
    reserve, calls = os.posix_fallocate, []

    def full(file: int, offset: int, count: int) -> None:
        calls.append(count)
        if len(calls) > shards_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(file, offset, count)

    with monkeypatch.context() as context:
        context.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskError) as caught:
            make(manifest, tmp_path / "packs")
    chosen = plan.shards == shards_before
    size = bytes_text(int((plan.heights * plan.widths * 3)[chosen].sum()))
    assert str(caught.value) == (
        f"cannot make a pack in {tmp_path / 'packs'}: No space left on device for the next {size}; free some room and give "
        "the same command again, or choose a folder on another disk"
    )
    assert calls[0] == NPY_HEAD + int((plan.heights * plan.widths * 3)[plan.shards == 0].sum())
    names = sorted(path.name for path in tmp_path.glob("packs/*/*"))
    kept = [".lock", "failed-00000.json", "pixels-00000.npy"]
    assert names == (kept if shards_before else []), "what was reserved is given back"
    assert (tmp_path / "packs").exists() == bool(shards_before)
    assert_right(make(manifest, tmp_path / "packs"), manifest)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve")
def test_a_shard_s_room_is_reserved_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole is a promise: where the disk cannot keep it, writing to the map kills the process."""
    manifest = scanned(photos(tmp_path / "data", sizes=[(300, 300)] * 4))
    to_canvas, reserved = canvas.to_canvas, []

    def looking(data: bytes, px: int | None) -> np.ndarray:
        (state,) = (path.stat() for path in tmp_path.rglob("*.part"))
        reserved.append((state.st_blocks * 512, state.st_size))
        return to_canvas(data, px)

    monkeypatch.setattr(canvas, "to_canvas", looking)
    pack.make(manifest, canvas_px=300, parent=tmp_path, workers=1)
    blocks, size = reserved[0]
    assert blocks >= size == NPY_HEAD + 4 * 300 * 300 * 3


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot make a pack in .*/file: Not a directory; choose a folder"):
        make(manifest, tmp_path / "file")
    folder = tmp_path / "packs" / pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).key
    (folder / ".lock").mkdir(parents=True)
    with pytest.raises(DiskError, match=r"cannot make a pack in .*/packs: Is a directory; choose a folder"):
        make(manifest, tmp_path / "packs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    (tmp_path / "packs").mkdir(mode=0o555)
    with pytest.raises(DiskError, match=r"cannot make a pack in .*/packs: Permission denied"):
        make(manifest, tmp_path / "packs")


def test_an_error_of_the_disk_after_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as context:
        context.setattr(pack.pq, "write_table", full)
        with pytest.raises(DiskError, match=r"cannot make a pack in .*: Disk quota exceeded"):
            make(manifest, tmp_path)
    assert_right(make(manifest, tmp_path), manifest)


def test_the_data_folder_is_only_read(tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    manifest = scanned(root)

    def states() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [root, *root.rglob("*")]}

    before = states()
    folders = [root, *(path for path in root.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert_right(make(manifest, tmp_path / "packs"), manifest)
        assert states() == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_load_of_no_pack(tmp_path: Path) -> None:
    assert pack.load(tmp_path) is None
    assert pack.load(tmp_path / "nowhere") is None
