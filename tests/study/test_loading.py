"""The study of loading on a tiny set: what is measured, what is said, and when it refuses."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from data import layouts
from data.packs import photos, scanned, spoil
from fanlight.data import engines
from fanlight.errors import ConfigError, RunError
from fanlight.study.loading import loaders, naive, points, preparing, verdict
from fanlight.study.loading import run as loading
from fanlight.study.loading.points import Point
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

ROW = {"what", "engine", "workers", "images_per_s", "interval", "speedup", "efficiency", "startup_s", "n", "note"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole study of 40 images, one of them broken, with one worker and without dask, which takes seconds to start."""
    place = tmp_path_factory.mktemp("study")
    data = tiny.make(place / "<i>data", per_class=13, px=24)
    spoil(data / "red/00.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(place / "cache"))
        return loading.study(
            str(data), workers=[1], names=["threads", "processes"], image_px=16, limit=39, rounds=2, block_s=0.0,
            out=place / "out", command="fanlight study <i>data --of loading",
        )  # fmt: skip


def test_every_way_is_a_row(made: dict[str, Any]) -> None:
    rows = made["rows"]
    assert all(row.keys() >= ROW for row in rows)
    found = {(row["what"], row["engine"], row["workers"]) for row in rows}
    for what in (*preparing.WHAT, preparing.PACK):
        assert {(what, name, 1) for name in ("serial", "threads", "processes")} <= found
    assert {(what, way, 1) for what in naive.PIXELS for way in (naive.MAP, naive.IMAP, naive.APPLY)} <= found
    assert {(what, naive.CLASSES, 1) for what in naive.BY_CLASS} <= found
    both = (loaders.OURS, loaders.THEIRS)
    assert {(what, who, n) for what in (loaders.FILES, loaders.PACK) for who in both for n in (0, 1)} <= found
    assert len(found) == len(rows)
    for row in rows:
        assert 0 < row["interval"][0] <= row["images_per_s"] <= row["interval"][1] and row["n"] == 2
        assert row["efficiency"] == pytest.approx(row["speedup"] / max(row["workers"], 1))
        assert (row["speedup"] == 1) if row["engine"] == "serial" else row["speedup"] > 0
    assert made["images"] == 38 and made["images_there"] == 39  # the broken one is found when it is decoded


def test_what_pickles_says_how_much(made: dict[str, Any]) -> None:
    rows = {(row["what"], row["engine"]): row for row in made["rows"]}
    canvas_bytes = made["canvas_px"] ** 2 * 3
    assert rows["flip", naive.MAP]["pickled_bytes"] == (1 + 1) * canvas_bytes
    assert rows["normalise", naive.IMAP]["pickled_bytes"] == (1 + 4) * canvas_bytes
    assert rows["flip", "processes"]["pickled_bytes"] == 0
    assert rows["flip", "processes"]["startup_s"] > 0.01  # a process starts


def test_the_verdict_and_the_folder(made: dict[str, Any]) -> None:
    said = made["verdict"]
    assert ("take every figure as preliminary" in said) == (made["busy_before"] > loading.BUSY)
    for words in ("Pack: one core does", "Flip: one core does", "Pools that pickle whole arrays", "One task per class",
                  "Batches: Fanlight's loader"):  # fmt: skip
        assert words in said
    assert made["loader"]["over_pack"].keys() == made["loader"]["over_files_as_written"].keys() == {"0", "1", "best"}
    folder = Path(made["study"])
    assert json.loads((folder / "study.json").read_text()) == made
    with open(folder / "rows.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["what"], row["engine"]) for row in table] == [(row["what"], row["engine"]) for row in made["rows"]]
    page = (folder / "report.html").read_text()
    HTMLParser().feed(page)
    assert "<i>data" not in page and "&lt;i&gt;data" in page, "names are escaped"
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert page.count("data:image/svg+xml") == len({row["what"] for row in made["rows"]})
    assert {path.name for path in folder.iterdir()} == {"study.json", "rows.csv", "report.html", "figures"}


def test_the_command(fanlight, own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(loading, "study", lambda data, **options: seen.update(options, data=data) or {"rows": []})
    answer = fanlight("study", "photos", "--of", "loading", "--workers", "1, 2", "--engines", "serial,dask", "--json")
    assert answer.code == 0 and json.loads(answer.out) == {"rows": []}
    assert (seen["data"], seen["workers"], seen["names"], seen["rounds"]) == (
        "photos",
        [1, 2],
        ["serial", "dask"],
        None,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--of", "lodaing"], "--of 'lodaing': say what to study: layouts, loading"),
        (["--of", "loading", "--ranks", "2"], "--ranks is of another study: use it with --of layouts"),
        (["--workers", "2"], "--workers is of another study: use it with --of loading"),
        (["--of", "loading", "--workers", "two"], "--workers 'two': numbers from 1 on"),
        (["--of", "loading", "--workers", " "], "--workers is empty; name some"),
        (["--of", "loading", "--engines", ""], "--engines is empty; name some"),
        (["--of", "loading", "--workers", "0"], "--workers 0: numbers from 1 to 1024, with commas"),
        (["--of", "loading", "--engines", "thread"], "--engines 'thread' is unknown; choose serial, threads"),
        (["--of", "loading", "--out", "full"], "--out full is there already; name a new folder"),
    ],
)
def test_what_cannot_be_studied(fanlight, colours, own_place: Path, words: list[str], message: str) -> None:
    (own_place / "full").mkdir()
    (own_place / "full/file").touch()
    answer = fanlight("study", colours, *words)
    assert answer.code == 2 and answer.err.startswith(f"Error: {message}")


def test_other_programs_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import psutil

    for percent, is_told in ((3.0, False), (50.0, True)):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percent=percent: percent)
        assert loading._busy() == percent / 100
        assert ("Warning: other programs use 50% of the cores." in capsys.readouterr().err) == is_told


def test_a_worker_of_the_naive_ways_imports_no_torch() -> None:
    code = "import sys; from fanlight.study.loading import naive; print('torch' in sys.modules)"
    place = {"PYTHONPATH": str(Path(engines.__file__).parents[3])}  # of this package, whatever is installed
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | place
    )
    assert done.stdout.split() == ["False"]


