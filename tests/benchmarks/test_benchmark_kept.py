"""Measurements outlive an interruption, and are made once."""

import pytest

from kept import Clock, Kept


def test_what_is_there_is_not_made_again(tmp_path):
    path = tmp_path / "work" / "measured.jsonl"
    first = Kept(path)
    assert first.of("a", lambda: {"steps_s": (1, 2)}) == {"steps_s": [1, 2]}
    assert first.of("a", lambda: pytest.fail("measured twice")) == {"steps_s": [1, 2]}
    again = Kept(path)
    assert "a" in again and "b" not in again
    assert again.of("a", lambda: pytest.fail("measured twice")) == {"steps_s": [1, 2]}


def test_a_measurement_that_failed_or_was_cut_off_is_made_again(tmp_path):
    path = tmp_path / "measured.jsonl"
    kept = Kept(path)
    kept.of("a", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        kept.of("b", interrupted)
    with path.open("a") as file:
        file.write('{"key": "c", "val')
    again = Kept(path)
    assert "a" in again and "b" not in again and "c" not in again
    assert again.of("c", lambda: 3) == 3
    assert Kept(path)["c"] == 3


def interrupted():
    raise KeyboardInterrupt


def test_minutes_end():
    assert Clock(0).is_over and not Clock(60).is_over
