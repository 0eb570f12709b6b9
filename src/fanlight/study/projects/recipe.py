"""A recipe of a study: YAML that says what is measured part by part, and what the reference project reported of it.

title, theirs   what was studied, and on which machines
config          of all parts, as recipes of training have it
parts           name -> {of: layouts | loading, title, config, layouts, ranks, precisions, workers, engines};
                a precision may be `mixed`: the short format that this machine trains in (run.py)
comparisons     [{title, part, unit, why, cases: [{case, reported, lacks, …}], …}]; every other key says which point
                or row a case is beside (beside.py), for one case or, written above `cases`, for all of them
lacking         [{what, why, from}]: what the project did and cannot be measured
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.errors import ConfigError, near

SUBJECTS = ("layouts", "loading")
SCORES = ("accuracy", "loss")  # share of right answers; of a caption's words, each after the true ones before it
UNITS = ("s", "ratio", *SCORES)  # of what was reported: seconds, times the first case, what came out
TOP = ("title", "theirs", "config", "parts", "comparisons", "lacking")
GRID = {"layouts": ("layouts", "ranks", "precisions"), "loading": ("workers", "engines")}
PART = ("of", "title", "config", *GRID["layouts"], *GRID["loading"])
COMPARISON = ("title", "unit", "why", "cases")
SELECTS = ("part", "layout", "ranks", "cores", "precision", "device", "what", "engine", "workers")
CASE = ("case", "reported", "lacks", *SELECTS)
LACKING = ("what", "why", "from")
COUNTS = {"ranks": int, "workers": int, "cores": int}
CHOICES = {  # values that have a meaning of their own, beside numbers for those of COUNTS
    "cores": ("all",), "workers": ("most",), "device": ("cpu", "cuda"), "precision": ("fp32", "bf16", "fp16", "mixed"),
}  # fmt: skip
KINDS = {int: "a whole number", float: "a number", str: "a word"}


@dataclass(frozen=True)
class Part:
    """One study of the recipe. Empty: as that study has it by itself."""

    name: str
    of: str
    title: str
    config: Mapping[str, Any]
    layouts: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    workers: tuple[int, ...] = ()
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One figure of the project, and what it is beside here."""

    case: str
    reported: float | None  # None: only measured here
    lacks: str  # why nothing here is like it; empty: something is
    selects: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Figures of the project that belong together; ratios are over the first of them."""

    title: str
    unit: str
    why: str  # theirs and ours differ
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Recipe:
    """A whole one, checked."""

    name: str
    title: str
    theirs: str
    parts: tuple[Part, ...]
    comparisons: tuple[Comparison, ...]
    lacking: tuple[Mapping[str, str], ...]
    document: Mapping[str, Any] = field(repr=False)  # as it was read

    def config_of(self, part: Part) -> Config:
        """What the recipe asks for in a part."""
        under = Config()
        for asked in (self.document.get("config") or {}, part.config):
            under = configuration.from_document(asked, where=f"recipe {self.name}", under=under)
        return under


def read(path: Path) -> Recipe:
    """The recipe in a file; ConfigError where it is none."""
    return parse(configuration.read_document(path), name=path.stem)


def parse(document: Any, *, name: str) -> Recipe:
    """A recipe from plain containers. ConfigError that names the place for what cannot be one."""
    where = f"recipe {name}"
    top = _fields(document, TOP, where=where, needs=("title", "parts"))
    parts = tuple(_part(key, each, where=f"{where}, part {key}") for key, each in _named(top["parts"], where).items())
    found = Recipe(
        name, str(top["title"]), str(top.get("theirs") or ""), parts,
        tuple(_comparison(each, parts, where=where) for each in _listed(top.get("comparisons"), f"{where}, comparisons")),
        tuple(_lacking(each, where=where) for each in _listed(top.get("lacking"), f"{where}, lacking")), top,
    )  # fmt: skip
    for part in parts:
        found.config_of(part)
    return found


def _part(name: str, document: Any, *, where: str) -> Part:
    given = _fields(document, PART, where=where, needs=("of",))
    if given["of"] not in SUBJECTS:
        raise ConfigError(f"{where}: `of` is {given['of']!r}; choose {', '.join(SUBJECTS)}")
    other = next(subject for subject in SUBJECTS if subject != given["of"])
    if wrong := [key for key in GRID[other] if key in given]:
        raise ConfigError(f"{where}: `{wrong[0]}` is of a part of {other}, and this one is of {given['of']}")
    lists = {
        key: tuple(
            _value(each, COUNTS.get(key, str), f"{where}, {key}") for each in _listed(given.get(key), f"{where}, {key}")
        )
        for key in (*GRID["layouts"], *GRID["loading"])
    }
    return Part(name, given["of"], str(given.get("title") or name), given.get("config") or {}, **lists)


def _comparison(document: Any, parts: Sequence[Part], *, where: str) -> Comparison:
    given = _fields(
        document, (*COMPARISON, "lacks", *SELECTS), where=f"{where}, comparisons", needs=("title", "unit", "cases")
    )
    where = f"{where}, comparison {given['title']!r}"
    if given["unit"] not in UNITS:
        raise ConfigError(f"{where}: `unit` is {given['unit']!r}; choose {', '.join(UNITS)}")
    shared = {key: given[key] for key in (*SELECTS, "lacks") if key in given}
    names = [part.name for part in parts]
    cases = []
    for each in _listed(given["cases"], where):
        case = shared | _fields(each, CASE, where=where, needs=("case",))
        if case.get("part") not in names:
            raise ConfigError(f"{where}, {case['case']!r}: `part` is {case.get('part')!r}; choose {', '.join(names)}")
        named = f"{where}, {case['case']!r}"
        reported = None if case.get("reported") is None else _value(case["reported"], float, f"{named}, reported")
        selects = {key: _selected(key, case[key], f"{named}, {key}") for key in SELECTS if key in case}
        cases.append(Case(str(case["case"]), reported, str(case.get("lacks") or ""), selects))
    return Comparison(str(given["title"]), given["unit"], " ".join(str(given.get("why") or "").split()), tuple(cases))


def _lacking(document: Any, *, where: str) -> dict[str, str]:
    given = _fields(document, LACKING, where=f"{where}, lacking", needs=LACKING)
    return {key: " ".join(str(given[key]).split()) for key in LACKING}


def _fields(document: Any, known: Sequence[str], *, where: str, needs: Sequence[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected fields such as `{known[0]}:`, got {type(document).__name__}")
    for key in document:
        if key not in known:
            raise ConfigError(f"{where}: `{key}` is unknown.{near(str(key), known)} There are {', '.join(known)}")
    if missing := [key for key in needs if document.get(key) in (None, "", [], {})]:
        raise ConfigError(f"{where}: `{missing[0]}` is missing")
    return document


def _named(document: Any, where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: `parts` should be names with fields below, got {type(document).__name__}")
    if bad := [key for key in document if not str(key).replace("-", "").isalnum()]:  # they name folders
        raise ConfigError(f"{where}: part {bad[0]!r} should be named by letters, digits and -")
    return {str(key): each for key, each in document.items()}


def _listed(document: Any, where: str) -> list[Any]:
    if document is None:
        return []
    if not isinstance(document, list):
        raise ConfigError(f"{where}: expected a list, got {document!r}")
    return document


def _selected(key: str, value: Any, where: str) -> Any:
    """What says which point or row a case is beside."""
    known = CHOICES.get(key, ())
    if key in COUNTS:
        return value if value in known and value is not True else _value(value, int, where)
    if known and value not in known:
        raise ConfigError(f"{where}: {value!r}; choose {', '.join(known)}")
    return _value(value, str, where)


def _value(value: Any, kind: type, where: str) -> Any:
    """A word, or a number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ConfigError(f"{where}: {value!r} should be {KINDS[kind]}")
    if isinstance(value, int | float) and not 0 < value < math.inf:
        raise ConfigError(f"{where}: {value!r} should be {KINDS[kind]} above 0")
    return kind(value)
