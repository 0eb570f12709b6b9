import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanlight.data import cache, pack
from fanlight.data.formats import recognise
from fanlight.data.scan import scan


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(count))
    return path


def test_the_folder_is_the_environment_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "own"
    monkeypatch.setenv("FANLIGHT_CACHE", "~/own")
    assert cache.folder() == tmp_path / "own"
    monkeypatch.setenv("FANLIGHT_CACHE", "")
    assert cache.folder() == tmp_path / "xdg/fanlight"
    monkeypatch.delenv("FANLIGHT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == tmp_path / ".cache/fanlight"
    assert not list(tmp_path.iterdir()), "asking makes nothing"


def test_a_manifest_is_kept_by_where_its_data_is(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    kept = cache.manifest_path(str(tmp_path / "photos"))
    assert kept.parent == place / "manifests" and kept.suffix == ".parquet"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for same in ("photos", "photos/", "./photos/../photos", "link", "~/photos"):
        assert cache.manifest_path(same) == kept, same
    built_in = cache.manifest_path("digits")
    assert len({kept, built_in, cache.manifest_path(str(tmp_path))}) == 3
    (tmp_path / "digits").mkdir()
    assert cache.manifest_path("digits") != built_in, "an existing path wins over a built-in name"


def test_entries_are_everything_largest_first(place: Path) -> None:
    assert cache.entries() == []
    write(place / "packs/abc/pixels-00000.npy", 1000)
    (place / "packs/abc/pack.json").write_text(json.dumps({"images": 3, "canvas_px": 24}))
    write(place / "packs/half/pixels-00000.part", 500)
    write(place / "manifests/m.parquet", 20)
    write(place / "builtin/digits-v1/0/1.png", 70)
    write(place / "other/file", 10_000)
    found = cache.entries()
    assert [(entry.kind, entry.path.relative_to(place).as_posix(), entry.text) for entry in found] == [
        ("pack", "packs/abc", "3 images, short side 24 px"),
        ("pack", "packs/half", "unfinished"),
        ("built-in", "builtin/digits-v1", "digits-v1"),
        ("manifest", "manifests/m.parquet", ""),
    ]
    assert [entry.bytes for entry in found] == [1000 + (place / "packs/abc/pack.json").stat().st_size, 500, 70, 20]


def test_a_real_pack_is_listed_in_words(place: Path, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (9, 9), "red" if label == "a" else "blue").save(tmp_path / "data" / label / "1.png")
    manifest = scan(recognise(str(tmp_path / "data"), cache=place), workers=1)
    made = pack.make(manifest, canvas_px=5, parent=place / "packs", workers=1)
    (entry,) = cache.entries()
    assert (entry.path, entry.kind, entry.text) == (made.folder, "pack", "2 images, short side 5 px")
    assert entry.bytes >= made.bytes


def test_clear_deletes_its_own_folders_and_nothing_beside_them(place: Path) -> None:
    outside = write(place / "notes.txt", 5)
    other = write(place / "models/weights", 5)
    write(place / "packs/abc/pixels-00000.npy", 1000)
    write(place / "manifests/m.parquet", 20)
    write(place / "builtin/digits-v1/0/1.png", 70)
    assert cache.clear() == 1090
    assert sorted(place.iterdir()) == [other.parent, outside]
    assert other.exists()
    assert cache.entries() == []
    assert cache.clear() == 0


def test_clear_follows_no_link_out_of_the_cache_and_counts_what_it_freed(place: Path, tmp_path: Path) -> None:
    precious = write(tmp_path / "precious/photo", 100)
    write(place / "manifests/m.parquet", 20)
    (place / "packs").symlink_to(precious.parent)
    os.symlink(precious.parent, place / "manifests/link")
    cache.clear()
    assert precious.exists()
    assert not (place / "manifests").exists()
    assert cache.clear() == 0, "the linked folder stays, so nothing was freed"


def test_clear_where_there_is_no_cache(place: Path) -> None:
    assert cache.clear() == 0
    assert not place.exists()


def test_bytes_are_of_all_depths(place: Path) -> None:
    sizes = np.random.default_rng(0).integers(0, 50, 6).tolist()
    for number, count in enumerate(sizes):
        write(place / "builtin/x" / "/".join("abc"[: number % 4]) / f"{number}", count)
    (entry,) = cache.entries()
    assert entry.bytes == sum(sizes)
