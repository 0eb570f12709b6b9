"""Run folders: made, found, and refused."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanlight.data import builtin
from fanlight.errors import ConfigError, DataError, RunError
from fanlight.train import folder
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def test_a_run_is_named_as_its_data_were(own_place, monkeypatch):
    (own_place / "stored-elsewhere").mkdir()
    (own_place / "photos").symlink_to("stored-elsewhere")
    assert folder.create("photos/", "lenet5", out=None) == Path("runs/photos-lenet5-1")
    monkeypatch.chdir(own_place / "stored-elsewhere")
    assert folder.create(".", "lenet5", out=None) == Path("runs/stored-elsewhere-lenet5-1")


def test_default_names_count_up(own_place):
    names = [folder.create("some/my photos/", "resnet18", out=None).name for _ in range(2)]
    assert names == ["my-photos-resnet18-1", "my-photos-resnet18-2"]
    assert folder.create("~", "x", out=None).parent == folder.RUNS


def test_out_is_taken_when_it_is_empty(own_place):
    assert folder.create("d", "m", out=own_place / "new" / "run") == own_place / "new" / "run"
    assert folder.create("d", "m", out=own_place / "new" / "run").is_dir()
    (own_place / "new" / "run" / "file").touch()
    with pytest.raises(ConfigError, match=r"run exists and is not empty; name another, or continue it with --resume"):
        folder.create("d", "m", out=own_place / "new" / "run")
    with pytest.raises(ConfigError, match="is a file, and a run is a folder"):
        folder.create("d", "m", out=own_place / "new" / "run" / "file")


def test_a_name_that_is_too_long_is_said(own_place):
    with pytest.raises(ConfigError, match=r"--out x{300} cannot be looked into: File name too long; name another"):
        folder.check_out(Path("x" * 300))


def test_a_folder_that_cannot_be_made(own_place):
    (own_place / "file").touch()
    with pytest.raises(RunError, match=r"cannot make the run folder .*: Not a directory; name another with --out"):
        folder.create("d", "m", out=own_place / "file" / "run")


def test_links_into_nowhere_are_said(own_place):
    (own_place / "lost").symlink_to("nowhere")
    with pytest.raises(
        RunError, match=r"cannot make the run folder .*lost: .*lost is in the way; name another with --out"
    ):
        folder.create("d", "m", out=own_place / "lost")
    (own_place / "runs").symlink_to("nowhere")  # and the next free number is not looked for in it
    with pytest.raises(RunError, match=r"runs is in the way"):
        folder.create("d", "m", out=None)


def test_a_path_that_is_not_utf8(own_place):
    with pytest.raises(RunError, match=r"caf\\udce9' is not UTF-8; name another with --out"):
        folder.create("d", "m", out=own_place / os.fsdecode(b"caf\xe9"))


def test_a_run_is_trained_by_one_process(own_place):
    with folder.locked(own_place):
        said = rf"is being trained by process {os.getpid()} on .+; wait for it to end, or stop it first"
        with pytest.raises(RunError, match=said), folder.locked(own_place):
            pytest.fail("two have the lock")
    with folder.locked(own_place):  # the file stays, the lock does not
        pass


def test_a_lock_ends_with_its_process(own_place):
    script = (
        "import pathlib, time; from fanlight.train import folder\n"
        "with folder.locked(pathlib.Path('.')): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"process {other.pid} "), folder.locked(own_place):
            pytest.fail("two have the lock")
        other.kill()
        other.wait()
        with folder.locked(own_place):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_half_written_run_does_not_stay(own_place, error):
    run = folder.create("d", "m", out=own_place / "run")
    (run / "config.yaml").touch()
    with pytest.raises((RunError, KeyboardInterrupt)) as raised, folder.whole_or_gone(run):
        raise error
    assert not run.exists()
    if isinstance(error, OSError):
        assert (
            str(raised.value) == f"cannot write the run folder {run}: No space left on device; name another with --out"
        )


@pytest.mark.parametrize("text", [None, "", "{", "no", "[]", "3"])
def test_what_is_no_run(own_place, text):
    if text is not None:
        (own_place / "run.json").write_text(text)
    with pytest.raises(
        RunError, match=r"is not a run folder: it has no readable run\.json; `fanlight runs` lists them"
    ):
        folder.read_summary(own_place)


@pytest.mark.parametrize("document", [{}, {"version": 2}, {"version": "1"}])
def test_another_version(own_place, document):
    (own_place / "run.json").write_text(json.dumps(document))
    with pytest.raises(
        RunError, match=r"was written by another version of Fanlight .* use the Fanlight named in its env.json"
    ):
        folder.read_summary(own_place)


def test_a_summary_is_whole_or_not_there(own_place, monkeypatch):
    folder.write_summary(own_place, {"version": 1, "status": "running"})
    with pytest.raises(TypeError):
        folder.write_summary(own_place, {"version": object()})
    assert folder.update_summary(own_place, status="stopped") == {"version": 1, "status": "stopped"}
    assert folder.read_summary(own_place) == {"version": 1, "status": "stopped"}


def write_run(path, *, data, status, started):
    path.mkdir(parents=True)
    folder.write_summary(path, {"version": 1, "status": status, "started": started, "data": {"path": str(data)}})


def test_the_newest_unfinished_run_of_the_data(own_place):
    photos = own_place / "photos"
    for number, (data, status) in enumerate(
        [(photos, "failed"), (photos, "stopped"), (photos, "finished"), ("digits", "running")]
    ):
        write_run(folder.RUNS / f"r{number}", data=data, status=status, started=f"2026-01-0{number + 1}T00:00:00")
    (folder.RUNS / "broken").mkdir()
    (folder.RUNS / "broken" / "run.json").write_text("{")
    assert folder.latest_unfinished("photos") == folder.RUNS / "r1"  # another spelling of the same place
    assert folder.latest_unfinished("digits") == folder.RUNS / "r3"
    assert folder.latest_unfinished("elsewhere") is None
    assert folder.latest_unfinished("photos", out=folder.RUNS / "r0") == folder.RUNS / "r0"
    assert folder.latest_unfinished("photos", out=own_place / "none") is None


def test_a_refused_start_leaves_nothing(own_place):
    def start(error, *, made=()):
        run = folder.create("d", "m", out=own_place / "run")
        for name in ("resolved.yaml", *made):
            (run / name).touch()
        with pytest.raises(type(error)), folder.discarded_when_refused(run):
            raise error
        return run.exists()

    assert not start(ConfigError("no such model"))
    run = folder.create("d", "m", out=None)
    with pytest.raises(ConfigError), folder.discarded_when_refused(run):
        raise ConfigError("no such model")
    assert not (own_place / "runs").exists()
    assert start(ConfigError("later"), made=["metrics.jsonl"])
    folder.shutil.rmtree(own_place / "run")
    assert start(DataError("a file went away"))


def test_unchanged_data_is_read_by_size_and_time_first(finished, monkeypatch, own_place):
    manifest = folder.read_manifest(finished)
    monkeypatch.setattr(folder.manifests, "read_file", lambda path: pytest.fail(f"{path} was read"))
    folder.check_unchanged(finished, manifest)


def test_touched_files_are_compared_by_their_bytes(own_place):
    data = tiny.make(own_place / "data", per_class=4)
    run = tiny.train(data, out=own_place / "run", epochs=1, batch_size=4)
    manifest = folder.read_manifest(run)
    for path in data.rglob("*.png"):
        os.utime(path, (1, 1))
    folder.check_unchanged(run, manifest)
    for name in ("red/01.png", "red/02.png"):
        (data / name).write_bytes(b"other")
    with pytest.raises(
        RunError, match=r"2 file\(s\) of .* changed since .* began, first red/01.png; put them back, or"
    ):
        folder.check_unchanged(run, manifest)


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_built_in_data_of_an_older_version_do_not_come_back(own_place, monkeypatch, fanlight, command):
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    root = tiny.make(own_place / "cache" / "builtin" / "digits-v1", per_class=4)
    run = tiny.train("digits", out=own_place / "run", epochs=1, batch_size=4)
    monkeypatch.setitem(builtin.VERSIONS, "digits", 2)
    folder.check_unchanged(run, folder.read_manifest(run))  # as long as they are there
    folder.shutil.rmtree(root)
    folder.update_summary(run, status="stopped")
    answer = fanlight(*(("evaluate", run) if command == "evaluate" else ("train", "--resume", run)))
    assert answer.code == 1 and not list(root.parent.iterdir()), answer.err
    assert answer.err == (
        f"Error: {root}, the built-in digits of {run}, is not there, and this Fanlight writes digits-v2 only: put that folder "
        "back, evaluate on other images with --data, or train again\n"
    )


def test_built_in_data_that_cannot_be_written_again(own_place, monkeypatch):
    def write(name, *, cache):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    root = tiny.make(own_place / "cache" / "builtin" / "digits-v1", per_class=4)
    run = tiny.train("digits", out=own_place / "run", epochs=1, batch_size=4)
    folder.shutil.rmtree(root)
    monkeypatch.setattr(builtin, "write", write)
    with pytest.raises(
        RunError, match=r"digits-v1, .* cannot be written again: No space left on device; make room or give"
    ):
        folder.check_unchanged(run, folder.read_manifest(run))


def test_built_in_data_of_a_cleared_cache_comes_back(own_place, monkeypatch):
    """`fanlight cache clear` promises that what is needed is made again."""

    def write(name, *, cache):
        root = cache / "builtin" / "digits-v1"
        return root if root.is_dir() else tiny.make(root, per_class=4)

    monkeypatch.setattr(builtin, "write", write)
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    run = tiny.train("digits", out=own_place / "run", epochs=1, batch_size=4)
    folder.shutil.rmtree(own_place / "cache")
    folder.check_unchanged(run, folder.read_manifest(run))
