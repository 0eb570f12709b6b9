"""The same results from every engine, in order, and errors that name the file."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.packs import CANVAS_PX, SHARD_BYTES, SIZES, assert_right, photos, scanned, spoil
from fanlight.data import canvas, engines, pack
from fanlight.data.engines import Engine, Job, Operation, chunks, cluster
from fanlight.errors import ConfigError, DataError

FILES = [Operation("canvas", CANVAS_PX), Operation("decode")]
PIXELS = [Operation("resize", 16), *map(Operation, ("normalise", "standardise", "flip", "histogram"))]
NAMES = ["serial", "threads", "processes"]  # dask has tests of its own: it takes seconds to start


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Engine]]:
    """Engines, shared: the processes start once."""
    found = {name: engines.of(name, workers=1 if name == "serial" else 2) for name in NAMES}
    yield found
    for engine in found.values():
        engine.close()


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image per task, so that tasks outnumber what is under way."""
    monkeypatch.setattr(chunks, "TASK_NS", (1, 1))


def pixel_jobs(made: pack.Pack) -> list[Job]:
    start = np.load(made.shard_paths[0], mmap_mode="r").offset
    places = [made.place(slot) for slot in range(len(made.sha256))]
    return [Job(str(made.shard_paths[s]), h, w, offset=start + offset) for s, offset, h, w in places]


# --- results


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small_tasks")
def test_files_become_the_same_pixels_in_order(tmp_path: Path, started: dict[str, Engine], name: str) -> None:
    manifest = scanned(photos(tmp_path, sizes=SIZES * 3))
    for operation in FILES:
        numbers = []
        for result, row in zip(engines.results(started[name], operation, engines.jobs(manifest)), manifest.rows()):
            wanted = canvas.to_canvas(manifest.read(row), operation.px or None)
            assert result.pixels is not None and np.array_equal(result.pixels, wanted)
            numbers.append(result.number)
        assert numbers == list(range(len(manifest)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small_tasks")
def test_operations_on_pixels(tmp_path: Path, started: dict[str, Engine], name: str) -> None:
    manifest = scanned(photos(tmp_path / "data", sizes=[*SIZES, (31, 33)] * 2))
    made = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path)
    images = [np.array(engines.work.image(job)) for job in pixel_jobs(made)]
    for operation in PIXELS:
        found = [np.array(result.pixels) for result in engines.results(started[name], operation, pixel_jobs(made))]
        assert len(found) == len(images)
        for one, image in zip(found, images):
            assert (one.shape, one.dtype) == (operation.shape(*image.shape[:2]), operation.dtype)
            assert np.array_equal(one, operation(image))


def test_what_operations_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    mean, std = np.array(engines.operations.MEAN), np.array(engines.operations.STD)
    assert np.allclose(Operation("normalise")(image), (image / 255 - mean) / std, atol=1e-5)
    standard = Operation("standardise")(image)
    assert np.allclose(standard.mean((0, 1)), 0, atol=1e-5) and np.allclose(standard.std((0, 1)), 1, atol=1e-5)
    assert not Operation("standardise")(np.full((5, 4, 3), 7, np.uint8)).any()
    assert np.array_equal(Operation("flip")(image), image[:, ::-1])
    counts = Operation("histogram")(image)
    assert all(np.array_equal(counts[c], np.bincount(image[..., c].ravel(), minlength=256)) for c in range(3))
    shrunk = Operation("resize", 10)(image)
    assert np.array_equal(shrunk, cv2.resize(image, (10, 10), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small_tasks")
def test_an_image_that_cannot_be_decoded_is_told_and_the_rest_goes_on(
    tmp_path: Path, started: dict[str, Engine], name: str
) -> None:
    photos(tmp_path)
    spoil(tmp_path / "cat/4.png")
    manifest = scanned(tmp_path)
    found = list(engines.results(started[name], FILES[0], engines.jobs(manifest)))
    (bad,) = [result.number for result in found if result.pixels is None]
    assert manifest.column("path")[bad] == "cat/4.png"
    assert found[bad].reason.startswith(("truncated PNG", "damaged PNG"))
    assert all(not result.reason for result in found if result.number != bad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("edit", ["changed", "gone"])
def test_a_file_that_is_not_what_was_checked_is_named(
    tmp_path: Path, started: dict[str, Engine], name: str, edit: str
) -> None:
    manifest = scanned(photos(tmp_path))
    path = tmp_path / "dog/3.jpg"
    path.write_bytes((tmp_path / "cat/0.png").read_bytes()) if edit == "changed" else path.unlink()
    with pytest.raises(DataError, match=r"dog/3\.jpg.* run `fanlight check` again"):
        list(engines.results(started[name], FILES[0], engines.jobs(manifest)))
    (tmp_path / "dog/3.jpg").unlink(missing_ok=True)
    rest = [row for row in manifest.rows() if manifest.column("path")[row] != "dog/3.jpg"]
    assert len(list(engines.results(started[name], FILES[0], engines.jobs(manifest, rest)))) == len(rest)  # still works


def test_no_images(started: dict[str, Engine]) -> None:
    assert [list(engines.results(engine, FILES[0], [])) for engine in started.values()] == [[]] * len(NAMES)


# --- packs


@pytest.mark.parametrize("name", NAMES)
def test_packs_are_equal_by_bytes(tmp_path: Path, started: dict[str, Engine], name: str) -> None:
    photos(tmp_path / "data")
    spoil(tmp_path / "data/cat/0.png")
    spoil(tmp_path / "data/dog/2.png")
    manifest = scanned(tmp_path / "data")
    places = {"canvas_px": CANVAS_PX, "shard_bytes": SHARD_BYTES}
    one = pack.make(manifest, parent=tmp_path / "one", workers=1, **places)
    other = pack.make(manifest, parent=tmp_path / "other", engine=started[name], **places)
    assert len(one.failed) == 2 and one.failed == other.failed
    files = [sorted(path for path in made.folder.iterdir() if path.name != ".lock") for made in (one, other)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files))
    assert_right(other, other.mark_failed(manifest))


def test_a_pack_that_is_there_starts_no_engine(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path / "data"))
    pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path)
    with engines.of("processes", workers=2) as engine:
        pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path, engine=engine)
        assert engine.start_s is None


