"""What a user sees: lines, warnings, progress. Results go to standard output, everything else to standard error when
`--json` asked for one object on standard output and nothing else."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_JSON = "FANLIGHT_JSON"  # an environment variable, so that rank processes know it too
_QUIET = "FANLIGHT_QUIET"
_MUTE = "mute"  # of that variable: no warnings either


def set_json(on: bool) -> None:
    """From now on `say` writes to standard error, and `result` writes the one object to standard output."""
    if on:
        os.environ[_JSON] = "1"
    else:
        os.environ.pop(_JSON, None)


def wants_json() -> bool:
    return _JSON in os.environ


@contextmanager
def quiet(*, also_warnings: bool = False) -> Iterator[None]:
    """No lines and no progress inside, warnings only: for use from Python. `also_warnings`: not even those, for what will be
    done, and said, again."""
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = _MUTE if also_warnings else before or "1"
    try:
        yield
    finally:
        os.environ.pop(_QUIET, None) if before is None else os.environ.update({_QUIET: before})


def say(text: str = "") -> None:
    """One line of information."""
    if _QUIET not in os.environ:
        print(text, file=sys.stderr if wants_json() else sys.stdout, flush=True)


def warn(what: str, *, why: str, do: str) -> None:
    """A warning says what, why, and what to do about it."""
    if os.environ.get(_QUIET) != _MUTE:
        print(f"Warning: {what}. {why}. {do}.", file=sys.stderr, flush=True)


def chose(name: str, value: object, reason: str) -> None:
    """Every automatic choice is printed with its reason."""
    say(f"  {name} = {value}  ({reason})")


def result(document: dict[str, Any]) -> None:
    """The one object that `--json` promises; nothing for an empty one, as ranks other than the first have."""
    if wants_json() and document:
        print(json.dumps(document, allow_nan=False, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, so that it is no text in JSON; everything else, such as a path, as text."""
    return value.item() if hasattr(value, "item") else str(value)


def is_terminal() -> bool:
    return sys.stderr.isatty() and _QUIET not in os.environ


class Progress:
    """A bar on a terminal, a plain line every `every_s` seconds elsewhere. Use as a context manager."""

    def __init__(self, title: str, *, total: int, unit: str, every_s: float = 10.0):
        self.title, self.total, self.unit, self.every_s = title, total, unit, every_s
        self.done, self.note = 0, ""
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="", completed=self.done)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self.note)
            return
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            left_s = (now - self._start) / max(self.done, 1) * (self.total - self.done)
            say(f"{self.title}: {self.done}/{self.total} {self.unit}, {left_s:.0f} s left {self.note}".rstrip())


def bytes_text(count: float) -> str:
    """1536 -> `1.5 kB`: powers of 1,000, as disks are sold."""
    for unit, digits in (("bytes", 0), ("kB", 1), ("MB", 1), ("GB", 1), ("TB", 1)):
        if abs(round(count, digits)) < 1000 or unit == "TB":
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def count_text(count: int, noun: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def seconds_text(seconds: float) -> str:
    """75 -> `1 min 15 s`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
