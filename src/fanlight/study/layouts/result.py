"""points.json: every point with its speedups, shares and flags, from the rounds of the study's folder. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fanlight.study import runs, stats
from fanlight.study.accuracy import Difference
from fanlight.study.layouts import (
    accuracies,
    attribution,
    costs,
    crosscheck,
    fits,
    folder,
    intervals,
    measured,
    sessions,
    simulated,
    verdict,
)
from fanlight.study.layouts.grid import Point
from fanlight.study.scaling import Scaling
from fanlight.study.stats import Untold

UNEXPLAINED_MOST = 0.05  # of the wall time; more is said
FLAGS = {
    "failed later": "a later round failed, and it was not tried again: its figures are of the rounds before",
    "oversubscribed": "more compute threads than cores, over all ranks: they take turns",
    "accuracy differs": "its accuracy differs from the serial run's of the same seeds, with p ≤ .05 over all points together",
    "other algorithm": "not another way to compute the serial run, but another algorithm",
    "unexplained": "the shares of its step leave more than 5 % of the wall time unexplained, or add up to more",
    "timers disagree": "what its steps' own timers say of waiting, computing or the optimizer does not fit its shares",
    "wide": "the 95 % interval of its speedup is wider than ± 5 %",
}
ONCE = ("busy_before", "warmup_s", "peak_rss_bytes", "scatter")  # medians of the rounds
SAME = ("data.path", "train.seed", "execution.bucket_mb")  # keys that are no difference between points
Doc = dict[str, Any]


def document(study: Path, *, ended: str = "") -> Doc:
    """The object of points.json and of `--json`. `ended`: why rounds are missing, in words."""
    plan = folder.read_plan(study)
    points = folder.points(plan)
    rows = {point.name: measured.rounds(study, point) for point in points}
    pairs = {p.name: base.name for p in points if (base := _serial(p, points)) is not None and base != p}
    gaps = accuracies.gaps(pairs, rows)
    settings = {point.name: config for point in points if (config := _config(study, point))}
    found = [_point(study, point, points, rows, gaps, plan, settings) for point in points]
    for each in found:
        if each["status"] == "not measured" and not each["reason"]:
            each["reason"] = ended
    baselines = _baselines(points, rows)
    made = {
        "study": str(study), "version": folder.VERSION, "of": "layouts", "scaling": plan["scaling"],
        "baselines": baselines, "points": found, "equal": plan["equal"], "flags": FLAGS, "causes": list(attribution.CAUSES),
        "fits": fits.documents(points, rows, kind=plan["scaling"], cores=plan["machine"]["cores_usable"]),
        "simulated": simulated.document(plan, found, settings, baselines), "unexplained_most": UNEXPLAINED_MOST,
        "rounds": max((point["n"] for point in found), default=0), "ended": ended, "sessions": sessions.of(plan),
        "energy": costs.overall(found), "price": plan.get("price"),
        **{key: plan[key] for key in ("data", "images", "machine", "versions", "command", "started", "target", "fanlight")},
    }  # fmt: skip
    said = verdict.words(made)
    spent_s = sum(row["wall_s"] + row["probe_s"] for each in rows.values() for row in each)
    return made | {"verdict": "\n".join(said), "measured_s": spent_s}


def write(study: Path, *, ended: str = "") -> Doc:
    """Writes points.json and the tables beside it."""
    made = document(study, ended=ended)
    points = folder.points(folder.read_plan(study))
    folder.write_rows(study / "rounds.parquet", [row for point in points for row in measured.rounds(study, point)])
    folder.write_rows(study / "blocks.parquet", [row for point in points for row in measured.blocks(study, point)])
    folder.write(study / folder.POINTS, made)
    return made


def one_core(point: Point, points: Sequence[Point]) -> Point | None:
    """The baseline of its device and precision: one core, or one GPU."""
    return next((p for p in points if p.is_baseline and p.cores == 1 and _alike(p, point)), None)


def all_cores(point: Point, points: Sequence[Point]) -> Point | None:
    """One process on all cores of its precision."""
    several = [p for p in points if p.is_baseline and p.cores > 1 and _alike(p, point)]
    return max(several, key=lambda p: p.cores, default=None)


def _serial(point: Point, points: Sequence[Point]) -> Point | None:
    """The serial run that a point's accuracy is held against."""
    return all_cores(point, points) or one_core(point, points)


def _alike(one: Point, other: Point) -> bool:
    return (one.device, one.precision) == (other.device, other.precision)


