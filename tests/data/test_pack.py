import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.packs import (
    CANVAS_PX,
    NPY_HEAD,
    SHARD_BYTES,
    SIZES,
    assert_right,
    make,
    of_sizes,
    photos,
    scanned,
    spoil,
)
from fanlight.data import canvas, pack
from fanlight.data.engines import chunks
from fanlight.errors import DataError

pytest_plugins = ["data.fixtures"]

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
    monkeypatch.setattr(chunks, "TASK_NS", (1, 1))  # one image per task
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
