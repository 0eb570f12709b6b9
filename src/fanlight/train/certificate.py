"""What `fanlight verify` found, in words: a row in the console, a verdict, certificate.json and certificate.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fanlight.train import contract

NUMBERS = ("loss_error", "gradient_error", "buffer_error", "run_error")


def finite(value: Any) -> Any:
    """JSON has no NaN: None in its place, and the reason says it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_undecided(row: Mapping[str, Any]) -> bool:
    """Whether it was compared, and what was found says neither yes nor no."""
    return row["passed"] is None and row["same_batches"] is not None


def is_passed(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every layout that was compared is proven, and one was."""
    told = [row["passed"] for row in rows if row["passed"] is not None or is_undecided(row)]
    return bool(told) and all(told)


def blurred_words(floors: Sequence[contract.Errors], *, dtype: str) -> list[str]:
    """Where the contract's limits are not what decides in `dtype`, and what does."""
    way = (
        f"is decided in fp64, to {contract.RTOL['fp64']['gradient_error']:.0e}"
        if dtype == "fp32"
        else "shows nothing; larger images or fewer microbatches do"
    )
    return [
        f"Rounding alone moves this network's {key.removesuffix('_error')} by up to {most:.1e} in a step in {dtype}: a "
        f"difference between {contract.RTOL[dtype][key]:.0e} and {contract.FLOOR_FACTOR * most:.0e} {way}"
        for key, most in contract.blurred(floors, dtype=dtype).items()
    ]


def line(row: Mapping[str, Any]) -> str:
    """A row in the console."""
    mark = {True: "✓", False: "✗", None: "?" if is_undecided(row) else "–"}[row["passed"]]
    if row["same_batches"] is None:
        return f"  {mark}  {row['name']}: {row['reason']}"
    told = (
        f"loss {_number(row['loss_error'])}, gradient {_number(row['gradient_error'])}, run {_number(row['run_error'])}"
    )
    if row["fp64"] is not None:
        told += f"; {_in_fp64(row)}"
    return f"  {mark}  {row['name']}: {told}" + (f"; {row['reason']}" if row["reason"] else "")


def _in_fp64(row: Mapping[str, Any]) -> str:
    found, limit = row["fp64"], contract.RTOL["fp64"]
    return "decided in fp64: " + ", ".join(
        f"{key.removesuffix('_error')} {_number(found[key])} (limit {limit[key]:.0e})"
        for key in ("loss_error", "gradient_error")
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def write(run: Path, document: dict[str, Any]) -> None:
    """The certificate, for programs and for people."""
    (run / "certificate.json").write_text(json.dumps(document, indent=1))
    (run / "certificate.md").write_text(markdown(document))


def verdict(document: Mapping[str, Any]) -> str:
    """The certificate in a line."""
    rows = document["layouts"]
    if any(row["passed"] is False for row in rows):
        return "NOT every layout equals the serial run"
    if undecided := [row["name"] for row in rows if is_undecided(row)]:
        return f"undecided: {', '.join(undecided)}"
    if not any(row["passed"] for row in rows):
        return "nothing could be compared"
    in_fp64 = any(row["fp64"] is not None for row in rows)
    return "every layout that runs equals the serial run" + (", in fp64 where fp32 cannot tell" if in_fp64 else "")


def markdown(document: Mapping[str, Any]) -> str:
    """The certificate as a page."""
    d = document
    lines = [
        f"# {d['model']} on {d['ranks']} ranks: {verdict(d)}",
        "",
        f"`{d['command']}`",
        "",
        f"{d['steps']} steps in lock-step and {d['steps']} left alone, {d['precision']}, batch {d['batch_size']} in "
        f"{d['microbatches']} microbatches, {d['image_px']} px; noise floor {d['noise_floor']:.1e}, of a "
        f"step's gradient {d['step_floor']['gradient_error']:.1e}; {d['seconds']:.0f} s; Fanlight {d['fanlight']}.",
        "",
        *(part for words in blurred_words(d["step_floors"], dtype=d["precision"]) for part in (f"{words}.", "")),
        "| layout | ranks | same rows | loss | gradient | buffers | left alone | evaluation | resume | |",
        "|---|--:|---|--:|--:|--:|--:|---|---|---|",
    ]
    for row in d["layouts"]:
        is_compared = row["same_batches"] is not None
        told = [_number(row[key]) if is_compared else "" for key in NUMBERS]
        yes = {True: "equal", False: "DIFFERS", None: ""}
        ended = {True: "passed", False: "FAILED", None: "UNDECIDED" if is_compared else "not run"}[row["passed"]]
        why = "; ".join(each for each in (_in_fp64(row) if row["fp64"] else "", row["reason"]) if each)
        cells = [
            row["name"], str(row["ranks"]), yes[row["same_batches"]], *told, yes[row["evaluation_equal"]],
            yes[row["resume_equal"]], ended + (f": {why}" if why else ""),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
