"""Commands that are refused late, interrupted, or meet a full disk: the exit code, what is said, and what stays on the disk."""

import errno
import os
import re
from pathlib import Path

import pytest

from data.packs import spoil
from fanlight import cli
from fanlight.data import canvas, checkup, pack
from fanlight.data.engines import cluster
from fanlight.data.manifest import Manifest
from fanlight.study.loading import page
from fanlight.study.loading import run as loading
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

STUDY = ("--of", "loading", "--engines", "serial", "--workers", "1", "--image-size", "16")


def interrupted(*_, **__):
    raise KeyboardInterrupt


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def quiet_machine(monkeypatch):
    monkeypatch.setattr(loading, "_busy", lambda: 0.0)


# --- nothing new stays


@pytest.mark.parametrize("out", [(), ("--out", "deep/place")])
def test_a_study_of_what_cannot_be_decoded_leaves_no_folder(fanlight, quiet_machine, own_place, out):
    data = tiny.make(own_place / "data", per_class=3, px=24)
    for path in data.rglob("*.png"):
        spoil(path)
    before = below(own_place)
    answer = fanlight("study", data, *STUDY, *out)
    assert answer.code == 3 and "can be decoded" in answer.err, answer
    assert below(own_place) == before


def test_a_study_keeps_a_folder_that_was_there(fanlight, quiet_machine, monkeypatch, colours, own_place):
    (own_place / "mine").mkdir()
    monkeypatch.setattr(loading, "_measured", interrupted)
    answer = fanlight("study", colours, *STUDY, "--out", "mine", "--limit", 3)
    assert (answer.code, answer.err) == (130, f"{cli.INTERRUPTED_WORDS}\n")
    assert below(own_place) == {"mine"}


def test_a_scheduler_that_does_not_answer_leaves_no_pack(fanlight, monkeypatch, colours, own_place):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "WAIT_S", 0.5)
    words = ("--engine", "dask", "--scheduler", "tcp://127.0.0.1:1", "--pack-dir", "deep/packs")
    answer = fanlight("pack", colours, *words)
    assert answer.code == 2 and "--scheduler tcp://127.0.0.1:1: no scheduler answers" in answer.err
    assert below(own_place) == set()


def test_a_pack_without_room_leaves_nothing(fanlight, monkeypatch, colours, own_place):
    monkeypatch.setattr(pack.machine, "disk_free", lambda _: 0)
    answer = fanlight("pack", colours, "--pack-dir", "packs")
    assert answer.code == 1 and re.search(r"the pack needs .* has 0 bytes free; free some room, or make it", answer.err)
    assert "--image-size N" in answer.err and "--pack-dir" in answer.err
    assert "--no-pack" not in answer.err and "--set" not in answer.err, "of which pack has none"
    assert below(own_place) == set()


def test_who_waited_for_a_pack_that_failed_makes_it(fanlight, monkeypatch, colours, own_place):
    """The lock that it waited for is gone with its folder."""
    import fcntl

    flock, calls = fcntl.flock, []

    def removed_meanwhile(file, how):
        calls.append(how)
        if len(calls) == 1:
            os.unlink(next(own_place.glob("packs/*/.lock")))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    answer = fanlight("pack", colours, "--pack-dir", "packs")
    assert answer.code == 0 and len(calls) == 2
    assert len(list(own_place.glob("packs/*/.lock"))) == 1, "the lock that is held is the one that others see"


# --- Ctrl-C


def test_an_interrupted_pack_says_what_it_kept_and_continues(fanlight, monkeypatch, colours, own_place):
    monkeypatch.setitem(pack.make.__kwdefaults__, "shard_bytes", 4000)
    monkeypatch.setitem(pack.plan.__kwdefaults__, "shard_bytes", 4000)
    to_canvas, calls = canvas.to_canvas, []

    def stopping(data, px):
        calls.append(1)
        return to_canvas(data, px) if len(calls) <= 20 else interrupted()

    words = ("pack", colours, "--image-size", 16, "--engine", "serial", "--pack-dir", "packs")
    with monkeypatch.context() as context:
        context.setattr(canvas, "to_canvas", stopping)
        answer = fanlight(*words)
    said = re.fullmatch(
        r"Stopped; (\d+) of (\d+) parts of the pack are kept in packs/\w+, and the same command continues with the next\n",
        answer.err,
    )
    assert answer.code == 75 and said and 0 < int(said[1]) < int(said[2]), answer
    assert len(list(own_place.glob("packs/*/pixels-*.npy"))) == int(said[1])
    assert not list(own_place.glob("packs/*/*.part"))
    monkeypatch.setattr(canvas, "to_canvas", lambda data, px: calls.append(2) or to_canvas(data, px))
    assert fanlight(*words).code == 0
    assert 0 < calls.count(2) < 60


