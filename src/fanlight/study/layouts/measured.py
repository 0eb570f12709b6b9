"""What the runs of a study say: one row per point and round, from the run's folder alone. No torch."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from fanlight.errors import FanlightError, RunError
from fanlight.parallel import layout as layouts
from fanlight.study import runs
from fanlight.study.layouts import attribution, costs, folder
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.spent import scatter, typical

TIMERS = (*runs.PARTS, "rest")
PROBED = (
    "shares",
    "unexplained",
    "seconds",
    "drift",
    "together_s",
    "queued",
    "work_s",
)  # None in a round without a probe
Row = dict[str, Any]


def rounds(study: Path, point: Point) -> list[Row]:
    """The rows of a point's rounds that are measured, by round."""
    found = [read(run, point) for run in _runs(study, point)]
    return sorted(found, key=lambda row: row["round"])


def rates(study: Path, point: Point) -> list[float]:
    """Images per second, by round."""
    return [row["images_per_s"] for row in rounds(study, point)]


def headline(run: Path, point: Point) -> tuple[float, float | None]:
    """Images per second and accuracy of one run."""
    row = read(run, point)
    return row["images_per_s"], row["accuracy"]


def blocks(study: Path, point: Point) -> list[Row]:
    """Every block of the probes of a point, with its round."""
    return [
        {"point": point.name, "round": probe["round"], **row}
        for probe in (_probe(run) for run in _runs(study, point)) for row in probe["blocks"]
    ]  # fmt: skip


