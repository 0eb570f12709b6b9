import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight import console
from fanlight.console import Progress, bytes_text, count_text, seconds_text

UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves or finds another's settings."""
    monkeypatch.delenv("FANLIGHT_JSON", raising=False)
    monkeypatch.delenv("FANLIGHT_QUIET", raising=False)
    yield
    console.set_json(False)


# --- sizes and times


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 bytes"),
        (999, "999 bytes"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (10_440_000_000, "10.4 GB"),
        (2.5e15, "2500.0 TB"),
        (-1536, "-1.5 kB"),
    ],
)
def test_known_sizes(count: float, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 ranks"), (1, "1 rank"), (2, "2 ranks")])
def test_counts_have_their_noun(count: int, text: str) -> None:
    assert count_text(count, "rank") == text


@given(st.integers(0, 10**16))
def test_sizes_are_right_to_the_last_digit_shown(count: int) -> None:
    number, unit = bytes_text(count).split()
    step = 1 if unit == "bytes" else UNITS[unit] / 10
    assert abs(float(number) * UNITS[unit] - count) <= step / 2 * (1 + 1e-9)
    assert float(number) < 1000 or unit == "TB"
    assert float(number) >= 1 or unit == "bytes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.26, "0.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (75, "1 min 15 s"),
        (119.6, "2 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7325, "2 h 2 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_known_times(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@given(st.floats(0, 10**6))
def test_times_are_right_to_the_last_digit_shown(seconds: float) -> None:
    text = seconds_text(seconds)
    if found := re.fullmatch(r"(\d+) h (\d+) min", text):
        hours, minutes = int(found[1]), int(found[2])
        assert minutes < 60
        assert -0.5 <= seconds - 60 * (60 * hours + minutes) < 60
    elif found := re.fullmatch(r"(\d+) min (\d+) s", text):
        assert int(found[1]) < 60 and int(found[2]) < 60
        assert abs(60 * int(found[1]) + int(found[2]) - seconds) <= 0.5
    else:
        number = float(text.removesuffix(" s"))
        assert number < 60 and abs(number - seconds) <= 0.05 + 1e-9


# --- where lines go


def test_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("hello")
    console.say()
    console.chose("train.epochs", 5, "a reason")
    console.result({"a": 1})
    assert capsys.readouterr() == ("hello\n\n  train.epochs = 5  (a reason)\n", "")


def test_json_alone_has_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_json(True)
    assert console.wants_json()
    console.say("hello")
    console.chose("train.epochs", 5, "a reason")
    with Progress("Packing", total=2, unit="images", every_s=0) as bar:
        bar.advance()
    console.result({"path": Path("a/b"), "count": 3, "share": 0.5})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "a/b", "count": 3, "share": 0.5}
    assert out.count("\n") == 1
    assert err.startswith("hello\n  train.epochs = 5  (a reason)\nPacking: 1/2 images")
    console.set_json(False)
    console.say("again")
    assert capsys.readouterr() == ("again\n", "")


def test_numpy_s_numbers_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_json(True)
    document = {"count": np.int64(3), "share": np.float32(0.5), "is_last": np.bool_(True), "rows": [np.int32(4)]}
    console.result(document)
    assert json.loads(capsys.readouterr().out) == {"count": 3, "share": 0.5, "is_last": True, "rows": [4]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.result({"loss": np.float32("nan")})


def test_ranks_with_nothing_to_say_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_json(True)
    console.result({})
    assert capsys.readouterr() == ("", "")


def test_json_has_no_words_that_parsers_refuse() -> None:
    console.set_json(True)
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.result({"loss": number})


def test_other_processes_know_of_json() -> None:
    code = "from fanlight import console; console.say('line'); console.result({'a': 1})"
    console.set_json(True)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ('{"a": 1}\n', "line\n")


def test_warnings_say_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    console.warn("the disk is slow", why="It reads 3 MB/s", do="Use --pack-dir")
    assert capsys.readouterr() == ("", "Warning: the disk is slow. It reads 3 MB/s. Use --pack-dir.\n")


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with console.quiet():
        with console.quiet():
            console.say("one")
        console.say("two")
        with Progress("Packing", total=2, unit="images", every_s=0) as bar:
            bar.advance()
        console.warn("a", why="b", do="c")
    console.say("three")
    assert capsys.readouterr() == ("three\n", "Warning: a. b. c.\n")


def test_quiet_ends_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), console.quiet():
        raise KeyError
    console.say("heard")
    assert capsys.readouterr().out == "heard\n"


# --- progress


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Packing", total=10, unit="images", every_s=0) as bar:
        bar.advance(4)
        bar.advance(6, note="fast")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"Packing: 4/10 images, \d+ s left", lines[0])
    assert lines[1] == "Packing: 10/10 images, 0 s left fast"


def test_progress_is_silent_until_there_is_time_to_speak(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Packing", total=1000, unit="images", every_s=3600) as bar:
        for _ in range(1000):
            bar.advance()
    assert bar.done == 1000
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # so that rich, too, takes what is captured for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with Progress("Packing", total=10, unit="images", every_s=0) as bar:
        bar.advance(4, note="fast")
        (task,) = bar._bar.tasks
        assert (task.completed, task.total, task.fields["note"]) == (4, 10, "fast")
        bar.advance(6)
        assert task.completed == 10 and task.fields["note"] == "fast"
    out, err = capsys.readouterr()
    assert out == "", "nothing but results"
    assert "Packing" in err


def test_quiet_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert console.is_terminal()
    with console.quiet():
        assert not console.is_terminal()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not console.is_terminal()