def test_an_interrupted_pack_without_a_whole_part_leaves_nothing(fanlight, monkeypatch, colours, own_place):
    monkeypatch.setattr(canvas, "to_canvas", interrupted)
    answer = fanlight("pack", colours, "--image-size", 16, "--engine", "serial", "--pack-dir", "packs")
    assert (answer.code, answer.err) == (130, f"{cli.INTERRUPTED_WORDS}\n")
    assert below(own_place) == set()


def test_an_interrupted_check_says_what_is_kept(fanlight, monkeypatch, own_place):
    data = tiny.make(own_place / "data", per_class=3, px=24)
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    with monkeypatch.context() as context:
        context.setattr(checkup.scan, "scan", interrupted)
        answer = fanlight("check", data)
    assert (answer.code, answer.err) == (130, f"{cli.INTERRUPTED_WORDS}\n")
    assert not (own_place / "cache").exists()
    monkeypatch.setattr(checkup.copies, "find", interrupted)
    answer = fanlight("check", data)
    assert answer.code == 75 and answer.err == (
        "Stopped; what was read of 9 files is kept, and the same command goes on with the search for copies\n"
    )
    assert len(list(own_place.glob("cache/manifests/*.parquet"))) == 1


# --- a full disk


@pytest.mark.parametrize(
    ("option", "name"), [("--out", "m.parquet"), ("--fix", "fixed.parquet"), ("--report", "data.html")]
)
def test_a_full_disk_fails_check_by_the_file(fanlight, monkeypatch, colours, own_place, option, name):
    save = Manifest.save
    there = lambda manifest, path: full() if path.name == name else save(manifest, path)  # noqa: E731
    monkeypatch.setattr(Manifest, "save", there)
    monkeypatch.setattr("fanlight.study.data_report.write", full)
    answer = fanlight("check", colours, option, name)
    assert answer.code == 1 and answer.err.splitlines()[-1] == (
        f"Error: {option} {name} cannot be written: No space left on device; free some room there, or use another path"
    )


def test_a_place_that_is_wrong_is_still_wrong_usage(fanlight, colours, own_place):
    answer = fanlight("check", colours, "--out", "nowhere/m.parquet")
    assert (
        answer.code == 2
        and "--out nowhere/m.parquet cannot be written: nowhere is no folder; make it, or use" in answer.err
    )


def test_a_full_disk_fails_predict_by_the_file(fanlight, monkeypatch, finished, colours, own_place):
    image = next(colours.rglob("*.png"))
    monkeypatch.setattr(Path, "write_text", full)
    answer = fanlight("predict", finished, image, "--out", "p.csv")
    assert answer.code == 1 and "--out p.csv cannot be written: No space left on device; free some room" in answer.err


def test_a_full_disk_at_the_end_of_a_study_still_says_what_was_measured(
    fanlight, quiet_machine, monkeypatch, colours, own_place
):
    monkeypatch.setattr(page, "_table", full)
    monkeypatch.setattr(
        loading, "_measured", lambda *_, **__: [loading.points.Point("flip", "serial", 1, int, rates=[7.0])]
    )
    monkeypatch.setattr(loading.verdict, "words", lambda *_, **__: ["seen"])
    monkeypatch.setattr(loading.verdict, "loader_ratios", lambda _: {})
    answer = fanlight("study", colours, *STUDY, "--limit", 3, "--out", "s")
    assert answer.code == 1 and "--out s cannot be written: No space left on device; free some room" in answer.err
    assert "seen" in answer.out and "flip" in answer.out
    assert below(own_place) == set()


def test_a_full_disk_anywhere_else_is_one_line(fanlight, monkeypatch, own_place):
    def nowhere(*_, **__):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "some/file")

    monkeypatch.setattr("fanlight.study.runs.find", nowhere)
    answer = fanlight("runs")
    assert (answer.code, answer.err) == (
        1, "Error: some/file cannot be written: Disk quota exceeded; free some room and give the same command again\n"
    )  # fmt: skip
