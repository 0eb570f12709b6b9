"""Errors that a user can cause. Each message names the field or file, the value, and the way out; the command line
prints it without a traceback and exits with the class's code."""

import difflib
import errno
import os
from collections.abc import Iterable


class FanlightError(Exception):
    """Something failed for a reason that the user can act on."""

    exit_code = 1
    rank_traceback: str | None = None  # where it happened, when that was in another process


class ConfigError(FanlightError):
    """A flag, a config key or a combination of them cannot work."""

    exit_code = 2


class DataError(FanlightError):
    """The data cannot be used as it is."""

    exit_code = 3


class DiskError(FanlightError):
    """A disk could not take what was to be written: it is full, or refuses."""


class RunError(FanlightError):
    """A run folder cannot be read, resumed or used."""


class TrainingError(FanlightError):
    """Training stopped: a non-finite loss, memory that cannot be had, a rank that died."""


class Stopped(FanlightError):
    """The run was asked to stop and saved itself; `resume` continues it."""

    exit_code = 75


def disk_is_full(error: OSError) -> bool:
    """Whether it has no room left, or the user's share of it has none."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwritable(error: OSError, what: str, *, otherwise: str) -> FanlightError:
    """Why `what`, an option and its place, could not be written: a full disk failed, any other place is the wrong one."""
    why = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own words are long
    if disk_is_full(error):
        return DiskError(f"{what} cannot be written: {why}; free some room there, or {otherwise}")
    return ConfigError(f"{what} cannot be written: {why}; {otherwise}")


def near(name: str, names: Iterable[str], *, most: int = 5) -> str:
    """` Near names: a, b.`, or an empty string when nothing is near."""
    found = difflib.get_close_matches(name, list(names), n=most, cutoff=0.55)
    return f" Near names: {', '.join(found)}." if found else ""


def shown(text: str, *, letters: int = 40) -> str:
    """A name out of a file, fit for one line of a message: escaped where it cannot be printed, shortened where it is long."""
    text = text[: letters + 1]  # escaping what is cut off anyway may take long
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def shown_all(names: Iterable[str], *, most: int = 8) -> str:
    """The first of several names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
