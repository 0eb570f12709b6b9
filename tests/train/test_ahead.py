"""What a child process scans and packs while its parent imports: used, told once, and gone whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fanlight.train import ahead

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a process forks safely")

SLOW = """
import sys, time
from fanlight.config import Config
from fanlight.train import ahead, prepare

def pack_ahead(config):
    print("child at work", flush=True)
    time.sleep(3600)

prepare.pack_ahead = pack_ahead
ahead.MODULES = ("json",)
ahead.gather(Config().with_value("data.path", sys.argv[1]))
"""


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "FANLIGHT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}


def train(place: Path, data: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fanlight", "train", str(data), "--model", "lenet5", "--image-size", "32", *words]
    return subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True, check=False)


def test_data_is_packed_once_and_told_once(colours, tmp_path):
    done = train(tmp_path, colours, "--epochs", "1", "--no-report", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Packing 60 images") == 1 and "kept from before" not in done.stdout
    assert "ahead_s" in json.loads((tmp_path / "run" / "run.json").read_text())["phases"]
    again = train(tmp_path, colours, "--epochs", "1", "--no-report", "--out", "again")
    assert again.returncode == 0 and again.stdout.count("kept from before") == 1
    assert "ahead_s" not in json.loads((tmp_path / "again" / "run.json").read_text())["phases"]  # known data: no child


@pytest.mark.parametrize(("name", "code"), [("empty", 3), pytest.param("nothing-here", 3, marks=pytest.mark.slow)])
def test_what_the_child_refuses_is_said_once_by_the_parent(tmp_path, name, code):
    (tmp_path / "empty").mkdir()
    done = train(tmp_path, name)
    assert done.returncode == code
    assert done.stderr.count("Error: ") == 1 and "Traceback" not in done.stderr and not done.stdout


def test_a_slip_in_the_models_name_does_not_wait_for_the_pack(tmp_path):
    """The child is slow; the parent knows the names of the models as soon as it has imported them."""
    code = SLOW.replace("Config()", 'Config().with_value("model.name", "resnet81")')
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # nobody waits for what sleeps an hour
    )
    assert "ConfigError" in done.stderr and "resnet81" in done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_the_child_does_not_outlive_its_parent(colours, tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(colours)], env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert parent.stdout is not None and parent.stdout.readline() == b"child at work\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(number)
    parent.wait(timeout=20)
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interrupted_child_takes_away_what_it_has_begun(tmp_path, whole_group):
    """By a terminal's Ctrl-C, which both get, and by a signal to the parent alone."""
    part = tmp_path / "pixels.part"
    begun = f"""
    from pathlib import Path
    part = Path({str(part)!r})
    try:
        part.write_text("half")
        print("child at work", flush=True)
        time.sleep(3600)
    finally:
        time.sleep(0.3)
        part.unlink()
"""
    code = SLOW.replace('\n    print("child at work", flush=True)\n    time.sleep(3600)\n', begun)
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None and parent.stdout.readline() == b"child at work\n"
    (os.killpg if whole_group else os.kill)(parent.pid, signal.SIGINT)
    parent.wait(timeout=20)
    parent.stdout.close()
    assert not part.exists()


def test_a_child_that_was_waited_for_is_left_alone(monkeypatch):
    """A Ctrl-C may come between that and the next line, when the number may be another process's."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("nobody may be sent a signal"))
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    assert gone.wait() == 0
    ahead._end(gone.pid)
    over = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], {})
    os.waitid(os.P_PID, over, os.WEXITED | os.WNOWAIT)
    ahead._end(over)
    with pytest.raises(ChildProcessError):
        os.waitpid(over, os.WNOHANG)
