"""Processes that die, are interrupted or lose their parent: an error that names the file, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from data.packs import CANVAS_PX, NPY_HEAD, SHARD_BYTES, assert_right, photos, scanned
from fanlight.cli import INTERRUPTED_WORDS as INTERRUPTED
from fanlight.data import engines, pack
from fanlight.data.engines import Operation
from fanlight.data.engines.processes import Processes
from fanlight.errors import DataError

LONG_S = 60  # for what takes a second on a machine with nothing else to do


def until(is_so: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < limit, what
        time.sleep(0.005)


def slow_photos(root: Path, count: int = 3) -> Path:
    """Among small images, PNG files that take a few tenths of a second each."""
    photos(root)
    for number in range(count):
        image = np.full((5000, 5000), number + 1, np.uint8)
        Image.fromarray(image).save(root / f"dog/slow{number}.png", compress_level=1)
    return root


def ends(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_a_worker_that_is_killed_names_its_file(tmp_path: Path) -> None:
    manifest = scanned(slow_photos(tmp_path, count=1))
    rows = [row for row in manifest.rows() if "slow" in manifest.column("path")[row]]
    jobs = engines.jobs(manifest, rows)
    with engines.of("processes", workers=1) as engine:
        assert isinstance(engine, Processes)
        engine.start()
        pids = engine.pids

        def kill() -> None:
            until(lambda: engine.at(0) >= 0, "the worker never began")
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(
            DataError, match=r"was killed by SIGKILL while it prepared .*dog/slow0\.png: .*fewer --work"
        ):
            list(engines.results(engine, Operation("decode"), jobs))
        killer.join()
        with pytest.raises(DataError, match="was killed by SIGKILL"):  # it is not waited for
            list(engines.results(engine, Operation("decode"), jobs))
    assert not psutil.pid_exists(pids[0]), "no zombie"


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    manifest = scanned(photos(tmp_path))
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with engines.of("processes", workers=1) as engine:
        assert next(engines.results(engine, Operation("canvas", CANVAS_PX), engines.jobs(manifest))).number == 0
        assert isinstance(engine, Processes)
        pids = engine.pids
    assert not any(map(psutil.pid_exists, pids))
    if before:
        assert set(os.listdir("/proc/self/fd")) <= before
        assert set(os.listdir("/dev/shm")) <= shared
    engine.close()  # a second time does nothing
    assert len(list(engines.results(engine, Operation("canvas", 8), engines.jobs(manifest)))) == len(manifest)
    engine.close()


def has_pixels(packs: Path) -> bool:
    """Whether the first result is written, and others are under way."""
    return any(path.exists() and np.fromfile(path, np.uint8)[NPY_HEAD:].any() for path in packs.rglob("*.part"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("engine", "how"),
    [
        ("processes", signal.SIGINT),
        ("processes", signal.SIGKILL),
        pytest.param("dask", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("dask", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_command_leaves_no_process_and_its_pack_continues(
    tmp_path: Path, engine: str, how: signal.Signals
) -> None:
    data, packs = slow_photos(tmp_path / "data"), tmp_path / "packs"
    command = subprocess.Popen(
        [sys.executable, "-m", "fanlight", "pack", str(data), "--image-size", "16", "--engine", engine, "--workers", "2",
         "--pack-dir", str(packs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"FANLIGHT_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}, process_group=0,
    )  # fmt: skip
    until(lambda: has_pixels(packs) or command.poll() is not None, "packing never began")
    pids = [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
    os.killpg(command.pid, how)  # as a terminal does
    out, err = command.communicate(timeout=LONG_S)
    assert len(pids) >= 2, err
    if how == signal.SIGINT:
        assert command.returncode == 130, (out, err)
        assert err.strip().splitlines()[-1] == INTERRUPTED and "Traceback" not in err
        assert not packs.exists(), "no part of it was whole"
        assert ends(pids)
    until(lambda: ends(pids), "a worker outlived its parent")
    left = list(packs.iterdir()) if packs.exists() else []
    assert all(pack.load(folder) is None for folder in left)
    manifest = scanned(data)
    said = re.search(r"short side (\d+) px", out)
    assert said is not None
    canvas_px = int(said[1])
    assert not list(tmp_path.glob("fanlight-*")), "a folder of workers is left"
    with engines.of("processes", workers=1) as again:
        made = pack.make(manifest, canvas_px=canvas_px, parent=packs, engine=again)
    assert left in ([], [made.folder]) and not list(made.folder.glob("*.part"))
    assert_right(made, manifest, canvas_px=canvas_px)


def test_a_shard_that_was_whole_is_not_made_again(tmp_path: Path) -> None:
    """Interrupted in the middle, by an error in a later shard."""
    manifest = scanned(photos(tmp_path / "data"))
    layout = pack.plan(manifest, canvas_px=CANVAS_PX, shard_bytes=SHARD_BYTES)
    last = manifest.path(int(layout.rows[-1]))
    content = last.read_bytes()
    last.write_bytes(b"other")
    with engines.of("processes", workers=1) as engine:
        with pytest.raises(DataError, match="changed since it was checked"):
            pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path, shard_bytes=SHARD_BYTES, engine=engine)
        first = tmp_path / layout.key / "pixels-00000.npy"
        written = first.stat().st_mtime_ns
        last.write_bytes(content)
        made = pack.make(manifest, canvas_px=CANVAS_PX, parent=tmp_path, shard_bytes=SHARD_BYTES, engine=engine)
    assert first.stat().st_mtime_ns == written
    assert_right(made, manifest)


def test_a_worker_imports_no_torch() -> None:
    code = "import sys; from fanlight.data.engines import child; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
