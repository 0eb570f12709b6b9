"""One plan measures at a time."""

import multiprocessing
from pathlib import Path

import pytest

from fanlight.data import cache
from fanlight.plan import lock
from plan import jobs


def test_two_plans_do_not_measure_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    began, may_end = context.Event(), context.Event()
    other = context.Process(target=jobs.hold_turn, args=(began, may_end))
    other.start()
    assert began.wait(60)
    said = []

    def say(text: str) -> None:
        said.append(text)
        assert other.is_alive()
        may_end.set()

    monkeypatch.setattr(lock.console, "say", say)
    with lock.alone():
        assert said == ["  waiting for another plan, which measures this machine …"]
    other.join()
    with lock.alone():
        assert len(said) == 1, "nobody holds it"
    assert not cache.entries(), "a lock is nothing that the cache keeps"


def test_a_cache_that_cannot_be_written_keeps_no_plan_from_measuring(tmp_path, monkeypatch):
    Path(tmp_path / "file").touch()
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "file"))
    measured = []
    with lock.alone():
        measured.append(1)
    assert measured and (tmp_path / "file").is_file(), "and nothing is put in its place"


def test_what_fails_inside_is_told_and_lets_the_next_one_in(tmp_path, monkeypatch):
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(lock.console, "say", lambda text: pytest.fail(text))
    with pytest.raises(OSError, match="of the plan"), lock.alone():
        raise OSError("of the plan")
    with lock.alone():
        pass
