import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import layouts
from data.checking import check
from fanlight.data import cache, checkup, manifest, scan
from fanlight.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits of two classes with a text file, a damaged PNG, a copy, a copy under two labels and one in two splits."""
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in ("train/cat/0", "train/cat/1", "train/cat/2", "train/dog/0", "train/dog/1", "test/cat/0", "test/dog/0"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
    copies = {"train/cat/2": "train/cat/copy", "train/cat/1": "train/dog/conflict", "train/dog/0": "test/dog/leak"}
    for source, copy in copies.items():
        (root / f"{copy}.png").write_bytes((root / f"{source}.png").read_bytes())
    (root / "train/dog/notes.jpg").write_text("no image")
    good = (root / "train/dog/1.png").read_bytes()
    start = good.index(b"IDAT")
    (root / "train/cat/broken.png").write_bytes(good[: start + 20] + good[-12:])
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read."""
    names: list[str] = []
    read_file = scan.read_file

    def noting(path: Path) -> bytes:
        names.append(path.name)
        return read_file(path)

    monkeypatch.setattr(scan, "read_file", noting)
    return names


def test_the_object_has_every_promised_key(data: Path) -> None:
    document = check(str(data), workers=2, out=None)
    assert json.loads(json.dumps(document)) == document, "plain containers and numbers only"
    kept = document.pop("manifest")
    quarantined = document.pop("quarantined")
    assert document == {
        "images": 10,
        "classes": {"cat": 5, "dog": 5},
        "splits": {"train": 7, "test": 3},
        "audit": "quick",
        "exact_copies": 3,
        "near_copies": 0,
        "frame_runs": [],
        "unjudged": 0,
        "copy_groups": [
            ["test/dog/leak.png", "train/dog/0.png"],
            ["train/cat/1.png", "train/dog/conflict.png"],
            ["train/cat/2.png", "train/cat/copy.png"],
        ],
        "label_conflicts": [{"paths": ["train/cat/1.png", "train/dog/conflict.png"], "labels": ["cat", "dog"]}],
        "leaks": [{"of": "copies", "paths": ["test/dog/leak.png", "train/dog/0.png"], "splits": ["test", "train"]}],
    }
    assert [item["path"] for item in quarantined] == ["train/cat/broken.png", "train/dog/notes.jpg"]
    assert quarantined[0]["reason"].startswith(("truncated PNG", "damaged PNG"))
    assert quarantined[1] == {"path": "train/dog/notes.jpg", "reason": "not an image: starts with b'no image'"}
    assert kept == str(cache.manifest_path(str(data)))
    assert manifest.load(Path(kept)).ok.sum() == 10


def test_what_was_found_is_printed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(str(data), workers=2, out=None)
    out = capsys.readouterr().out
    for line in (
        f"10 images in 2 classes, from class folders in train/ and test/ in {data}",
        "5  cat",
        "Splits: test 3, train 7",
        "Largest class / smallest class: 1.0",
        "2 quarantined:",
        "train/dog/notes.jpg: not an image",
        "Exact copies of another image: 3",
        "1 copies under several labels:",
        "train/cat/1.png = train/dog/conflict.png",
        "1 copies in several splits:",
    ):
        assert line in out


def test_long_lists_are_cut_on_the_console_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(checkup.SHOWN + 3):
        (data / f"train/cat/text{number:02d}.jpg").write_text(f"no image {number}")
    document = check(str(data), workers=2, out=None)
    assert len(document["quarantined"]) == checkup.SHOWN + 5
    out = capsys.readouterr().out
    assert f"{checkup.SHOWN + 5} quarantined:" in out
    assert "… and 5 more; --json lists all" in out
    assert out.count(": not an image") + out.count("PNG:") == checkup.SHOWN


def test_names_are_escaped_and_shortened_where_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    long = "y" * 150
    for label in ("x\x1b[31m", long):
        for number in range(2):
            layouts.write(tmp_path / "set", {f"{label}/{number}.jpg": layouts.jpeg(0, number + len(label))})
    layouts.write(tmp_path / "set", {"x\x1b[31m/bad\n.jpg": b"no image"})
    document = check(str(tmp_path / "set"), workers=1, out=None)
    out = capsys.readouterr().out
    assert document["classes"] == {"x\x1b[31m": 2, long: 2}, "the object has them whole"
    assert "      2  x\\x1b[31m\n" in out and f"      2  {'y' * 79}…\n" in out
    assert "x\\x1b[31m/bad\\n.jpg: " in out


def test_data_without_splits_says_so(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = check(str(data / "train"), workers=1, out=None)
    assert document["splits"] == {"none given": 7}
    assert "Splits: none given 7" in capsys.readouterr().out


def test_a_second_check_reads_no_file(data: Path, read: list[str]) -> None:
    first = check(str(data), workers=2, out=None)
    assert sorted(read) == sorted(path.name for path in data.rglob("*") if path.is_file())
    read.clear()
    assert check(str(data), workers=2, out=None) == first
    assert read == []


def test_only_changed_and_new_files_are_read_again(data: Path, read: list[str]) -> None:
    check(str(data), workers=2, out=None)
    read.clear()
    Image.new("RGB", (8, 8)).save(data / "train/dog/new.png")
    os.utime(data / "train/cat/0.png", ns=(1, 1))
    (data / "test/cat/0.png").unlink()
    document = check(str(data), workers=2, out=None)
    assert sorted(read) == ["0.png", "new.png"]
    assert document["images"] == 10
    assert document["classes"] == {"cat": 4, "dog": 6}


def test_checking_decodes_what_was_only_looked_at(data: Path, read: list[str]) -> None:
    quick = checkup.up_to_date(str(data), decode=False, workers=2)
    assert "train/cat/broken.png" in quick.column("path")[quick.ok]
    read.clear()
    document = check(str(data), workers=2, out=None)
    assert "train/cat/broken.png" in [item["path"] for item in document["quarantined"]]
    assert len(read) == 11, "all but the file that is known to be no image"
    read.clear()
    whole = checkup.up_to_date(str(data), decode=False, workers=2)
    assert read == []
    assert "train/cat/broken.png" not in whole.column("path")[whole.ok], "what was found once stays found"


def test_a_kept_manifest_of_another_version_is_made_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    first = check(str(data), workers=2, out=None)
    read.clear()
    monkeypatch.setattr(manifest, "VERSION", manifest.VERSION + 1)
    assert check(str(data), workers=2, out=None) == first
    assert len(read) == 12
    cache.manifest_path(str(data)).write_bytes(b"PAR1 and no more")
    read.clear()
    assert check(str(data), workers=2, out=None) == first
    assert len(read) == 12


def test_the_manifest_goes_where_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.parquet"
    document = check(str(data), workers=2, out=kept)
    assert document["manifest"] == str(kept)
    audited, _ = checkup.examine(str(data))
    assert manifest.load(kept).table.equals(audited.table)
    assert len(set(audited.column("copies")) - {""}) == 3


def test_a_manifest_that_cannot_be_written_where_asked(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out .*/none/m\.parquet cannot be written: .*; use another path"):
        check(str(data), workers=2, out=tmp_path / "none/m.parquet")


def test_without_a_cache_it_warns_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "file"))
    found = checkup.up_to_date(str(data), decode=False, workers=2)
    assert found.ok.sum() == 11
    warning = capsys.readouterr().err
    assert "Warning: the manifest cannot be kept in" in warning and "Set FANLIGHT_CACHE" in warning


def test_no_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="does not exist"):
        check(str(tmp_path / "nothing"), workers=1, out=None)
