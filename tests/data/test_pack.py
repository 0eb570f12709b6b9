import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fanlight import machine
from fanlight.console import bytes_text
from fanlight.data import canvas, pack
from fanlight.data.formats import recognise
from fanlight.data.manifest import SCHEMA, Manifest, table_of
from fanlight.data.scan import scan
from fanlight.errors import DataError

SIZES = [(40, 60), (60, 40), (17, 90), (25, 25), (9, 7), (1, 1), (1, 50), (200, 120)]  # height, width
CANVAS_PX = 24
SHARD_BYTES = 4000  # two or three images of SIZES each
NPY_HEAD = 128  # bytes of a .npy file before its pixels
KINDS = ("png", "jpg")


def photos(root: Path, *, sizes: list[tuple[int, int]] = SIZES, seed: int = 0) -> Path:
    """One smooth picture per size, PNG and JPEG in turn, in two classes; one JPEG lies on its side."""
    rng = np.random.default_rng(seed)
    for number, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
        path = root / ("cat", "dog")[number // 2 % 2] / f"{number}.{KINDS[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        image.save(path, **({"quality": 95, "exif": exif} if path.suffix == ".jpg" else {}))
    return root


def scanned(root: Path) -> Manifest:
    return scan(recognise(str(root), cache=root / "unused"), workers=2)


def make(manifest: Manifest, parent: Path, *, canvas_px: int = CANVAS_PX, shard_bytes: int = SHARD_BYTES) -> pack.Pack:
    return pack.make(manifest, canvas_px=canvas_px, parent=parent, workers=2, shard_bytes=shard_bytes)


def pixels(made: pack.Pack, slot: int) -> np.ndarray:
    """Read by the format's own words: a flat .npy array per shard, places in index.parquet."""
    shard, offset, height, width = made.place(slot)
    flat = np.load(made.folder / f"pixels-{shard:05d}.npy")
    return flat[offset : offset + height * width * 3].reshape(height, width, 3)


def assert_right(made: pack.Pack, manifest: Manifest, *, canvas_px: int = CANVAS_PX) -> None:
    """Every usable row's pixels are those of its file."""
    slots = made.slots(manifest)
    for row in manifest.rows().tolist():
        wanted = canvas.to_canvas(manifest.path(row).read_bytes(), canvas_px)
        assert np.array_equal(pixels(made, int(slots[row])), wanted), manifest.path(row)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per image that is decoded."""
    calls: list[int] = []
    to_canvas = canvas.to_canvas
    monkeypatch.setattr(canvas, "to_canvas", lambda data, px: calls.append(len(data)) or to_canvas(data, px))
    return calls


def of_sizes(sizes: list[tuple[int, int]], hashes: list[str]) -> Manifest:
    """A manifest without files."""
    count = len(sizes)
    columns = {field.name: [""] * count if str(field.type) == "string" else [0] * count for field in SCHEMA}
    columns |= {"path": [f"{number}.png" for number in range(count)], "label": ["a"] * count, "status": ["ok"] * count}
    columns |= {"sha256": hashes, "width": [w for w, _ in sizes], "height": [h for _, h in sizes]}
    return Manifest.of(table_of(columns), root=Path("/nowhere"), source="test")


def spoil(path: Path) -> None:
    """A PNG whose header is good and whose pixels break off."""
    good = path.read_bytes()
    start = good.index(b"IDAT")
    path.write_bytes(good[: start + 20] + good[-12:])


# --- the plan


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 30)), min_size=1, max_size=30),
    st.integers(1, 100),
    st.integers(1, 100_000),
)
@settings(deadline=None)
def test_the_plan_has_a_place_for_each(rows: list[tuple[int, int, int]], canvas_px: int, shard_bytes: int) -> None:
    size_of = {name: (width, height) for width, height, name in rows}  # a content has one size
    sizes, hashes = [size_of[name] for _, _, name in rows], [f"{name:02d}" for _, _, name in rows]
    plan = pack.plan(of_sizes(sizes, hashes), canvas_px=canvas_px, shard_bytes=shard_bytes)
    assert plan.sha256.tolist() == sorted(set(hashes))
    assert [hashes[row] for row in plan.rows] == plan.sha256.tolist()
    stored = [canvas.canvas_size(*sizes[row], canvas_px) for row in plan.rows]
    assert list(zip(plan.widths.tolist(), plan.heights.tolist())) == stored
    counts = [width * height * 3 for width, height in stored]
    assert plan.bytes == sum(counts)
    ends: Counter[int] = Counter()
    for shard, offset, count in zip(plan.shards.tolist(), plan.offsets.tolist(), counts):
        assert offset == ends[shard], "no hole, no overlap"
        ends[shard] += count
    assert sorted(ends) == list(range(len(ends)))
    for shard, end in ends.items():
        assert end <= shard_bytes or (plan.shards == shard).sum() == 1, "only an image larger than a shard is alone"
    firsts = [counts[int(np.flatnonzero(plan.shards == shard)[0])] for shard in range(1, len(ends))]
    assert all(ends[shard] + first > shard_bytes for shard, first in enumerate(firsts)), "shards are filled"


def test_the_key_follows_content_canvas_decoder_and_layout_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = scanned(photos(tmp_path))
    key = pack.plan(manifest, canvas_px=24).key
    labels = manifest.column("label")[::-1].tolist()
    renamed = manifest.with_columns(path=[f"other{n}" for n in range(len(manifest))], label=labels)
    assert pack.plan(renamed, canvas_px=24).key == key
    assert pack.plan(manifest.take(np.arange(len(manifest))[::-1]), canvas_px=24).key == key
    others = [
        pack.plan(manifest, canvas_px=25).key,
        pack.plan(manifest.take(np.arange(len(manifest) - 1)), canvas_px=24).key,
        pack.plan(manifest, canvas_px=24, shard_bytes=SHARD_BYTES).key,
    ]
    monkeypatch.setattr(canvas, "VERSION", "another")
    others.append(pack.plan(manifest, canvas_px=24).key)
    assert len({key, *others}) == 5


def test_quarantining_an_image_does_not_change_the_key(tmp_path: Path) -> None:
    """Else a pack that found one would be made a second time by the training that follows it."""
    manifest = scanned(photos(tmp_path))
    plan = pack.plan(manifest, canvas_px=CANVAS_PX)
    assert pack.plan(manifest.quarantine({3: "damaged"}), canvas_px=CANVAS_PX).key == plan.key
    (tmp_path / "dog/text.jpg").write_text("no image")
    assert pack.plan(scanned(tmp_path), canvas_px=CANVAS_PX).key == plan.key  # has no size, so no place


# --- the pixels


def test_a_pack_holds_the_pixels_of_every_file(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    made = make(manifest, tmp_path / "packs")
    assert_right(made, manifest)
    assert made.folder == tmp_path / "packs" / pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).key
    assert made.canvas_px == CANVAS_PX
    assert made.failed == {}
    assert len(made.shard_paths) > 2, "several shards, or the test shows little"
    assert made.bytes == sum(path.stat().st_size - NPY_HEAD for path in made.shard_paths)
    heights, widths = made.sizes(made.slots(manifest))
    assert (heights[0], widths[0]) == (24, 36)
    about = json.loads((made.folder / "pack.json").read_text())
    assert about == {
        "images": len(SIZES), "bytes": made.bytes, "canvas_px": CANVAS_PX, "decoder": canvas.decoder_version(),
        "failed": {},
    }  # fmt: skip
    left = {path.name for path in made.folder.iterdir()}
    assert left == {".lock", "pack.json", "index.parquet", *(path.name for path in made.shard_paths)}


@pytest.mark.parametrize("canvas_px", [1, 8, 500])
def test_any_canvas(tmp_path: Path, canvas_px: int) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    assert_right(make(manifest, tmp_path, canvas_px=canvas_px), manifest, canvas_px=canvas_px)


def test_threads_and_chunks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    one = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path / "one", workers=1)
    monkeypatch.setattr(pack, "CHUNK", 1)
    many = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path / "many", workers=7)
    for a, b in zip(one.shard_paths, many.shard_paths, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_copies_share_one_place(tmp_path: Path, decoded: list[int]) -> None:
    photos(tmp_path / "data")
    (tmp_path / "data/dog/copy.png").write_bytes((tmp_path / "data/cat/0.png").read_bytes())
    manifest = scanned(tmp_path / "data")
    assert len(manifest) == len(SIZES) + 1
    made = make(manifest, tmp_path)
    assert len(made.sha256) == len(decoded) == len(SIZES)
    slots = made.slots(manifest)
    paths = manifest.column("path").tolist()
    assert slots[paths.index("cat/0.png")] == slots[paths.index("dog/copy.png")]
    assert len(set(slots.tolist())) == len(SIZES)


def test_a_finished_pack_is_opened(tmp_path: Path, decoded: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    first = make(manifest, tmp_path)
    assert "Packing 8 images, short side 24 px" in capsys.readouterr().out
    assert len(decoded) == len(SIZES)
    again = make(manifest, tmp_path)
    assert f"kept from before in {first.folder}" in capsys.readouterr().out
    assert len(decoded) == len(SIZES)
    for name in ("sha256", "heights", "widths", "shards", "offsets"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert_right(again, manifest)


def test_a_changed_file_makes_another_pack(tmp_path: Path) -> None:
    photos(tmp_path / "data")
    first = make(scanned(tmp_path / "data"), tmp_path)
    Image.new("RGB", (30, 30), "red").save(tmp_path / "data/cat/0.png")
    manifest = scanned(tmp_path / "data")
    with pytest.raises(DataError, match=r"cat/0\.png is not in pack .*; pack again"):
        first.slots(manifest)
    second = make(manifest, tmp_path)
    assert second.folder != first.folder
    assert_right(second, manifest)


def test_slots_of_rows_that_cannot_be_used_are_negative(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data")).quarantine({2: "dull"})
    made = make(manifest, tmp_path)
    slots = made.slots(manifest)
    assert np.flatnonzero(slots < 0).tolist() == [2]
    heights, widths = made.sizes(slots)
    assert (heights[2], widths[2]) == (0, 0)
    assert (np.delete(heights, 2) > 0).all()


@pytest.mark.parametrize("edit", ["content", "size", "vanished"])
def test_a_file_that_changed_since_it_was_checked_is_named(tmp_path: Path, edit: str) -> None:
    """Its pixels would lie under the name of what it was, in its neighbours' place if it grew."""
    manifest = scanned(photos(tmp_path / "data"))
    path = tmp_path / "data/cat/0.png"
    if edit == "vanished":
        path.unlink()
    else:
        Image.new("RGB", (60, 40) if edit == "content" else (900, 40), "red").save(path)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* run `fanlight check` again"):
        make(manifest, tmp_path)
    assert pack.load(tmp_path / pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).key) is None


