"""Which configuration of a number format pays, in a line for CPUs and one for GPUs. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.study.layouts import intervals

Doc = Mapping[str, Any]


def words(study: Doc, precision: str) -> list[str]:
    """Of each kind of device that has a baseline: what it does, and whether a parallel layout is faster."""
    measured = [p for p in study["points"] if p["status"] == "measured" and p["precision"] == precision]
    said = []
    for device, kind, head in (("cpu", "all_cores", _all_cores), ("cuda", "one_device", _one_device)):
        base = study["baselines"][kind].get(precision)
        if base is not None:
            mine = [p for p in measured if p["device"] == device and p["layout"] != "serial" and p["over"].get(kind)]
            said.append(f"{precision}: {head(study, precision, base)}.{_fastest(mine, kind)}")
    return said


def fastest(points: Sequence[Doc], kind: str) -> Doc | None:
    """The parallel point that is fastest over the baseline `kind`, all_cores or one_device."""
    over = [p for p in points if p["layout"] != "serial" and (p.get("over") or {}).get(kind)]
    return max(over, key=lambda p: p["over"][kind]["value"], default=None)


def _all_cores(study: Doc, precision: str, base: Doc) -> str:
    head = f"one process on {base['cores']} cores does {base['images_per_s']:,.1f} images/s"
    one = study["baselines"]["one_core"].get(precision)
    own = _point(study, base["point"])
    if one is not None and one["point"] != base["point"] and own["speedup"]:
        head += f", {own['speedup']:.2f}× of one core"
    return head


def _one_device(study: Doc, precision: str, base: Doc) -> str:
    head = f"one GPU does {base['images_per_s']:,.1f} images/s"
    gain = _point(study, base["point"])["device_gain"]
    return (
        head if gain is None else f"{head}, a device gain of {gain:.1f}× over all cores, which is no parallel speedup"
    )


def _fastest(mine: Sequence[Doc], kind: str) -> str:
    best = fastest(mine, kind)
    if best is None:
        return ""
    value, ends = best["over"][kind]["value"], best["over"][kind]["interval"]
    if ends is None:
        return f" Best of a single round: {best['name']}, {value:.2f}× of that."
    if ends[0] > 1 and value > intervals.FASTER:
        other = " (another algorithm)" if "other algorithm" in best["flags"] else ""
        return f" Fastest: {best['name']}{other}, {value:.2f}× of that."
    return f" No parallel layout is faster beyond its interval; the best, {best['name']}, is {value:.2f}× of that."


def _point(study: Doc, name: str) -> Doc:
    return next(point for point in study["points"] if point["name"] == name)