def test_workers_of_the_naive_ways_do_not_hear_ctrl_c() -> None:
    """One that died of it while it held the tasks' lock would keep the study from its end."""
    with ExitStack() as stack:
        ((pool, _, _),) = naive.opened([2], stack)
        pids = {
            worker.pid
            for worker in psutil.Process().children(recursive=True)
            if "spawn_main" in " ".join(worker.cmdline())
        }
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert len(pids) == 2 and set(pool.map(naive._imported, range(8), chunksize=1)) <= pids


def test_other_pixels_are_an_error() -> None:
    arrays = [np.zeros(3), np.ones(3)]
    same = ("threads", partial(preparing.digest_of, arrays))
    preparing.compare("flip", [("serial", partial(preparing.digest_of, arrays)), same])
    with pytest.raises(RunError, match="flip: the results of dask are not those of one core"):
        preparing.compare("flip", [same, ("dask", partial(preparing.digest_of, arrays[::-1]))])


# --- measuring and judging, on made-up numbers


def point(what: str, engine: str, workers: int, rates: list[float], **more: Any) -> Point:
    return Point(what, engine, workers, lambda: 1, rates=rates, **more)


def test_turns_alternate_and_the_warm_up_is_not_kept() -> None:
    order: list[str] = []
    made = [Point("flip", name, 1, lambda name=name: order.append(name) or 1) for name in "abc"]  # type: ignore[misc]
    made[0].before = lambda: order.append("-")
    made[0].after = lambda: order.append("+")
    points.measure(made, rounds=2, block_s=0.0)
    assert "".join(order) == "-a+bc-a+bcbc-a+"
    assert [len(each.rates) for each in made] == [2, 2, 2]


def test_small_sets_are_passed_over_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(points.time, "perf_counter", lambda: float(next(clock)))
    one = Point("flip", "serial", 1, lambda: 5)
    points.measure([one], rounds=1, block_s=3.0)
    assert one.rates == [5.0]  # three passes of a second and five images each


def test_speedup_is_over_one_core() -> None:
    rows = points.rows([
        point("pack", "serial", 1, [100, 110, 90]), point("pack", "processes", 2, [190, 200, 195]),
        point(loaders.PACK, loaders.OURS, 0, [10, 10, 10]), point(loaders.PACK, loaders.OURS, 2, [15, 30, 20]),
    ])  # fmt: skip
    assert [row["speedup"] for row in rows] == [1, 1.95, 1, 2]
    assert rows[1]["efficiency"] == 0.975 and rows[1]["interval"] == [190, 200]
    assert rows[1]["speedup_interval"] == [200 / 110, 195 / 90]
    assert rows[3]["efficiency"] == 1


