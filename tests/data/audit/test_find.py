"""What is found in folders of tens of pictures."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.audit.pictures import HEIGHT, WIDTH, folder_of, jpeg, picture, png, strangers, turned
from fanlight.data import audit, cache, copies
from fanlight.data import manifest as manifests
from fanlight.data.audit import signature as signatures
from fanlight.data.manifest import Manifest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def groups(manifest: Manifest, found: audit.Audit) -> list[set[str]]:
    paths = manifest.column("path")
    return [{str(paths[row]) for row in rows} for rows in found.groups()]


def kinds(manifest: Manifest, found: audit.Audit) -> dict[frozenset[str], str]:
    paths = manifest.column("path")
    pairs = zip(paths[found.row_a], paths[found.row_b], found.kind)
    return {frozenset((str(a), str(b))): audit.KINDS[kind] for a, b, kind in pairs}


def test_every_kind_is_found_and_named(tmp_path: Path) -> None:
    one, two, three, four = (picture(number) for number in range(4))
    commented = Image.fromarray(cv2.cvtColor(two, cv2.COLOR_BGR2RGB))
    commented.save(tmp_path / "two.png", compress_level=0)
    files = strangers(12) | {
        "a/one.jpg": jpeg(one), "b/same bytes.jpg": jpeg(one),
        "a/two.png": png(two), "a/two pixels.png": (tmp_path / "two.png").read_bytes(),
        "a/three.jpg": jpeg(three), "a/three q30.jpg": jpeg(three, 30),
        "a/four.jpg": jpeg(four), "b/four turned.jpg": jpeg(turned(four, 23)),
    }  # fmt: skip
    manifest = folder_of(tmp_path / "data", files)
    quick = audit.find(manifest, thorough=False, workers=2)
    assert kinds(manifest, quick) == {
        frozenset({"a/one.jpg", "b/same bytes.jpg"}): "bytes",
        frozenset({"a/two.png", "a/two pixels.png"}): "pixels",
        frozenset({"a/three.jpg", "a/three q30.jpg"}): "near",
    }
    thorough = audit.find(manifest, thorough=True, workers=2)
    assert kinds(manifest, thorough) == kinds(manifest, quick) | {
        frozenset({"a/four.jpg", "b/four turned.jpg"}): "turned"
    }
    assert thorough.counts() == {"bytes": 1, "pixels": 1, "near": 1, "turned": 1, "frame": 0}
    assert (thorough.row_a < thorough.row_b).all() and (thorough.evidence <= 1).all()
    first = {"a/one.jpg", "a/two pixels.png", "a/three q30.jpg", "a/four.jpg"}  # in path order
    assert set(thorough.names) == {hashlib.sha256(files[path]).hexdigest() for path in first}
    assert (thorough.copies() != "").sum() == 8 and thorough.judged.all() and thorough.unjudged == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:, ::-1], lambda image: image[::-1], lambda image: image[::-1, ::-1],
        lambda image: np.rot90(image), lambda image: np.rot90(image, 3), lambda image: image.transpose(1, 0, 2),
        lambda image: np.rot90(image).transpose(1, 0, 2)[::-1],
        lambda image: cv2.resize(image, (90, 70), interpolation=cv2.INTER_AREA),
        lambda image: np.clip(image * 0.75 + 30.0, 0, 255).astype(np.uint8),
    ],
)  # fmt: skip
def test_a_quick_audit_knows_flips_quarter_turns_sizes_and_brightness(change, tmp_path: Path) -> None:
    files = strangers(8) | {"a/x.jpg": jpeg(picture(5)), "b/y.jpg": jpeg(change(picture(5)), 60)}
    manifest = folder_of(tmp_path / "data", files)
    assert groups(manifest, audit.find(manifest, thorough=False, workers=1)) == [{"a/x.jpg", "b/y.jpg"}]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: turned(image, 10), lambda image: turned(image, -25)[:, ::-1], lambda image: turned(image, 80),
        lambda image: turned(image, 147)[::-1],
        lambda image: image[:84, 30:], lambda image: turned(image, 0, zoom=1.5),
    ],
)  # fmt: skip
def test_a_thorough_audit_knows_any_angle_crops_and_zooms(change, tmp_path: Path) -> None:
    files = strangers(8) | {"a/x.jpg": jpeg(picture(6)), "b/y.jpg": jpeg(change(picture(6)))}
    manifest = folder_of(tmp_path / "data", files)
    assert groups(manifest, audit.find(manifest, thorough=False, workers=1)) == []
    assert groups(manifest, audit.find(manifest, thorough=True, workers=1)) == [{"a/x.jpg", "b/y.jpg"}]


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    found = audit.find(folder_of(tmp_path / "data", strangers(40)), thorough=True, workers=2)
    assert not found.counts()["near"] and not found.counts()["turned"] and not found.groups()
    assert (found.component == -1).all() and set(found.copies()) == {""}


def test_small_pictures_do_not_flood(tmp_path: Path) -> None:
    small = [picture(number, width=32, height=32) for number in range(60)]
    files = {f"{'ab'[number % 2]}/{number}x.png": png(image) for number, image in enumerate(small)}
    files |= {"a/copy.jpg": jpeg(small[7], 80), "b/mirror.png": png(small[8][:, ::-1])}
    manifest = folder_of(tmp_path / "data", files)
    wanted = [{"a/8x.png", "b/mirror.png"}, {"a/copy.jpg", "b/7x.png"}]
    assert sorted(map(sorted, groups(manifest, audit.find(manifest, thorough=True, workers=1)))) == sorted(
        map(sorted, wanted)
    )


def test_blank_pictures_are_counted_and_not_grouped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    blank = {}
    for number in range(12):
        image = np.full((HEIGHT, WIDTH, 3), 4 * number, np.float64) + random.normal(0, 1, (HEIGHT, WIDTH, 3))
        blank[f"a/blank{'x' * number}.jpg"] = jpeg(np.clip(image, 0, 255).astype(np.uint8))
    ramp = np.repeat(np.linspace(0, 200, WIDTH)[None, :, None], HEIGHT, 0).repeat(3, 2)
    for number in range(4):  # a plain gradient is like any other
        blank[f"b/ramp{'x' * number}.jpg"] = jpeg((ramp * (0.5 + number / 8)).astype(np.uint8))
    blank |= {"b/black.jpg": blank["a/blank.jpg"]}  # but the same bytes are a copy
    manifest = folder_of(tmp_path / "data", blank | strangers(10))
    found = audit.find(manifest, thorough=True, workers=2)
    assert groups(manifest, found) == [{"a/blank.jpg", "b/black.jpg"}]
    assert found.unjudged == 17 and found.judged.sum() == 10


def test_rows_are_the_manifest_s_and_quarantined_ones_stay_out(tmp_path: Path) -> None:
    files = strangers(6) | {"a/0.jpg": b"no image", "a/x.jpg": jpeg(picture(1)), "b/cut.jpg": jpeg(picture(1))[:1500]}
    files |= {"b/y.jpg": jpeg(picture(1), 50), "b/z.jpg": jpeg(picture(1), 50)}
    manifest = folder_of(tmp_path / "data", files)
    found = audit.find(manifest, thorough=False, workers=1)
    assert groups(manifest, found) == [{"a/x.jpg", "b/y.jpg", "b/z.jpg"}]
    assert len(found.component) == len(manifest) and (found.component[~manifest.ok] == -1).all()
    assert not found.judged[~manifest.ok].any() and found.unjudged == 0


def test_a_file_that_breaks_off_inside_is_no_reason_to_stop(tmp_path: Path) -> None:
    whole = png(picture(3))
    middle = whole.index(b"IDAT") + 200
    files = strangers(4) | {"a/broken.png": whole[:middle] + whole[-12:]}
    manifest = folder_of(tmp_path / "data", files)
    assert manifest.ok.all(), "its header is good"
    found = audit.find(manifest, thorough=False, workers=1)
    assert found.unjudged == 1 and not found.groups()


def test_labels_and_splits_of_copies(tmp_path: Path) -> None:
    files = {f"train/{path}": data for path, data in strangers(6).items()}
    files |= {"train/a/x.jpg": jpeg(picture(1)), "val/b/x.jpg": jpeg(picture(1), 60)}
    files |= {"train/a/y.jpg": jpeg(picture(2)), "train/b/y.jpg": jpeg(picture(2), 60)}
    files |= {"train/a/z.jpg": jpeg(picture(3)), "val/a/z.jpg": jpeg(picture(3)[:, ::-1])}
    manifest = folder_of(tmp_path / "data", files)
    found = manifests.audit(copies.find(manifest, "quick", workers=1)[0])
    assert found["label_conflicts"] == [
        {"paths": ["train/a/x.jpg", "val/b/x.jpg"], "labels": ["a", "b"]},
        {"paths": ["train/a/y.jpg", "train/b/y.jpg"], "labels": ["a", "b"]},
    ]
    assert found["leaks"] == [
        {"of": "copies", "paths": ["train/a/x.jpg", "val/b/x.jpg"], "splits": ["train", "val"]},
        {"of": "copies", "paths": ["train/a/z.jpg", "val/a/z.jpg"], "splits": ["train", "val"]},
    ]


def same(one: audit.Audit, two: audit.Audit) -> bool:
    arrays = ("row_a", "row_b", "kind", "evidence", "component", "run", "judged")
    values = ("names", "run_names", "unjudged", "thorough", "near_limit", "capped")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays) and all(
        getattr(one, name) == getattr(two, name) for name in values
    )


def copied(count: int) -> dict[str, bytes]:
    files = strangers(16)
    for number in range(count):
        files[f"a/t{number * 7 % 5}x{'y' * number}.jpg"] = jpeg(turned(picture(number % 3), 9.0 * number))
    return files


def test_the_same_for_any_number_of_workers_and_any_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = folder_of(tmp_path / "data", copied(9))
    found = []
    for workers, memory_bytes in ((1, None), (3, None), (2, 200_000), (2, 1)):
        monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / f"cache{len(found)}"))
        found.append(audit.find(manifest, thorough=True, workers=workers, memory_bytes=memory_bytes))
    assert len(found[0].groups()) == 3
    assert all(same(found[0], other) for other in found[1:])


def test_an_audit_is_kept_and_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    of = signatures.signature
    monkeypatch.setattr(
        "fanlight.data.audit.search.signature", lambda data, thorough: decoded.append(1) or of(data, thorough=thorough)
    )
    root = tmp_path / "data"
    files = copied(6)
    manifest = folder_of(root, files)
    first = audit.find(manifest, thorough=True, workers=2)
    assert len(decoded) == len(files)
    assert same(first, audit.find(manifest, thorough=True, workers=1)) and len(decoded) == len(files)

    grown = folder_of(root, {"b/new.jpg": jpeg(turned(picture(1), 33)), "b/bytes.jpg": files["a/t0x.jpg"]})
    second = audit.find(grown, thorough=True, workers=2)
    assert len(decoded) == len(files) + 1, "only what was not seen before"
    assert set(first.names) == set(second.names), "a name stays while its first member does"
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "other"))
    assert same(second, audit.find(grown, thorough=True, workers=2)), "as if made at once"


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    manifest = folder_of(tmp_path / "data", copied(4))
    first = audit.find(manifest, thorough=True, workers=1)
    files = list((cache.folder() / "audits").rglob("*.parquet"))
    assert {path.name for path in files} == {"rows.parquet", "pairs.parquet", "thorough.parquet"}
    for path in files:
        path.write_bytes(b"PAR1 no more")
    assert same(first, audit.find(manifest, thorough=True, workers=1))
    assert {entry.kind for entry in cache.entries()} == {"audit"} and cache.clear() > 0 and not cache.entries()


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "file"))
    manifest = folder_of(tmp_path / "data", strangers(3))
    assert audit.find(manifest, thorough=False, workers=1).groups() == []
    text = capsys.readouterr().err
    assert "signatures cannot be kept in" in text and "the audit cannot be kept in" in text
    assert "Set FANLIGHT_CACHE to a writable folder" in text


def test_nothing_to_compare(tmp_path: Path) -> None:
    found = audit.find(folder_of(tmp_path / "data", strangers(2)), thorough=True, workers=1)
    assert found.groups() == [] and found.runs() == [] and sum(found.counts().values()) == 0
