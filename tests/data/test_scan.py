import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanlight.data import canvas
from fanlight.data import scan as scan_module
from fanlight.data.formats import Listing, recognise
from fanlight.data.manifest import Manifest
from fanlight.data.scan import scan
from fanlight.errors import DataError


def photos(root: Path, count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (10 + number, 20, 3), dtype=np.uint8)).save(
                root / label / f"{number}.png"
            )
    return root


def listed(root: Path) -> Listing:
    return recognise(str(root), cache=root / "unused")


def facts(manifest: Manifest) -> list[dict[str, object]]:
    return manifest.table.to_pylist()


def test_facts_of_good_files(tmp_path: Path) -> None:
    manifest = scan(listed(photos(tmp_path)), workers=2)
    assert len(manifest) == 6
    row = facts(manifest)[4]
    data = (tmp_path / "dog/1.png").read_bytes()
    assert row == {
        "path": "dog/1.png",
        "label": "dog",
        "split": "",
        "group": hashlib.sha256(data).hexdigest(),
        "copies": "",
        "film": "",
        "captions": "",
        "weight": "",
        "width": 20,
        "height": 11,
        "format": "PNG",
        "bytes": len(data),
        "mtime_ns": (tmp_path / "dog/1.png").stat().st_mtime_ns,
        "sha256": hashlib.sha256(data).hexdigest(),
        "status": "ok",
        "reason": "",
        "decoded": False,
    }
    assert (manifest.root, manifest.classes, manifest.source) == (tmp_path, ("cat", "dog"), "class folders")
    assert manifest.changed() == []


def test_bad_files_are_quarantined_by_name(tmp_path: Path) -> None:
    photos(tmp_path)
    good = (tmp_path / "cat/2.png").read_bytes()
    idat = good.index(b"IDAT")
    (tmp_path / "cat/broken.png").write_bytes(good[: idat + 30] + good[-12:])
    (tmp_path / "cat/empty.jpg").touch()
    (tmp_path / "dog/notes.jpg").write_text("no image")
    (tmp_path / "dog/lost.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "dog/gif.jpg").write_bytes((tmp_path / "dog/1.png").read_bytes())

    quick = scan(listed(tmp_path), workers=2)
    reasons = {row["path"]: row["reason"] for row in facts(quick) if row["status"] == "quarantined"}
    assert reasons == {
        "cat/empty.jpg": "empty file",
        "dog/notes.jpg": "not an image: starts with b'no image'",
        "dog/lost.jpg": "file not found",
    }
    whole = scan(listed(tmp_path), known=quick, workers=2, decode=True)
    reasons = {row["path"]: row["reason"] for row in facts(whole) if row["status"] == "quarantined"}
    assert len(reasons) == 4
    assert str(reasons["cat/broken.png"]).startswith(("truncated", "damaged"))
    assert whole.column("decoded").tolist() == whole.ok.tolist()


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path)
    (tmp_path / "dog/notes.jpg").write_text("no image")
    first = scan(listed(tmp_path), workers=2, decode=True)
    read: list[int] = []
    monkeypatch.setattr(scan_module, "header", lambda data: read.append(len(data)) or canvas.header(data))
    again = scan(listed(tmp_path), known=first, workers=2, decode=True)
    assert read == []
    assert facts(again) == facts(first)
    os.utime(tmp_path / "cat/0.png", ns=(1, 1))
    (tmp_path / "cat/1.png").write_bytes((tmp_path / "cat/0.png").read_bytes())
    changed = scan(listed(tmp_path), known=first, workers=2)
    assert len(read) == 2
    assert changed.column("sha256")[0] == changed.column("sha256")[1]
    assert changed.column("mtime_ns")[0] == 1
    scan(listed(tmp_path), known=scan(listed(tmp_path), workers=1), workers=1, decode=True)
    assert len(read) == 2 + 7 + 6  # decoding asks for the headers' files once more, not for what is known to be bad


def test_labels_and_groups_are_the_listing_s_not_the_earlier_manifest_s(tmp_path: Path) -> None:
    photos(tmp_path)
    first = scan(listed(tmp_path), workers=1)
    paths = ["cat/0.png", "dog/0.png", "dog/1.png"]
    other = Listing(tmp_path, "list", paths, ["a", "b", "b"], ["train", "", "test"], ["g", "", "g"])
    manifest = scan(other, known=first, workers=1)
    assert manifest.classes == ("a", "b")
    assert manifest.column("group").tolist() == ["g", manifest.column("sha256")[1], "g"]
    assert manifest.column("split").tolist() == ["train", "", "test"]


def test_many_chunks_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "CHUNK_FILES", 2)
    manifest = scan(listed(photos(tmp_path, 15)), workers=3)
    assert manifest.column("height").tolist() == [10 + int(path[4:-4]) for path in manifest.column("path")]


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"none of the 2 files .* \(cat/a.txt: not an image"):
        scan(listed(tmp_path), workers=1)


def test_what_is_no_regular_file_is_quarantined_and_not_waited_for(tmp_path: Path) -> None:
    listing = listed(photos(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cat/pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "cat/device").symlink_to("/dev/null")
    paths = ["cat/pipe", "cat/device", "cat/zero\0byte", "cat"]
    more = replace(
        listing, paths=listing.paths + paths, labels=listing.labels + ["cat"] * 4, splits=listing.splits + [""] * 4,
        groups=listing.groups + [""] * 4,
    )  # fmt: skip
    found = {row["path"]: row["reason"] for row in facts(scan(more, workers=2)) if row["status"] != "ok"}
    assert found == {
        "cat/pipe": "cannot be read: not a regular file", "cat/device": "cannot be read: not a regular file",
        "cat/zero\0byte": "file not found", "cat": "cannot be read: Is a directory",
    }  # fmt: skip


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path)
    (root / "emu").mkdir()
    (root / "emu" / "1.png").write_text("no picture")
    (root / "emu" / "2.png").touch()
    manifest = scan(listed(root), workers=1)
    assert manifest.classes == ("cat", "dog") and len(manifest) == 8
    said = " ".join(capsys.readouterr().err.split())
    assert "class emu has no image that can be read, and is left out" in said
    assert "2 file(s), such as emu/1.png: not an image" in said
