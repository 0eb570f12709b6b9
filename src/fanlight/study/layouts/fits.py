"""Laws of scaling, fitted to every layout and number format that was measured on enough numbers of cores. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.study import comparison, laws, scaling
from fanlight.study.laws import LawFit
from fanlight.study.layouts import intervals
from fanlight.study.layouts.grid import Point
from fanlight.study.stats import Estimate, Untold

NAMES: dict[scaling.Scaling, tuple[str, ...]] = {
    "strong": ("linear", "amdahl", "usl"),
    "weak": ("linear", "gustafson", "usl"),
}
Doc = dict[str, Any]


def serial_fraction(speedup: Estimate, *, resources: float, kind: scaling.Scaling) -> Doc:
    """What of the work or the time is serial by a speedup on `resources` times the cores; None, with the reason, on as many."""
    formula = "Karp–Flatt" if kind == "strong" else "Gustafson"
    found: Estimate | Untold = Untold("it has no more cores than the baseline")
    if resources > 1:
        of = scaling.karp_flatt if kind == "strong" else scaling.scaled_serial_fraction
        found = of(speedup, ranks=resources)
    return {"formula": formula, **intervals.told(found)}


def documents(
    points: Sequence[Point], rows: Mapping[str, Sequence[Doc]], *, kind: scaling.Scaling, cores: int
) -> list[Doc]:  # fmt: skip
    """One per layout, device and precision: its laws, or the reason why there are none. `cores`: of the machine; ranks whose
    threads take turns on them scale by no law of cores, and are left out."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        if rows[point.name] and not point.is_oversubscribed(cores):
            found.setdefault((point.layout, point.device, point.precision), []).append(point)
    ones = {
        key[1:]: next((p for p in group if p.cores == 1), None) for key, group in found.items() if key[0] == "serial"
    }
    return [_family(key, group, ones.get(key[1:]), rows, kind) for key, group in found.items()]


def _family(
    key: tuple[str, str, str], group: list[Point], one: Point | None, rows: Mapping[str, Sequence[Doc]],
    kind: scaling.Scaling,
) -> Doc:  # fmt: skip
    layout, device, precision = key
    others = [point for point in group if point != one]
    mine = [*([one] if one else []), *(_curve(others) if layout != "serial" and device == "cpu" else others)]
    both = set.intersection(*({row["round"] for row in rows[point.name]} for point in mine))
    made: Doc = {
        "layout": layout, "device": device, "precision": precision, "scaling": kind, "rounds": len(both),
        "points": [point.name for point in mine], "cores": [point.cores for point in mine], "laws": {}, "best": None,
        "enough": None, "reason": "",
    }  # fmt: skip
    counts = [point.cores for point in mine]
    if one is None:
        return made | {
            "reason": f"no rate on one {'core' if device == 'cpu' else 'GPU'} of this precision was measured"
        }
    if len(set(counts)) < len(counts):
        return made | {"reason": "several of these points have the same cores: with --threads 1 cores grow with ranks"}
    if not both:
        return made | {"reason": "these points have no round in common"}
    rates = [[row["images_per_s"] for row in sorted(rows[p.name], key=lambda r: r["round"]) if row["round"] in both]
             for p in mine]  # fmt: skip
    fitted = {name: laws.fit(name, counts, rates, scaling=kind) for name in NAMES[kind]}
    told = comparison.compare(list(fitted.values()))
    return made | {
        "laws": {name: _law(each) for name, each in fitted.items() if name != "linear"},
        "best": told.best, "enough": told.enough, "reason": told.reason,
    }  # fmt: skip


def _curve(points: list[Point]) -> list[Point]:
    """Those of one layout whose ranks have as many threads each, so that cores grow with ranks; of several such, those on most
    numbers of cores. All, where no two of them do."""
    by_threads: dict[int, list[Point]] = {}
    for point in points:
        by_threads.setdefault(point.threads, []).append(point)
    best = max(by_threads.values(), key=lambda each: (len(each), -each[0].threads), default=points)
    return best if len(best) > 1 else points


def _law(fit: LawFit | Untold) -> Doc:
    if isinstance(fit, Untold):
        return {"reason": fit.reason}
    peak = fit.peak_ranks()
    return {
        "reason": "",
        "parameters": {
            each.name: {"value": each.value, "interval": [_finite(end) for end in each.interval], "note": each.note}
            for each in fit.parameters
        },
        "noise": fit.noise, "off": fit.off, "off_cores": fit.off_ranks, "misfit_p": fit.misfit_p, "aicc": fit.aicc,
        "peak_cores": None if isinstance(peak, Untold) else peak,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