# --- what cannot be decoded


def test_an_undecodable_image_is_quarantined_by_name(tmp_path: Path, decoded: list[int]) -> None:
    photos(tmp_path / "data")
    spoil(tmp_path / "data/cat/4.png")
    (tmp_path / "data/dog/also.png").write_bytes((tmp_path / "data/cat/4.png").read_bytes())
    manifest = scanned(tmp_path / "data")
    paths = manifest.column("path").tolist()
    rows = sorted((paths.index("cat/4.png"), paths.index("dog/also.png")))
    assert manifest.ok.all()
    made = make(manifest, tmp_path)
    assert list(made.failed) == [manifest.column("sha256")[rows[0]]]
    marked = made.mark_failed(manifest)
    assert np.flatnonzero(~marked.ok).tolist() == rows
    assert marked.column("reason")[rows[0]] == made.failed[marked.column("sha256")[rows[0]]]
    assert marked.column("reason")[rows[0]].startswith(("truncated PNG", "damaged PNG"))
    assert_right(made, marked)
    count = len(decoded)
    again = make(marked, tmp_path)
    assert again.folder == made.folder, "the manifest without the bad image opens the same pack"
    assert again.failed == made.failed
    assert len(decoded) == count


def test_a_pack_without_failures_leaves_the_manifest(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    assert make(manifest, tmp_path).mark_failed(manifest) is manifest


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
    with pytest.raises(DataError) as caught:
        make(manifest, tmp_path / "packs")
    message = str(caught.value)
    assert message.startswith(
        f"the pack needs {bytes_text(needed)} and {tmp_path / 'packs'} has {bytes_text(usable)} free"
    )
    assert "--pack-dir" in message and "--no-pack" in message
    found = re.search(r"data\.canvas_px=(\d+) would fit", message)
    assert found is not None
    fits = int(found[1])
    assert pack.plan(manifest, canvas_px=fits).bytes <= usable < pack.plan(manifest, canvas_px=fits + 1).bytes
    assert not decoded
    assert_right(make(manifest, tmp_path / "packs", canvas_px=fits), manifest, canvas_px=fits)


def test_no_canvas_fits_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    free_bytes(monkeypatch, 0)
    with pytest.raises(DataError, match=r"has 0 bytes free; --pack-dir names another disk"):
        make(manifest, tmp_path)


def test_a_reserve_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    needed = pack.plan(manifest, canvas_px=CANVAS_PX).bytes
    free_bytes(monkeypatch, needed + 1)
    with pytest.raises(DataError, match="the pack needs"):
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
        with pytest.raises(DataError) as caught:
            make(manifest, tmp_path / "packs")
    chosen = plan.shards == shards_before
    size = bytes_text(int((plan.heights * plan.widths * 3)[chosen].sum()))
    assert f"cannot make a pack in {tmp_path / 'packs'}: No space left on device for the next {size}." in str(
        caught.value
    )
    assert "--pack-dir" in str(caught.value) and "--no-pack" in str(caught.value)
    assert calls[0] == NPY_HEAD + int((plan.heights * plan.widths * 3)[plan.shards == 0].sum())
    names = sorted(path.name for path in (tmp_path / "packs" / plan.key).glob("pixels-*"))
    assert names == ["pixels-00000.npy"][:shards_before], "what was reserved is given back"
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
    with pytest.raises(DataError, match=r"cannot make a pack in .*/file: Not a directory\..* --pack-dir"):
        make(manifest, tmp_path / "file")
    folder = tmp_path / "packs" / pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES).key
    (folder / ".lock").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot make a pack in .*/packs: Is a directory\..* --no-pack"):
        make(manifest, tmp_path / "packs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    (tmp_path / "packs").mkdir(mode=0o555)
    with pytest.raises(DataError, match=r"cannot make a pack in .*/packs: Permission denied"):
        make(manifest, tmp_path / "packs")


def test_an_error_of_the_disk_after_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scanned(photos(tmp_path / "data"))

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as context:
        context.setattr(pack.pq, "write_table", full)
        with pytest.raises(DataError, match=r"cannot make a pack in .*: Disk quota exceeded"):
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
