"""What a contest runs on and how: its photos, its splits, its processes and what it reads from them."""

import io
import json
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from contest import contestants, measure, photos

BENCHMARKS = Path(contestants.__file__).parent.parent


def picture(path, seed, *, px=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    for label in ("rain", "shine"):
        for index in range(20):
            picture(tmp_path / "photos" / label / f"{index:02d}.png", index + (100 if label == "rain" else 0))
    for index in range(10):  # ten copies of one picture: they must not be parted
        (tmp_path / "photos" / "rain" / f"copy{index}.png").write_bytes((tmp_path / "photos/rain/00.png").read_bytes())
    return tmp_path / "photos"


def test_the_split_is_the_same_every_time_and_keeps_copies_together(folder):
    parts = photos.split(folder, val_share=0.3)
    assert parts == photos.split(folder, val_share=0.3)
    copies = {"00.png", *(f"copy{index}.png" for index in range(10))}
    val = copies & set(parts["val"]["rain"])
    assert val in (set(), copies)
    assert len(parts["val"]["shine"]) == 6 and len(parts["train"]["shine"]) == 14
    assert parts != photos.split(folder, val_share=0.3, seed=1)


def test_a_limited_split_has_equally_many_of_each_class(folder):
    parts = photos.split(folder, limit=20)
    sizes = {name: len(parts["train"][name]) + len(parts["val"][name]) for name in ("rain", "shine")}
    assert sizes == {"rain": 10, "shine": 10}


def test_laid_out_photos_are_links_and_are_counted(folder, tmp_path):
    out = photos.lay_out(folder, photos.split(folder), tmp_path / "out")
    assert photos.counts(out)[0] + photos.counts(out)[1] == 50 and photos.counts(out)[2] == 2
    link = next((out / "val" / "rain").iterdir())
    assert link.is_symlink() and link.read_bytes() == (folder / "rain" / link.name).read_bytes()


@pytest.mark.parametrize("kind", ["flat", "busy"])
def test_a_large_photo_weighs_what_a_camera_s_does(kind):
    small = np.full((90, 140, 3), 128, np.uint8)
    if kind == "busy":
        small = np.random.default_rng(0).integers(0, 256, small.shape, dtype=np.uint8)
    data = photos.large_photo(small, key=7)
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert photos.PIXELS_LOW <= height * width <= photos.PIXELS_HIGH
    assert photos.BYTES_LOW <= len(data) <= photos.BYTES_HIGH
    assert width / height == pytest.approx(140 / 90, rel=0.01)


def test_small_copies_have_the_short_side_asked_for(tmp_path):
    (tmp_path / "large/train/rain").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "large/train/rain/a.jpg"), np.zeros((60, 90, 3), np.uint8))
    out = photos.make_small(tmp_path / "large", tmp_path / "small", short_px=30)
    assert cv2.imread(str(out / "train/rain/a.jpg")).shape == (30, 45, 3)


def test_an_archive_gives_the_first_of_each_class_and_writes_nowhere_else(tmp_path):
    archive = tmp_path / "a.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        names = [f"{part}/{label}/{i}.jpg" for part in ("train", "test") for label in ("cat", "dog") for i in range(5)]
        for name in [*names, "../evil.jpg", "train/../evil.jpg", "train/cat/deep/x.jpg"]:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("train/cat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    out = photos.unpack_cifar(archive, tmp_path / "inner" / "cifar", train=6, val=4)
    assert photos.counts(out) == (6, 4, 2)
    assert (out / "train/cat/00002.jpg").read_bytes() == b"train/cat/2.jpg"
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.xz", "inner"}
    assert not any(path.is_symlink() for path in out.rglob("*"))


def python(code, tmp_path, **given):
    return measure.run([sys.executable, "-c", code], env={}, log=tmp_path / "log", sample_s=0.05, share=1.0, **given)


def test_a_run_is_measured_with_its_children(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', \"b = bytearray(80_000_000); import time; time.sleep(1)\"])\n"
        "sum(range(2_000_000)); child.wait(); print('told'); print('why', file=sys.stderr); sys.exit(3)"
    )
    finished = python(code, tmp_path)
    assert finished.code == 3 and finished.output == "told\n" and finished.errors == "why\n"
    assert finished.peak_bytes > 80_000_000 and finished.cpu_s > 0 and finished.wall_s > 0 and not finished.is_capped


def test_a_run_past_its_time_is_ended_with_its_children(tmp_path):
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    finished = python(code, tmp_path, cap_s=0.2)
    assert finished.is_capped and finished.code < 0


def test_what_a_peer_s_script_prints_is_what_the_driver_reads(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS / 'peers')!r})\n"
        "import job\n"
        "diary = job.Diary(); print('its own words'); diary.phase('train'); diary.epoch(0.25); diary.epoch(0.5)\n"
        "diary.done(count=10, images=80, steps=4)"
    )
    told = contestants.of_peer(python(code, tmp_path))
    assert told["accuracy"] == 0.5 and told["count"] == 10 and told["images"] == 80
    assert [accuracy for _, accuracy in told["curve"]] == [0.25, 0.5]
    assert told["validated_s"] == told["curve"][-1][0] > 0 and told["phases"]["train_s"] >= 0
    assert told["images_per_s"] == pytest.approx(80 / told["validated_s"])


def test_a_peer_that_says_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no validation"):
        contestants.of_peer(python("print('hello')", tmp_path))


def test_fanlight_s_curve_ends_at_its_wall_seconds(tmp_path):
    rows = [
        {"kind": "train", "epoch": 1, "seconds_in": 4.0},
        {"kind": "evaluate", "split": "val", "accuracy": 0.5, "seconds_in": 5.0},
        {"kind": "evaluate", "split": "val", "accuracy": 0.75, "seconds_in": 9.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    summary = {"wall_s": 12.0, "steps": 6, "batch_size": 4, "train_s": 8.0, "metrics": {"val": {"count": 5}}}
    told = contestants.of_fanlight(tmp_path, json.dumps(summary))
    assert told["curve"] == [[8.0, 0.5], [12.0, 0.75]] and told["images_per_s"] == 2.0 and told["count"] == 5


def test_a_run_starts_from_empty_caches_and_a_failure_is_told(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.cache").write_text("of another run")
    left = tmp_path / "work/caches/bad/old"
    left.mkdir(parents=True)
    script = tmp_path / "bad.py"
    script.write_text("import os, sys; print(os.listdir(os.environ['HF_HOME'])) ; sys.exit('no such wheel')")
    monkeypatch.setattr(contestants, "PEERS", tmp_path)
    record = contestants.run(
        contestants.Contestant("bad", "bad.py"), contestants.Job(tmp_path / "data"), work=tmp_path / "work", seed=0,
        epochs=1, cap_s=None,
    )  # fmt: skip
    assert record["error"].startswith("ValueError: exit code 1") and "FileNotFoundError" in record["error"]
    assert not left.exists() and not (tmp_path / "data" / "train.cache").exists()


def test_the_package_imports_no_peer():
    import fanlight

    names = ("lightning", "transformers", "ultralytics", "datasets", "accelerate")
    sources = [path.read_text() for path in Path(fanlight.__file__).parent.rglob("*.py")]
    assert not [n for n in names for text in sources if f"import {n}" in text or f"from {n}" in text]