def _baselines(points: Sequence[Point], rows: Mapping[str, list[Doc]]) -> Doc:
    found: Doc = {"one_core": {}, "all_cores": {}, "one_device": {}}
    for point in points:
        if point.is_baseline and rows[point.name]:
            if point not in (one_core(point, points), all_cores(point, points)):
                continue  # of a curve: on some of the cores
            kind = "one_device" if point.device == "cuda" else "one_core" if point.cores == 1 else "all_cores"
            rate = stats.center([row["images_per_s"] for row in rows[point.name]])
            about = {"point": point.name, "images_per_s": rate.value, "cores": point.cores}
            about["interval"] = intervals.both(rate)
            found[kind][point.precision] = about
            if kind == "one_core" and all_cores(point, points) is None:  # a machine of one core
                found["all_cores"][point.precision] = about
    return found


def _point(
    study: Path, point: Point, points: Sequence[Point], rows: Mapping[str, list[Doc]],
    gaps: Mapping[str, Difference | Untold], plan: Doc, settings: Mapping[str, Doc],
) -> Doc:  # fmt: skip
    own = rows[point.name]
    made: Doc = {
        "name": point.name, "layout": point.layout, "ranks": point.ranks, "precision": point.precision,
        "device": point.device, "threads": point.threads, "cores": point.cores, "source": "measured", "n": len(own),
        "status": "measured" if own else "cannot run" if point.reason else "not measured", "reason": point.reason,
        "flags": ["other algorithm"] if point.is_other else [], "rounds": [row["round"] for row in own],
        **dict.fromkeys((
            "images_per_s", "interval", "step_s", "speedup", "speedup_interval", "efficiency", "device_gain", "shares",
            "share_intervals", "shares_n", "unexplained", "timers", "accuracy", "accuracy_interval", "accuracy_gap", "queued",
            "work", "to_accuracy", "differs", "batch_size", "microbatches", "warmup_s", "start_s", "peak_rss_bytes", "sent_bytes",
            "step_interval", "seconds", "sent_per_step", "busy_before", "serial_fraction", "accuracy_gap_interval",
            "accuracy_p", "accuracy_test", "loss", "loss_interval", "scatter", "link", "drift", "drift_interval",
            "link_reason", "energy", "cost",
        )), "over": {}, "checks": [],
    }  # fmt: skip
    failures = [folder.failure(run) for run in sorted((study / "runs").glob(f"{point.name}-*"))]
    if reason := next((each for each in failures if each), None):
        made["reason"] = reason
        if own:
            made["flags"].append("failed later")
        else:
            made["status"] = "failed"
    if point.is_oversubscribed(plan["machine"]["cores_usable"]):
        made["flags"].append("oversubscribed")
    if not own:
        return made
    rate, step = (stats.center([row[key] for row in own], name=key) for key in ("images_per_s", "step_s"))
    probed = [row for row in own if row["shares"]]
    together = [[each / row["step_s"] for each in row["together_s"]] for row in probed if row["together_s"]]
    parts = attribution.lasting(attribution.middle([row["shares"] for row in probed]), together)
    made |= {
        "images_per_s": rate.value, "interval": intervals.both(rate), "step_s": step.value,
        "step_interval": intervals.both(step),
        "shares": parts, "unexplained": 1.0 - sum(parts.values()),
        "seconds": {cause: share * step.value for cause, share in parts.items()},
        "share_intervals": {c: [min(r["shares"][c] for r in probed), max(r["shares"][c] for r in probed)] for c in parts},
        "drift": statistics.median(row["drift"] for row in probed),
        "drift_interval": [min(row["drift"] for row in probed), max(row["drift"] for row in probed)],
        "shares_n": len(probed), "queued": statistics.median(row["queued"] for row in probed),
        "timers": {name: statistics.median(row["timers"][name] for row in own) for name in measured.TIMERS},
        **{key: statistics.median(row[key] for row in own) for key in ONCE}, "start_s": _start(own),
        **{key: own[0][key] for key in ("batch_size", "microbatches", "sent_bytes")},
        "sent_per_step": sum(own[0]["sent_bytes"].values()) / max(1, own[0]["steps"] + own[0]["warmup_steps"]),
        "differs": _differs(settings, point, one_core(point, points)),
        "link": next((row["link"] for row in own if row["link"]), None),
        "link_reason": _no_link(own),
        **costs.of(own, rate, price=plan.get("price")),
    }  # fmt: skip
    base, gap = _serial(point, points), gaps.get(point.name)
    made |= _speedups(point, points, rows, plan["scaling"]) | accuracies.of(own, rows[base.name] if base else [], gap)
    if plan["target"] is not None:
        made["to_accuracy"] = accuracies.time_to(own, plan["target"])
    if abs(made["unexplained"]) > UNEXPLAINED_MOST:
        made["flags"].append("unexplained")
    pairs = crosscheck.pairs(made, own)
    made["checks"] = [asdict(pair) for pair in pairs]
    if any(pair.apart for pair in pairs):
        made["flags"].append("timers disagree")
    if intervals.is_wide(made["speedup_interval"] or made["interval"]):
        made["flags"].append("wide")
    if isinstance(gap, Difference) and gap.differs:
        made["flags"].append("accuracy differs")
    return made


