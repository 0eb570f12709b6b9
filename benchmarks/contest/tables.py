"""Records of a contest -> Markdown. No number without n and interval; no run hidden, failed ones are listed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contest.contestants import FANLIGHT, FLOOR
from contest.rounds import Record
from hardware import median_interval, ratio_interval

Curve = Sequence[Sequence[float]]  # (seconds from Enter, accuracy) of each validation


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Successful runs by contestant, by round."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["round"]):
        if not record.get("error"):
            found.setdefault(record["name"], []).append(record)
    return found


def paired(values: Sequence[Record], others: Sequence[Record], *, key: str) -> tuple[list[float], list[float]]:
    """The two series of the rounds that both have."""
    by_round = {record["round"]: record[key] for record in others}
    both = [record for record in values if record["round"] in by_round]
    return [record[key] for record in both], [by_round[record["round"]] for record in both]


def job_table(records: Sequence[Record]) -> str:
    """Time from Enter to the end of validation, by contestant, fastest first, and its ratio to Fanlight's."""
    runs = grouped(records)
    floor_s = float(np.median([r["validated_s"] for r in runs[FLOOR]])) if FLOOR in runs else None
    lines = [
        "| trainer | n | s to the end of validation | 95 % | to the prompt, s | above the floor, s | ÷ Fanlight's | 95 % "
        "| img/s, all in | CPU s | peak memory | accuracy | validated |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, mine in sorted(runs.items(), key=lambda item: float(np.median([r["validated_s"] for r in item[1]]))):
        middle = {key: float(np.median([r[key] for r in mine])) for key in MIDDLES}
        cells = [
            name, str(len(mine)), *interval([r["validated_s"] for r in mine], "{:.1f}"), f"{middle['wall_s']:.1f}",
            f"{middle['validated_s'] - floor_s:.1f}" if floor_s is not None else "",
            *_ratio(mine, runs.get(FANLIGHT, []), key="validated_s"), f"{middle['images_per_s']:.0f}",
            f"{middle['cpu_s']:.0f}", f"{middle['peak_bytes'] / 1e6:,.0f} MB",
            _accuracy(mine), str(mine[-1]["count"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *failures(records)]).rstrip() + "\n"


MIDDLES = ("validated_s", "wall_s", "images_per_s", "cpu_s", "peak_bytes")


def frozen_table(records: Sequence[Record]) -> str:
    """Epochs per minute of fine-tuning: of the whole command, and between the first and the last validation."""
    runs = grouped(records)
    lines = [
        "| trainer | n | epochs per minute, from Enter | 95 % | epochs per minute, after the first | 95 % "
        "| Fanlight ÷ it, from Enter | 95 % | accuracy |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, mine in sorted(runs.items(), key=lambda item: float(np.median([r["validated_s"] for r in item[1]]))):
        whole = [60 * len(r["curve"]) / r["validated_s"] for r in mine]
        steady = [value for r in mine if (value := steady_epochs_per_minute(r["curve"])) is not None]
        cells = [
            name, str(len(mine)), *interval(whole, "{:.1f}"), *(interval(steady, "{:.1f}") if steady else ("", "")),
            *_ratio(mine, runs.get(FANLIGHT, []), key="validated_s"), _accuracy(mine),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *failures(records)]).rstrip() + "\n"


def steady_epochs_per_minute(curve: Curve) -> float | None:
    """Between the first and the last validation; None with fewer than two."""
    return 60 * (len(curve) - 1) / (curve[-1][0] - curve[0][0]) if len(curve) > 1 else None


def recipe_table(records: Sequence[Record]) -> str:
    """Each trainer's own recipe: where it ends, when it passes the best peer's end, when Fanlight passes its end."""
    runs = grouped(records)
    ends = {name: float(np.median([r["accuracy"] for r in mine])) for name, mine in runs.items()}
    peers = {name: end for name, end in ends.items() if name != FANLIGHT}
    if not peers:
        return "\n".join(["No peer finished.", *failures(records)]) + "\n"
    best = max(peers, key=lambda name: peers[name])
    target = peers[best]
    lines = [
        f"Target: {target:.4f}, where the recipe of {best} ends (median of its seeds).\n",
        "| trainer | seeds | epochs | accuracy at the end (lowest … highest) | s to the end "
        "| s to the target (median; seeds that reach it) | s that Fanlight takes to this accuracy |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, mine in sorted(runs.items(), key=lambda item: -ends[item[0]]):
        low, high = min(r["accuracy"] for r in mine), max(r["accuracy"] for r in mine)
        whole_s = float(np.median([r["validated_s"] for r in mine]))
        capped = sum(r["is_capped"] for r in mine)
        cells = [
            name, str(len(mine)), f"{np.median([len(r['curve']) for r in mine]):.0f}" + (f" ({capped} cut)" if capped else ""),
            f"{ends[name]:.4f} ({low:.4f} … {high:.4f})", f"{whole_s:.0f}",
            reached([r["curve"] for r in mine], target),
            reached([r["curve"] for r in runs.get(FANLIGHT, [])], ends[name]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *failures(records)]).rstrip() + "\n"


def time_to(curve: Curve, target: float) -> float | None:
    """Seconds from Enter to the first validation at or above the target; None where there is none."""
    return next((seconds for seconds, accuracy in curve if accuracy >= target), None)


def reached(curves: Sequence[Curve], target: float) -> str:
    """The median time to the target over all runs, where one that never reaches it counts as later than all others."""
    if not curves:
        return ""
    times = [time_to(curve, target) for curve in curves]
    count = sum(value is not None for value in times)
    middle = float(np.median([np.inf if value is None else value for value in times]))
    return f"{f'{middle:.0f}' if np.isfinite(middle) else 'not reached'}; {count} of {len(curves)}"


def interval(values: Sequence[float], form: str) -> tuple[str, str]:
    """Median, and its interval where there are two values to speak of one."""
    middle, low, high = median_interval(values)
    return form.format(middle), f"{form.format(low)} … {form.format(high)}" if len(values) > 1 else "n = 1"


def failures(records: Sequence[Record]) -> list[str]:
    return [
        f"Failed: {record['name']}, round {record['round']}: {record['error'].strip().splitlines()[-1][:200]}"
        for record in records
        if record.get("error")
    ]


def _ratio(mine: Sequence[Record], others: Sequence[Record], *, key: str) -> tuple[str, str]:
    a, b = paired(mine, others, key=key)
    if not a:
        return "", ""
    middle, low, high = ratio_interval(a, b)
    return f"{middle:.2f}", f"{low:.2f} … {high:.2f}" if len(a) > 1 else "n = 1"


def _accuracy(mine: Sequence[Record]) -> str:
    known = [record["accuracy"] for record in mine if record["accuracy"] is not None]
    return f"{np.median(known):.4f}" if known else "none"
