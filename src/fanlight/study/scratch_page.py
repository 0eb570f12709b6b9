"""The report of `fanlight scratch bench`, from its bench.json alone: `report.html` (one file that needs no other), `bench.md` and
`figures/`. No torch; every name may be hostile, and is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanlight.console import seconds_text
from fanlight.errors import RunError
from fanlight.study import pages, stats
from fanlight.study.layouts.markdown import plain

HEAD = ("who", "ms", "95 %", "n", "limit", "× NumPy", "× torch", "error")
CONVOLUTIONS = ("conv2d", "conv2d_input", "conv2d_weight", "conv2d_pooled")
Doc = dict[str, Any]


def write(place: Path) -> Path:
    """Writes all; returns the page's path. RunError where there is no result."""
    from fanlight.study import drawing, scratch_drawings

    document = read(place)
    figures = scratch_drawings.all_of(document)
    for name, drawn in figures.items():
        drawing.save(place / "figures", name, drawn[1])
    (place / "bench.md").write_text(markdown(document), encoding="utf-8", errors="replace")
    html = pages.render(
        "scratch.html", bench=document, head=HEAD, groups=groups(document["rows"]), said=verdict(document),
        beside=[_beside(each) for each in document["beside"]], means=means(document["rows"]),
        figures=[(words, pages.uri(drawn)) for words, drawn in figures.values()], cells=cells, limits=limit_texts(document),
    )  # fmt: skip
    return pages.write(place / "report.html", html)