def test_when_an_engine_pays() -> None:
    serial = {"images_per_s": 100.0}
    assert verdict.break_even({"images_per_s": 200.0, "startup_s": 1.0}, serial) == 200
    assert verdict.break_even({"images_per_s": 100.0, "startup_s": 1.0}, serial) is None
    made = [
        point("pack", "serial", 1, [100] * 3), point("pack", "processes", 2, [200] * 3, start_s=1.0),
        point("flip", "serial", 1, [50_000] * 3), point("flip", "processes", 2, [20_000] * 3, start_s=1.0),
        point("flip", naive.MAP, 2, [1_000] * 3, pickled_bytes=220_000),
        point("decode", "serial", 1, [100] * 3),
        point("decode", naive.CLASSES, 4, [150] * 3, tasks=3, largest_task=0.6),
    ]  # fmt: skip
    rows = points.rows(made)
    verdict.explain(rows, made, cores=4)
    assert rows[4]["note"].startswith(
        "220.0 kB pickled per image, there and back: 2000 µs of a worker's time per image"
    )
    assert rows[3]["note"] == "20 µs of work per image; handing it over and back takes 80 µs more"
    assert rows[6]["note"] == "3 classes are 3 tasks for 4 workers, and the largest has 60% of the work"
    assert not rows[0]["note"] and not rows[1]["note"]
    said = "\n".join(verdict.words(rows, cores=2))
    assert "fastest is processes with 2 workers, 2.00 times that." in said and "processes from 200 (1.0 s)" in said
    assert "Flip: one core does 50,000 images/s (20 µs each); no engine is faster in every round" in said
    assert "slower than one core in 1 of 1 rows" in said and "reaches 0.02 times one core" in said
    assert "One task per class, decode, 4 workers: 1.50 times one core (3 classes are 3 tasks" in said
    assert "More workers than the 2 usable cores cannot be faster; 4 were asked for." in said


@pytest.mark.parametrize(("rounds", "words"), [(1, "1 round cannot"), (2, "2 rounds cannot"), (3, "fastest is")])
def test_one_round_cannot_tell(rounds: int, words: str) -> None:
    made = [point("pack", "serial", 1, [100] * rounds), point("pack", "threads", 1, [205] * rounds, start_s=0.01)]
    (said,) = verdict.words(points.rows(made), cores=2)
    assert said.startswith(f"Pack: one core does 100 images/s (10,000 µs each); {words}")
    assert ("pay from" in said) == (rounds == 3) and ("--rounds 3 or more can" in said) == (rounds < 3)


def test_the_ratio_of_two_loaders_is_the_median_of_the_rounds() -> None:
    made = [
        point(loaders.PACK, loaders.OURS, 1, [10, 20, 30, 80]), point(loaders.FILES, loaders.THEIRS, 1, [10] * 4),
        point(loaders.PACK, loaders.OURS, 2, [29, 29, 21, 21]),  # of a higher median, and a lower upper middle
    ]  # fmt: skip
    found = verdict.loader_ratios(made)["over_files_as_written"]
    assert found["1"] == {"median": 2.5, "low": 1.0, "high": 8.0, "n": 4}
    assert found["best"]["median"] == 2.5


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder"])
def test_files_as_users_write_it_in_archives_too(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    root = photos(tmp_path / "photos", sizes=[(30, 40)] * 8)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.*"))}
    if kind == "zip":
        manifest = scanned(layouts.zipped(tmp_path / "photos.zip", files))
    else:
        manifest = scanned(root)
    if kind == "zip in a folder":
        (tmp_path / "a").mkdir()
        layouts.zipped(tmp_path / "a/b.zip", files)
        manifest = manifest.with_columns(path=[f"b.zip/{path}" for path in manifest.column("path")])
        manifest = dataclasses.replace(manifest, root=tmp_path / "a")
    opened: list[object] = []
    pillow = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or pillow(file))
    taken = loaders.Photos(manifest, image_px=16)
    pictures = [taken[index] for index in range(len(taken))]
    assert {tuple(image.shape) for image, _ in pictures} == {(3, 16, 16)} and {label for _, label in pictures} == {0, 1}
    if kind == "folder":
        assert opened == [str(manifest.path(row)) for row in manifest.rows()], "as users write it, and nothing else"
    assert loaders._are_inside(manifest) == (kind != "folder")


def test_an_engine_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def of(name: str, **_: Any) -> None:
        if name == "dask":
            raise ConfigError("not installed: pip install")

    monkeypatch.setattr(engines, "of", of)
    assert loading._engines([]) == ["serial", "threads", "processes"]
    assert "no rows for dask" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="pip install"):
        loading._engines(["dask"])


def test_images_are_spread_over_the_set(tmp_path: Path) -> None:
    from fanlight.study.loading import sample

    manifest = scanned(photos(tmp_path / "data", sizes=[(30, 40)] * 12))
    taken = sample.take(manifest, image_px=8, canvas_px=16, limit=4, folder=tmp_path / "pack")
    assert len(taken) == len(taken.files) == len(taken.pixels) == 4
    assert set(taken.labels) == {"cat", "dog"}
    assert all((job.height, job.width) == (16, 21) for job in taken.pixels)
    assert len(sample.take(manifest, image_px=8, canvas_px=16, limit=None, folder=tmp_path / "pack")) == 12
