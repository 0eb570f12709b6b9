"""The report of a recipe of a study, from its project.json alone: `report.html` (one file that needs no other; the parts' own
reports stand beside it) and `report.md`. No torch; every name in it may be hostile, and is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanlight.console import count_text, seconds_text
from fanlight.errors import RunError
from fanlight.study import pages
from fanlight.study.layouts.markdown import plain
from fanlight.study.projects import beside, headline, recipe

Doc = dict[str, Any]


def write(place: Path) -> Path:
    """Writes both; returns the page's path. RunError where there is no result."""
    try:
        document = json.loads((place / "project.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(
            f"{place} has no readable project.json, which a study writes at its end; go on with: fanlight study "
            f"--resume {place}"
        ) from None
    if document.get("version") != beside.VERSION:
        raise RunError(
            f"{place / 'project.json'} has version {document.get('version')!r}, this Fanlight reads {beside.VERSION}; made anew, "
            f"without measuring, by: fanlight study --resume {place}"
        )
    comparisons = [_tabled(each) for each in document["comparisons"]]
    figures = {part["name"]: drawn for part in document["parts"] if (drawn := _figures(place / part["study"]))}
    (place / "report.md").write_text(_markdown(document, comparisons), encoding="utf-8", errors="replace")
    html = pages.render(
        "projects.html", project=document, comparisons=comparisons, figures=figures,
        said=document["verdict"].splitlines(),
    )  # fmt: skip
    return pages.write(place / "report.html", html)


def _figures(study: Path) -> list[tuple[str, str]]:
    """Of a part: the two that a reader looks for first."""
    found = []
    for name, words in (("speedups", "Speedup over one core or one GPU"), ("shares", "Where a step's time goes")):
        path = study / "figures" / f"{name}.svg"
        if path.exists():
            found.append((words, pages.uri(path.read_text(encoding="utf-8"))))
    return found


def _tabled(each: Doc) -> Doc:
    """A comparison with its table. Over all cores in one process is a column where there is any."""
    whole = each["unit"] == "s" and any(case["over"].get("all_cores") for case in each["cases"])
    rows = [_cells(case, each["unit"], whole=whole) for case in each["cases"]]
    return each | {"head": _head(each["unit"], whole=whole), "rows": rows}


def _head(unit: str, *, whole: bool = False) -> list[str]:
    """Of a comparison's table."""
    if unit in recipe.SCORES:
        return ["case", "reported", "here", f"{unit} here", "note"]
    if unit == "ratio":
        return ["case", "reported", "here", "images/s here", "over one core here", "note"]
    ours = ["here", "images/s here", "ours, × its first", *["× one process on all cores"] * whole]
    return ["case", "reported", "theirs, × its first", *ours, "note"]


def _cells(case: Doc, unit: str, *, whole: bool = False) -> list[str]:
    low_high = case[f"{unit}_interval"] if unit in recipe.SCORES else case["interval"]
    here, note = case["here"] or "–", case["reason"] or case["note"]
    if case["status"] in ("failed", "lacking"):
        note = f"{case['status']}: {note}"
    if unit in recipe.SCORES:
        ends = "" if not low_high else f" ({low_high[0]:.3f} … {low_high[1]:.3f})"
        return [
            case["case"],
            _number(case["reported"], "{:.3f}"),
            here,
            _number(case[unit], "{:.3f}") + ends,
            note,
        ]
    ends = "" if not low_high else f" ({low_high[0]:,.1f} … {low_high[1]:,.1f})"
    rate = _number(case["rate"], "{:,.1f}") + (ends if case["rate"] is not None else "")
    ours = [here, rate, _times(case["ratio"], case["ratio_interval"])]
    if unit == "ratio":
        return [case["case"], _times(case["reported"]), *ours, note]
    if whole:
        base = case["over"].get("all_cores") or {"point": "", "value": None, "interval": None}
        ours.append(_times(base["value"], None if base["point"] == case["here"] else base["interval"]))
    reported = "–" if case["reported"] is None else seconds_text(case["reported"])
    return [case["case"], reported, _times(case["reported_ratio"]), *ours, note]


def _times(value: float | None, interval: Sequence[float] | None = None) -> str:
    return "–" if value is None else headline.times(value) + headline.range_of(interval)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _markdown(project: Doc, comparisons: list[Doc]) -> str:
    machine = project["machine"]
    lines = [f"# {plain(project['title'])}", ""]
    cores = count_text(machine["cores_usable"], "usable core")
    lines += [plain(f"Reported: {project['theirs']}. Here: {machine['cpu']}, {cores}; "
                    f"{project['images']} images of {project['data']}; {project['started']}."), ""]  # fmt: skip
    lines += [f"- {plain(line)}" for line in project["verdict"].splitlines()]
    for each in comparisons:
        head = each["head"]
        lines += ["", f"## {plain(each['title'])}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(plain(cell) for cell in row)} |" for row in each["rows"]]
        lines += ["", f"Why they differ: {plain(each['why'])}"] if each["why"] else []
        lines += ["", *(f"- {plain(line)}" for line in each["causes"])] if each["causes"] else []
    if project["lacking"]:
        lines += ["", "## What is lacking", "", "| what | why | where it comes from |", "|---|---|---|"]
        lines += [
            f"| {plain(each['what'])} | {plain(each['why'])} | {plain(each['from'])} |" for each in project["lacking"]
        ]
    lines += ["", "## Parts", ""]
    for part in project["parts"]:
        reason = f": {part['reason']}" if part["reason"] else ""
        lines.append(f"- {plain(part['title'])}: {plain(part['status'] + reason)} ({seconds_text(part['seconds'])}), "
                     f"`{part['study']}`")  # fmt: skip
        lines += [f"    - {plain(note)}" for note in (*part["notes"], *part["verdict"].splitlines())]
    versions = ", ".join(f"{name} {version}" for name, version in project["versions"].items())
    lines += ["", "## Repeat", "", *(f"    {line}" for line in project["command"].splitlines()), ""]
    if len(project["sessions"]) > 1:
        lines += ["Continued by:", "", *(f"    {each['command']}" for each in project["sessions"][1:]), ""]
    return "\n".join([*lines, plain(f"Fanlight {project['fanlight']}, {versions}."), ""])