def read(place: Path) -> Doc:
    """bench.json."""
    try:
        document = json.loads((place / "bench.json").read_text(encoding="utf-8"))
        found = document["version"], document["rows"], document["limits"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{place} has no readable bench.json; begin anew with: fanlight scratch bench") from None
    if found[0] != 1:
        raise RunError(
            f"{place / 'bench.json'} has version {found[0]!r}, this Fanlight reads 1; use the one that wrote it"
        )
    return document


def groups(rows: Sequence[Doc]) -> dict[str, list[Doc]]:
    """Rows of one question: op, direction, shape and number format."""
    found: dict[str, list[Doc]] = {}
    for row in rows:
        form = "" if row["format"] == "fp32" else f", {row['format']}"
        name = row["op"] if row["op"] == row["direction"] else f"{row['op']}, {row['direction']}"
        found.setdefault(f"{name}: {row['shape']}{form}", []).append(row)
    return found


def cells(row: Doc) -> list[str]:
    """Of a row, as HEAD has them; one without a time has its reason in place of all that follows the name."""
    if row["ms"] is None:
        return [row["backend"], row["reason"] or "not timed"]
    interval = stats.center(row["rounds_ms"]).interval
    low_high = "–" if interval is None else f"{number(interval[0])} … {number(interval[1])}"
    error = "–" if row["max_error"] is None else f"{row['max_error']:.0e}"
    part = " (a part, scaled)" if row["is_part"] else ""
    ratios = [times(row[key]) for key in ("vs_numpy", "vs_torch")]
    return [
        row["backend"] + part,
        number(row["ms"]),
        low_high,
        str(row["n"]),
        share(row["share_of_limit"]),
        *ratios,
        error,
    ]


def number(value: float) -> str:
    """Three digits, and no powers of ten."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def share(value: float | None) -> str:
    """In percent; small ones with two digits."""
    return (
        "–"
        if value is None
        else f"{value:.0%}"
        if value >= 0.01
        else f"{float(f'{100 * value:.2g}'):f}".rstrip("0") + "%"
    )


def times(value: float | None) -> str:
    return "–" if value is None else number(value)


def verdict(document: Doc) -> list[str]:
    """A sentence per question: the best of ours beside PyTorch's best, on the CPU and on the GPU."""
    said = []
    for title, rows in groups(document["rows"]).items():
        for device in ("cpu", "cuda"):
            there = [row for row in rows if row["ms"] is not None and row["device"] == device]
            ours = [row for row in there if row["kind"] in ("numpy", "numba", "triton")]
            if not ours or rows[0]["op"] in ("batch",):
                continue
            best = min(ours, key=lambda row: row["ms"])
            line = f"{title}: {best['backend']} takes {number(best['ms'])} ms"
            if best["vs_numpy"] and best["kind"] != "numpy":
                line += f", {number(best['vs_numpy'])} times as fast as NumPy"
            peers = [row for row in there if row["kind"] == "torch"]
            if peers:
                line += f", {_beside_torch(best, min(peers, key=lambda row: row['ms']))}"
            said.append(f"{line}.")
    if wrong := [row for row in document["rows"] if (row["reason"] or "").startswith("wrong")]:
        names = "; ".join(f"{row['op']} {row['direction']} by {row['backend']}" for row in wrong)
        said.insert(0, f"Wrong, and therefore not timed: {names}.")
    return said


def _beside_torch(best: Doc, peer: Doc) -> str:
    """In words; what the rounds do not tell apart is said to be so."""
    count = min(len(best["rounds_ms"]), len(peer["rounds_ms"]))
    found = stats.ratio(peer["rounds_ms"][:count], best["rounds_ms"][:count])
    name = f"PyTorch's better layout ({peer['backend']})"
    if found.interval is None:
        return f"{number(found.value)} times as fast as {name}, in one round"
    low, high = found.interval
    ends = f"{number(low)} … {number(high)}"
    if low <= 1 <= high:
        return f"not told apart from {name} ({ends})"
    return f"{number(found.value)} times {'as fast as' if low > 1 else 'the speed of'} {name} ({ends})"


def means(rows: Sequence[Doc]) -> list[list[str]]:
    """Of convolutions over ResNet's shapes: how many times as fast as PyTorch's better layout, geometric mean."""
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["op"] in CONVOLUTIONS and row["kind"] in ("numba", "triton") and row["vs_torch"]:
            ratios.setdefault((row["op"], row["format"], row["backend"]), []).append(row["vs_torch"])
    return [
        [*key, f"{math.exp(sum(map(math.log, found)) / len(found)):.2f}", str(len(found))]
        for key, found in ratios.items()
    ]


def limit_texts(document: Doc) -> list[str]:
    return [
        f"{'CPU' if each['device'] == 'cpu' else 'GPU'}, "
        f"{'' if each['threads'] is None else str(each['threads']) + ' threads, '}{each['number_format']}: a copy "
        f"{each['bytes_per_s'] / 1e9:,.1f} GB/s, a product {each['flop_per_s'] / 1e9:,.0f} GFLOP/s"
        for each in document["limits"]
    ]


def _beside(each: Doc) -> Doc:
    def row(of: Doc) -> list[str]:
        seconds = (
            "–"
            if of["seconds"] is None
            else f"{number(1e3 * of['seconds'])} ms"
            if of["seconds"] < 10
            else seconds_text(of["seconds"])
        )
        return [of["version"], seconds, times(of["ratio"])]

    title = f"{each['op']}, {each['direction']}: {each['shape']}"
    return {"title": title, "note": each["note"], "theirs": [row(of) for of in each["theirs"]],
            "ours": [row(of) for of in each["ours"]]}  # fmt: skip


def heading(document: Doc) -> str:
    facts = document["machine"]
    return (
        f"{facts['cpu']}, {facts['cores_usable']} usable cores, {document['gpu'] or 'no GPU'}; torch "
        f"{document['versions']['torch']}, NumPy {document['versions']['numpy']}; {document['started'][:10]}; "
        f"{document['rounds']} rounds{', quick' if document['quick'] else ''}{_load(document)}"
    )


def _load(document: Doc) -> str:
    load = document.get("load")
    return "" if load is None else f"; load before: {load:.1f}"


def markdown(document: Doc) -> str:
    lines = ["# Operators and networks from scratch", "", plain(heading(document)), "", f"`{document['command']}`", ""]
    lines += [f"- {plain(text)}" for text in limit_texts(document)]
    lines += ["", "Medians; 95 % intervals by Student's t on logarithms. Limit: the share of it that was reached. Error: the "
              "largest ‖result − NumPy's in float64‖ / ‖NumPy's‖; what is wrong is not timed.", ""]  # fmt: skip
    lines += [f"- {plain(line)}" for line in verdict(document)]
    for title, rows in groups(document["rows"]).items():
        lines += ["", f"## {plain(title)}", "", f"| {' | '.join(HEAD)} |", f"|---|{'--:|' * (len(HEAD) - 1)}"]
        for row in rows:
            found = cells(row)
            lines.append(f"| {' | '.join(plain(cell) for cell in found)} |{' |' * (len(HEAD) - len(found))}")
    if found_means := means(document["rows"]):
        lines += ["", "## Convolutions over ResNet's shapes beside PyTorch's better layout, geometric means", "",
                  "| operator | format | who | times as fast | shapes |", "|---|---|---|--:|--:|"]  # fmt: skip
        lines += [f"| {' | '.join(map(plain, row))} |" for row in found_means]
    lines += ["", "## The reference project's own figures", ""]
    for each in map(_beside, document["beside"]):
        note = f" ({each['note']})" if each["note"] else ""
        lines += [f"**{plain(each['title'] + note)}**", "", "| who | time | × its NumPy |", "|---|--:|--:|"]
        lines += [f"| {side}: {' | '.join(map(plain, row))} |" for side in ("theirs", "ours") for row in each[side]]
        lines.append("")
    if document["left_out"]:
        lines.append(f"Left out, as time was up: {plain('; '.join(document['left_out']))}.")
    return "\n".join(lines) + "\n"
