"""`--group-by`: which files belong together, said by a column of the list file or by a pattern in the paths."""

from __future__ import annotations

import re
from dataclasses import replace

from fanlight.console import say, warn
from fanlight.data.formats import Listing
from fanlight.errors import ConfigError, near


def regroup(listing: Listing, by: str) -> Listing:
    """The listing with `groups` by a column of that name, else by a regular expression that is searched in each path: its
    first bracketed part, or all that it matches, names the group. Files without one stay on their own.

    ConfigError for a pattern that is none, or that no path matches."""
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
    say(f"Groups by {where}: {named}, of {len(groups) - alone} files")
    if alone:
        example = listing.paths[groups.index("")]
        warn(f"{alone} files have no group", why=f"{where} says nothing of {example}", do="Each of them counts alone")
    return replace(listing, groups=groups)


def _matches(listing: Listing, by: str) -> list[str]:
    columns = listing.columns
    there = f" The list's columns: {', '.join(columns)}.{near(by, columns)}" if columns else ""
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ConfigError(
            f"data.group_by {by!r} is neither a column nor a regular expression ({error}).{there}"
        ) from None
    groups = []
    for path in listing.paths:
        found = pattern.search(path)
        groups.append((found[1] if pattern.groups else found[0]) or "" if found else "")
    if not any(groups):
        raise ConfigError(
            f"data.group_by {by!r} matches none of {len(groups)} paths, such as {listing.paths[0]}.{there}"
        )
    return groups
