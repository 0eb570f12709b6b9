"""Where the measured curves would go on: each layout and number format on more machines like this one, simulated by `plan`, and
how far the same simulation misses the points that were measured. No torch.

A curve goes on from its measured point with most cores: that point's contention and communication calibrate the simulation, and
what is still missed there scales all that follows; the band has both, scaled and not. The error is of another calibration: each
measured point is predicted without its own parts, from the serial points and the other parallel ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.errors import ConfigError
from fanlight.plan import band, possible
from fanlight.study.layouts import calibration
from fanlight.study.layouts.calibration import Learned, Machine
from fanlight.study.layouts.grid import Point

CORES_MOST = 64  # or GPUs
ROWS_LEAST = 4  # of a microbatch on a rank, where a longer pipeline gets more microbatches (train/layouting.py)
ASSUMED = (
    "Simulated, not measured: further machines are assumed to be like this one, each with as many ranks, joined by links as fast "
    "as those that were measured between the ranks of this machine, and to have as much contention on each, the same scatter of "
    "step times on every rank, and images as quickly; a slower network gives less."
)
BANDED = (
    "The band is what it would be were links half or twice as fast, contention, scatter, stealing and the library's own time of "
    "a collective half or twice as large, each by itself, and with and without the factor by which the simulation misses the "
    "point that a curve goes on from; it is no confidence interval."
)
UNKNOWN = {
    "dataparallel": "data parallelism in one process cannot be simulated",
}
Doc = dict[str, Any]


def document(plan: Mapping[str, Any], points: Sequence[Doc], settings: Mapping[str, Doc], baselines: Doc) -> Doc:
    """The object under `simulated` of points.json. `settings`: the resolved config of a run of each measured point."""
    made: Doc = {
        "source": "simulated", "assumed": ASSUMED, "band": BANDED, "points": [], "predicted": [], "error": None, "left_out": [],
        "reason": "",
    }  # fmt: skip
    network = plan.get("network") or {
        "blocks": [],
        "reason": "this study began before its network's pieces were counted",
    }
    if not network["blocks"]:
        return made | {"reason": network["reason"]}
    blocks = calibration.blocks_of(network["blocks"])
    told = [p for p in points if p["status"] == "measured" and p["shares"] and p["name"] in settings]
    for device, precision in dict.fromkeys((p["device"], p["precision"]) for p in told):
        mine = [p for p in told if (p["device"], p["precision"]) == (device, precision)]
        machine = Machine(mine, settings, blocks)
        parallel = [p for p in mine if p["layout"] != "serial" and "oversubscribed" not in p["flags"]]
        made["predicted"] += [_predicted(machine, point, parallel) for point in parallel]
        one = baselines["one_device" if device == "cuda" else "one_core"].get(precision)
        for anchor in _ends(parallel):
            more = _Further(plan, machine, anchor, one["images_per_s"] if one else None)
            found, left = more.points()
            made["points"] += found
            made["left_out"] += left
    return made | {"error": _error(made["predicted"])}


def words(simulated: Mapping[str, Any]) -> str:
    """How good the simulation is, in a sentence; or why there is none."""
    if simulated["reason"]:
        return f"Nothing is simulated beyond this machine: {simulated['reason']}."
    error = simulated["error"]
    if error is None:
        return "No parallel point was measured that the simulation could be held against."
    points = f"{error['n']} measured points" if error["n"] > 1 else "one measured point"
    return (
        f"The same simulation, without a point's own parts, misses the rates of {points} by {error['median']:.0%} in the middle "
        f"and {error['worst']:.0%} at worst ({error['worst_point']})."
    )


def _ends(parallel: Sequence[Doc]) -> list[Doc]:
    """Of each layout, the point that its curve goes on from."""
    found: dict[str, Doc] = {}
    for point in parallel:
        best = found.get(point["layout"])
        if best is None or (point["cores"], point["images_per_s"]) > (best["cores"], best["images_per_s"]):
            found[point["layout"]] = point
    return list(found.values())


def _predicted(machine: Machine, point: Doc, parallel: Sequence[Doc]) -> Doc:
    """What is foretold of a measured point by the others."""
    made: Doc = {"point": point["name"], "images_per_s": point["images_per_s"], "predicted": None, "error": None}
    if reason := UNKNOWN.get(point["layout"]):
        return made | {"reason": reason}
    others = [p for p in parallel if p is not point and p["layout"] not in UNKNOWN]
    case = machine.here(point, machine.learned(others))
    if isinstance(case, str):
        return made | {"reason": case}
    rate = case.rate()
    return made | {"predicted": rate, "error": rate / point["images_per_s"] - 1, "reason": ""}


def _error(predicted: Sequence[Doc]) -> Doc | None:
    """Median and worst relative error of predicted against measured rates, whichever way they miss."""
    found = {each["point"]: abs(each["error"]) for each in predicted if each["error"] is not None}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    return {"median": statistics.median(found.values()), "worst": found[worst], "worst_point": worst, "n": len(found)}


class _Further:
    """One curve beyond its measured points."""

    def __init__(self, plan: Mapping[str, Any], machine: Machine, anchor: Doc, one_rate: float | None):
        self.machine, self.anchor, self.one_rate = machine, anchor, one_rate
        self.is_weak = plan["scaling"] == "weak"
        self.keeps_microbatches = "train.microbatches" in plan["asked"]
        room = plan["machine"]["cores_usable"] // anchor["threads"] if anchor["device"] == "cpu" else anchor["ranks"]
        self.devices = max(anchor["ranks"], room)  # of a machine

    def points(self) -> tuple[list[Doc], list[Doc]]:
        """The simulated points, and what could not be simulated, with the reason."""
        if reason := self._never():
            return [], [self._left(None, reason)]
        learned = self.machine.learned([self.anchor])
        here = self.machine.here(self.anchor, learned)
        if isinstance(here, str):
            return [], [self._left(None, here)]
        factor = self.anchor["images_per_s"] / here.rate()
        found: list[Doc] = []
        each = self.anchor["cores"] // self.anchor["ranks"]
        ranks = 2 * self.anchor["ranks"]
        while ranks * each <= CORES_MOST:
            one = self._point(ranks, learned, factor)
            if "images_per_s" not in one:
                return found, [one]  # what so many ranks cannot be, more cannot either
            found.append(one)
            ranks *= 2
        return found, []

    def _never(self) -> str:
        name = self.anchor["layout"]
        if "=" in name:
            return "its degrees are fixed, and nobody said which of them should grow"
        return UNKNOWN.get(name, "")

    def _point(self, ranks: int, learned: Learned, factor: float) -> Doc:
        """On `ranks` ranks; where that cannot be, who it is and the reason."""
        anchor = self.anchor
        cores = anchor["cores"] * ranks // anchor["ranks"]
        batch = anchor["batch_size"] * (ranks // anchor["ranks"] if self.is_weak else 1)
        try:
            microbatches = self._microbatches(ranks, batch)
            case = self.machine.case(
                anchor, learned, ranks=ranks, devices=self.devices, batch=batch, microbatches=microbatches
            )
        except ConfigError as error:
            return self._left(ranks, str(error))
        if isinstance(case, str):
            return self._left(ranks, case)
        reason = possible.why_not(
            case.layout,
            case.blocks,
            case.machines,
            batch=batch,
            microbatches=microbatches,
            row_unit=case.asked.row_unit,
        )
        if reason:
            return self._left(ranks, reason)
        rate = case.rate()
        low, high = band.around(case.rate, case.machines, noise=self.machine.spread)
        ends = [min(low, low * factor), max(high, high * factor)]
        point = Point(
            anchor["layout"], ranks, anchor["precision"], anchor["device"], anchor["threads"], cores,
            names_threads=anchor["device"] == "cpu" and anchor["threads"] > 1,  # else it could have a measured point's name
        )  # fmt: skip
        one = self.one_rate
        speedup = rate * factor / one if one else None
        speedup_band = [end / one for end in ends] if one else None
        return {
            "name": point.name, "layout": point.layout, "ranks": ranks, "precision": point.precision, "device": point.device,
            "threads": point.threads, "cores": cores, "machines": case.machines.nodes, "source": "simulated", "n": 0,
            "goes_on_from": anchor["name"], "images_per_s": rate * factor, "band": ends, "speedup": speedup,
            "speedup_band": speedup_band, "efficiency": speedup and speedup / cores,
            "efficiency_band": speedup_band and [end / cores for end in speedup_band], "batch_size": batch,
            "microbatches": microbatches, "factor": factor,
        }  # fmt: skip

    def _microbatches(self, ranks: int, batch: int) -> int:
        """As many for each stage as measured, of few rows at least; a pipeline's must divide the batch."""
        own = self.anchor["microbatches"]
        layout = self.machine.layout(self.anchor, ranks=ranks, machines=1)
        if layout.pp == 1 or layout.schedule == "sequential" or self.keeps_microbatches:
            return own
        wanted = max(own, min(own * ranks // self.anchor["ranks"], batch // ROWS_LEAST))
        return next(count for count in range(wanted, 0, -1) if batch % count == 0)

    def _left(self, ranks: int | None, reason: str) -> Doc:
        anchor = self.anchor
        return {"layout": anchor["layout"], "precision": anchor["precision"], "device": anchor["device"], "ranks": ranks,
                "reason": reason}  # fmt: skip