def torn(run: Path, point: Point) -> str:
    """Why a finished run cannot be read, as after a crash of the machine or by a disk's fault; empty where it can."""
    if (run / folder.FAILURE).exists():
        return "" if folder.failure(run) else f"{folder.FAILURE} holds no reason"
    try:
        read(run, point)
    except (FanlightError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def read(run: Path, point: Point) -> Row:
    """One run's row: its own steady steps, what the probe says they were made of, and what came out. RunError where the steps of
    a rank cannot be read: a rate of the other ranks alone would be another figure."""
    found, probe = runs.read(run), _probe(run)
    if lacking := sorted(set(range(point.ranks)) - found.steps.keys()):
        name = f"steps-rank{lacking[0]}.parquet"
        raise RunError(
            f"{run / name} cannot be read ({found.missing.get(name, 'not there')}); --resume measures this run again"
        )
    summary, resolved = found.summary, found.resolved
    period = resolved["train"]["sync_every"] or 1 if point.layout in layouts.PERIODIC else 1
    tables = [runs.steady(table)[0] for table in found.steps.values()]
    totals = [table["total_s"].to_pylist() for table in tables]
    wall_s = statistics.fmean(typical(each, period=period) for each in totals)
    timers = {
        name: statistics.fmean(runs.step_shares(table)[name] for table in found.steps.values()) for name in TIMERS
    }
    split = runs.headline_split(summary["metrics"])
    scores = summary["metrics"].get(split) or {}
    first = next(iter(found.steps.values()))
    warmup = first.slice(0, len(first) - len(tables[0]))
    blocks, told = probe["blocks"], dict.fromkeys(PROBED)
    if blocks:
        drift, layout = _drift(blocks, tables, period=period, ranks=point.ranks), _layout(point, resolved)
        measured, waited_s = _parts(blocks, layout, microbatches=resolved["train"]["microbatches"])
        parts = attribution.undrifted(measured, drift, waited_s=waited_s)
        shares, unexplained = attribution.shares(parts, wall_s=wall_s)
        told = {
            "shares": shares, "unexplained": unexplained, "seconds": parts, "drift": drift, "queued": _queued(blocks),
            "together_s": _together(blocks, drift=drift) if layout.pp == layout.tp == 1 else None,
            "work_s": _work(blocks, ranks=point.ranks),
        }  # fmt: skip
    return {
        "point": point.name, "round": probe["round"], "seed": resolved["train"]["seed"],
        "images_per_s": resolved["train"]["batch_size"] / wall_s, "step_s": wall_s, "steps": len(tables[0]),
        "batch_size": resolved["train"]["batch_size"], "microbatches": resolved["train"]["microbatches"],
        "wall_s": summary["wall_s"], "train_s": summary["train_s"], "start_s": summary["phases"]["start_s"],
        "warmup_steps": len(warmup), "warmup_s": sum(warmup["total_s"].to_pylist()), "probe_s": probe["seconds"],
        "split": split, "accuracy": scores.get("accuracy"), "loss": scores.get("loss"), "images_scored": scores.get("count"),
        "timers": timers, "busy_before": probe["busy_before"],
        "cold": bool(probe.get("cold")), **told,
        "scatter": statistics.fmean(map(scatter, totals)), "link": probe.get("link"),
        "link_reason": probe.get("link_reason") or "",
        "peak_rss_bytes": summary["peak_rss_bytes"], "sent_bytes": summary["sent_bytes"],
        "energy": summary.get("energy") or {"reason": costs.NOT_KEPT},
        "train_images": ((summary.get("data") or {}).get("splits") or {}).get("train"),
        "curve": [[r["seconds_in"], r["accuracy"]] for r in found.metrics if r["kind"] == "evaluate" and r["split"] == "val"],
    }  # fmt: skip


def _runs(study: Path, point: Point) -> list[Path]:
    named = (study / "runs").glob(f"{point.name}-*")
    return [run for run in named if run.name[len(point.name) + 1 :].isdecimal() and (run / folder.PROBE).exists()]


def _probe(run: Path) -> dict[str, Any]:
    return json.loads((run / folder.PROBE).read_text(encoding="utf-8"))


def _layout(point: Point, resolved: dict[str, Any]) -> layouts.Layout:
    return layouts.parse(
        point.layout, ranks=point.ranks, schedule=resolved["execution"]["pipeline_schedule"],
        stages_per_rank=resolved["execution"]["stages_per_rank"],
    )  # fmt: skip


def _parts(blocks: list[Row], layout: layouts.Layout, *, microbatches: int) -> tuple[dict[str, float], float]:
    """Seconds per step by cause, and of waiting for a batch, the median over repetitions."""
    pipe = None
    if layout.pp > 1:
        place = tuple(layout.place(rank).pp for rank in range(layout.ranks))
        pipe = attribution.Pipe(layout.schedule, layout.pp, layout.stages_per_rank, microbatches, place)
    numbers = sorted({row["repetition"] for row in blocks})
    repetitions = [[row for row in blocks if row["repetition"] == number] for number in numbers]
    found = [attribution.seconds(rows, pipe=pipe, is_divided=layout.tp > 1) for rows in repetitions]
    return attribution.middle(found), statistics.median(map(attribution.waited, repetitions))


def _together(blocks: list[Row], *, drift: float) -> list[float]:
    """Seconds of a step of each rank, by rank, with nothing sent while all compute; at the run's pace. Empty for one rank."""
    by_rank: dict[int, list[float]] = {}
    for row in blocks:
        if row["kind"] == "together":
            by_rank.setdefault(row["rank"], []).append(row["step_s"] / drift)
    return [statistics.median(by_rank[rank]) for rank in sorted(by_rank)]


def _drift(blocks: list[Row], tables: list[Any], *, period: int, ranks: int) -> float:
    """By the forward; of a single rank also by the backward, which holds no exchange there."""
    parts = ("forward_s", "backward_s") if ranks == 1 else ("forward_s",)
    run_s = [sum(typical(table[part].to_pylist(), period=period) for part in parts) for table in tables]
    full = [row for row in blocks if row["kind"] == "full"]
    return attribution.drift(full, statistics.fmean(run_s), parts=parts)


def _queued(blocks: list[Row]) -> float:
    """Share of the full steps in which a rank was ready to compute and another program, or rank, had its core."""
    full = [row for row in blocks if row["kind"] == "full"]
    return sum(row["queued_s"] * row["steps"] for row in full) / sum(row["step_s"] * row["steps"] for row in full)


def _work(blocks: list[Row], *, ranks: int) -> float:
    """Seconds of a step's forward and backward over all ranks, each alone: how much there is to compute."""
    alone = [row for row in blocks if row["kind"] == "alone"] or [row for row in blocks if row["kind"] == "memory"]
    by_rank: dict[int, list[float]] = {}
    for row in alone:
        by_rank.setdefault(row["rank"], []).append(row["step_s"] - row["optimizer_s"] - row["rest_s"])
    return ranks * statistics.fmean(statistics.median(values) for values in by_rank.values())
