"""Who runs when, and what is kept: interleaved rounds whose finished runs are lines of a file, so that a rerun continues.

Round -1 warms up (libraries and files come into the system's cache) and is not counted. In round r the order begins with
contestant r: slow changes of the machine then meet all of them alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
WARM_UP = -1


def order(names: Sequence[str], *, number: int) -> list[str]:
    """The names in the order of round `number`, each once."""
    if not names:
        return []
    first = max(number, 0) % len(names)
    return [*names[first:], *names[:first]]


def plan(names: Sequence[str], *, rounds: int, warm_up: bool) -> list[tuple[int, str]]:
    """(round, contestant) of the whole contest, in order."""
    numbers = ([WARM_UP] if warm_up else []) + list(range(rounds))
    return [(number, name) for number in numbers for name in order(names, number=number)]


def read(path: Path) -> list[Record]:
    """The finished runs of the file; a last line that was torn by a stop is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def append(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(record) + "\n")


def is_done(record: Record, *, contest: str, number: int, name: str) -> bool:
    """Whether this record is that run of that contest, without an error."""
    return (record["contest"], record["round"], record["name"]) == (contest, number, name) and not record.get("error")


def run_all(
    plan: Iterable[tuple[int, str]], path: Path, *, contest: str, run: Callable[[int, str], Record],
    say: Callable[[str], None] = print,
) -> list[Record]:  # fmt: skip
    """Runs what the file at `path` lacks; all counted runs of `contest`, the newest where one was tried again.

    `contest` names everything that two runs must share to be compared (question, data, settings). A run that failed is
    kept as a record with `error`, is tried again by the next call, and does not stop the others."""
    planned = list(plan)
    known = read(path)
    for number, name in planned:
        if any(is_done(record, contest=contest, number=number, name=name) for record in known):
            continue
        record = {"contest": contest, "round": number, "name": name, **run(number, name)}
        append(path, record)
        known.append(record)
        say(f"round {number}  {name:<28} {_words(record)}")
    wanted = {key for key in planned if key[0] != WARM_UP}
    newest = {(r["round"], r["name"]): r for r in known if r["contest"] == contest}
    return [record for key, record in newest.items() if key in wanted]


def _words(record: Record) -> str:
    if record.get("error"):
        return "failed: " + record["error"].strip().splitlines()[-1][:120]
    return f"{record['validated_s']:.1f} s"