# --- what cannot be asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "procesess"}, "--engine 'procesess' is unknown; choose serial, threads, .* Near names: processes"),
        ({"name": "serial", "workers": 2}, "--workers 2: the engine serial is one; use --engine threads or processes"),
        ({"name": "threads", "scheduler": "tcp://h:1"}, "--scheduler tcp://h:1 is for --engine dask, not for threads"),
        ({"name": "dask", "scheduler": "tcp://h:1", "workers": 2}, "--workers 2 is for this machine; the scheduler at"),
    ],
)
def test_what_does_not_go_together(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engines.of(options.pop("name"), **options)


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_program_that_cannot_start_python(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ConfigError, match=f"--engine {name} starts Python again, .*; use --engine threads"):
        engines.of(name)
    assert engines.of("threads", workers=2).workers == 2


@pytest.mark.parametrize("name", ["processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_file_in_the_working_folder_is_no_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    if name == "dask":
        pytest.importorskip("distributed")
    photos(tmp_path / "data")
    manifest = scanned(tmp_path / "data")
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with engines.of(name, workers=1) as engine:
        found = list(engines.results(engine, FILES[0], engines.jobs(manifest)))
    assert len(found) == len(manifest) and all(result.pixels is not None for result in found)


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fanlight\[cluster\]'"):
        engines.of("dask")


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "WAIT_S", 1)
    with (
        engines.of("dask", scheduler="tcp://127.0.0.1:9") as engine,
        pytest.raises(ConfigError, match=r"--scheduler tcp://127\.0\.0\.1:9: no scheduler answers there within 1 s"),
    ):
        engine.start()
    assert engine.start_s is None


@pytest.mark.slow
def test_dask(tmp_path: Path) -> None:
    """Processes of this machine, then the same ones as a cluster that is running already: they return bytes."""
    distributed = pytest.importorskip("distributed")
    photos(tmp_path / "data", sizes=SIZES * 2)
    spoil(tmp_path / "data/cat/0.png")
    manifest = scanned(tmp_path / "data")
    wanted = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path / "one", shard_bytes=SHARD_BYTES)
    with engines.of("dask", workers=1) as engine:
        found = list(engines.results(engine, FILES[0], engines.jobs(manifest)))
        assert [result.number for result in found] == list(range(len(manifest)))
        assert [result.number for result in found if result.pixels is None] == [0]
        made = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path / "two", shard_bytes=SHARD_BYTES, engine=engine)
        assert made.failed == wanted.failed
        assert [p.read_bytes() for p in made.shard_paths] == [p.read_bytes() for p in wanted.shard_paths]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running:
        address = running.scheduler_address
        with engines.of("dask", scheduler=address) as engine:
            place = tmp_path / "three"
            made = pack.make(manifest, canvas_px=CANVAS_PX, parent=place, shard_bytes=SHARD_BYTES, engine=engine)
            assert engine.workers == 1 and made.failed == wanted.failed
            assert [p.read_bytes() for p in made.shard_paths] == [p.read_bytes() for p in wanted.shard_paths]
            (tmp_path / "data/dog/2.png").unlink()
            with pytest.raises(DataError, match=r"dog/2\.png.*must see the files by the same paths"):
                list(engines.results(engine, FILES[0], engines.jobs(manifest)))


# --- the command


def test_the_command_says_who_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fanlight.train import packing

    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    data = str(photos(tmp_path / "data"))
    document = packing.pack(data, image_px=16, workers=2, pack_dir=str(tmp_path / "packs"), engine="processes")
    assert (document["engine"], document["workers"], document["images"]) == ("processes", 2, len(SIZES))
    assert 0 < document["start_s"] < document["wall_s"]
    assert json.loads((Path(document["pack"]) / "pack.json").read_text())["images"] == len(SIZES)
    assert os.path.exists(document["pack"])
