"""`--group-by`: which files belong together, said by a column of the list file or by a pattern in the paths."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

from fanlight.console import say, warn
from fanlight.data.formats import Listing
from fanlight.errors import ConfigError, near, shown_all

SECONDS_MOST = 10  # of a pattern over all paths; a million take one


def regroup(listing: Listing, by: str) -> Listing:
    """The listing with `groups` by a column of that name, else by a regular expression that is searched in each path: its
    first bracketed part, or all that it matches, names the group. Files without one stay on their own. A plain word is a column.

    ConfigError for a pattern that is none, or that no path matches."""
    if not by:
        raise ConfigError("data.group_by is empty; name a column or a pattern, or leave it out")
    if (column := by.strip().lower()) in listing.columns:
        groups = [value.strip() for value in listing.columns[column]]
        where = f"column {by}"
    else:
        groups = _matches(listing, by)
        where = f"pattern {by!r}"
    alone = groups.count("")
    named = len(set(groups) - {""})
    if named == 0:
        raise ConfigError(f"data.group_by {by!r}: the column is empty in all {len(groups)} rows; name another one")
    if named == 1 and not alone:
        raise ConfigError(
            f"data.group_by {by!r} puts all {len(groups)} files into one group, which no split can divide"
        )
    say(f"Groups by {where}: {named}, of {len(groups) - alone} files")
    if alone:
        example = listing.paths[groups.index("")]
        warn(f"{alone} files have no group", why=f"{where} says nothing of {example}", do="Each of them counts alone")
    return replace(listing, groups=groups)


def _matches(listing: Listing, by: str) -> list[str]:
    columns = listing.columns
    there = f" The columns: {shown_all(columns)}.{near(by, columns)}" if columns else ""
    if by.isidentifier():  # as a pattern it would match itself, and put whatever it is in into one group
        lacks = "is no column of" if columns else "cannot be a column, because there are none in"
        raise ConfigError(
            f"data.group_by {by!r} {lacks} {listing.source}.{there} To search the paths, give a regular expression whose bracket "
            r"names the group, such as '(patient\d+)'"
        )
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ConfigError(
            f"data.group_by {by!r} is neither a column nor a regular expression ({error}).{there}"
        ) from None
    groups = []
    with _limited(by):
        for path in listing.paths:
            found = pattern.search(path)
            groups.append((found[1] if pattern.groups else found[0]) or "" if found else "")
    if not any(groups):
        raise ConfigError(
            f"data.group_by {by!r} matches none of {len(groups)} paths, such as {listing.paths[0]}.{there}"
        )
    return groups


@contextlib.contextmanager
def _limited(by: str) -> Iterator[None]:
    """Ends a search that would take for ever: nested repetition tries every way to part a name. Signals reach the main thread
    only; the command line is in it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def refuse(*_: object) -> None:
        raise ConfigError(
            f"data.group_by {by!r} is not done after {SECONDS_MOST} s; a repetition in a repetition, such as (a+)+, tries every "
            "way to part a name: write it without"
        )

    before = signal.signal(signal.SIGALRM, refuse)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MOST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