def _no_link(own: Sequence[Doc]) -> str | None:
    """Why what sending costs could not be measured, by the last round that tried; None where it was, or nobody sends."""
    reasons = [row["link_reason"] for row in own if row["link_reason"]]
    return reasons[-1] if reasons and not any(row["link"] for row in own) else None


def _paired(mine: Sequence[Doc], theirs: Sequence[Doc], key: str) -> tuple[list[float], list[float]]:
    """Values of the rounds that both have."""
    ours, other = ({row["round"]: row[key] for row in each if row[key] is not None} for each in (mine, theirs))
    both = sorted(ours.keys() & other.keys())
    return [ours[number] for number in both], [other[number] for number in both]


def _speedups(point: Point, points: Sequence[Point], rows: Mapping[str, list[Doc]], kind: Scaling) -> Doc:
    """Over each baseline of the same device and precision; and what the device gains over all cores, which is no speedup."""
    own = rows[point.name]
    over: Doc = {}
    found: Doc = {}
    bases = {"one_core" if point.device == "cpu" else "one_device": one_core(point, points)}
    if point.device == "cpu":
        bases["all_cores"] = all_cores(point, points) or bases["one_core"]
    for name, base in bases.items():
        pairs = _paired(own, rows[base.name], "images_per_s") if base else ([], [])
        if base is not None and pairs[0]:
            gain = stats.ratio(*pairs)
            over[name] = {
                "point": base.name, "cores": base.cores, "value": gain.value, "interval": intervals.both(gain), "n": gain.n
            }  # fmt: skip
            if base.cores == 1:
                found["serial_fraction"] = fits.serial_fraction(gain, resources=point.cores, kind=kind)
    first = over.get("one_core") or over.get("one_device")
    if first is not None:
        found["speedup"], found["speedup_interval"] = first["value"], first["interval"]
        found["efficiency"] = first["value"] / point.cores
        base = one_core(point, points)
        if base and point.device == "cpu":
            found["work"] = _work(own, rows[base.name], threads=point.threads)
    if point.device == "cuda" and point.cores == 1:  # of several GPUs it would be parallel speedup as well
        cpu = [
            p for p in points if p.is_baseline and p.device == "cpu" and p.precision == point.precision and rows[p.name]
        ]  # fmt: skip
        best = max(cpu, key=lambda p: p.cores, default=None)
        pairs = _paired(own, rows[best.name], "images_per_s") if best else ([], [])
        found["device_gain"] = stats.ratio(*pairs).value if pairs[0] else None
    return found | {"over": over}


def _work(own: list[Doc], base: list[Doc], *, threads: int) -> float | None:
    """What the cores of all ranks take for an image over what one core takes for it: above 1 the layout computes more."""
    work = [a / b for a, b in zip(*_paired(own, base, "work_s"))]
    return statistics.median(work) * threads * base[0]["batch_size"] / own[0]["batch_size"] if work else None


def _differs(settings: Mapping[str, Doc], point: Point, base: Point | None) -> Doc:
    """Keys of the config whose values are not the baseline's, as [its, the baseline's]. Seeds differ by round alone."""
    if base is None or base == point or not {point.name, base.name} <= settings.keys():
        return {}
    mine, theirs = settings[point.name], settings[base.name]
    return {
        f"{section}.{key}": [value, theirs[section][key]]
        for section, fields in mine.items() if isinstance(fields, dict) and section != "reasons"
        for key, value in fields.items() if value != theirs[section][key] and f"{section}.{key}" not in SAME
    }  # fmt: skip


def _config(study: Path, point: Point) -> Doc | None:
    """The resolved config of one of a point's runs; they differ by seed alone."""
    found = next((study / "runs").glob(f"{point.name}-[0-9]*/{folder.PROBE}"), None)
    return runs.read(found.parent).resolved if found is not None else None


def _start(own: Sequence[Doc]) -> float:
    """Seconds to the first step, of ranks that were there already; where none were, with their own start."""
    warm = [row["start_s"] for row in own if not row["cold"]]
    return statistics.median(warm or [row["start_s"] for row in own])
