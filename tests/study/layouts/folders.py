"""Studies' folders without training: what the runs would have left, with figures that are known."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fanlight.study.layouts import folder
from fanlight.study.layouts.grid import Point
from study.layouts import drawn

BATCH = 32


def plan(
    points: list[Point], *, cores: int = 2, target: float | None = None, rounds: int | None = None,
    network: dict[str, Any] | None = None, scaling: str = "strong",
) -> dict[str, Any]:  # fmt: skip
    """study.json as study.py writes it; without `network` as it was before networks were counted."""
    about = {} if network is None else {"network": network}
    return about | {
        "version": folder.VERSION, "points": [point.document() for point in points], "data": "photos", "asked": [],
        "rounds": rounds, "scaling": scaling, "target": target, "block_s": 1.0, "repeats": 1,
        "equal": {"model.name": "resnet18"},
        "command": "fanlight study photos", "images": 100, "machine": {"cpu": "a processor", "cores_usable": cores},
        "versions": {}, "fanlight": "0", "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip


def begin(place: Path, points: list[Point], **about: Any) -> Path:
    (place / "runs").mkdir(parents=True)
    folder.write(place / folder.PLAN, plan(points, **about))
    return place


def run(
    study: Path, point: Point, number: int, *, accuracy: float = 0.9, wall_s: float | None = None, is_probed: bool = True,
    speed: float = 1.0,
    curve: tuple[tuple[float, float], ...] = (), changed: dict[str, Any] | None = None, link: dict[str, Any] | None = None,
    **causes: float,
) -> None:  # fmt: skip
    """One finished run and its probe, where a step is made of `causes` (drawn.step). `wall_s`: of the run's own steps, where
    the probe is to disagree. `speed`: of the machine during the probe; below 1 everything takes longer."""
    place = folder.run_of(study, point, number)
    place.mkdir(parents=True)
    blocks = drawn.step(ranks=point.ranks, **causes)
    full = next(row for row in blocks if row["kind"] == "full")
    step_s = wall_s or full["step_s"]
    summary = {
        "version": 1, "status": "finished", "metrics": {"val": {"accuracy": accuracy, "loss": 1.0, "count": 20}},
        "wall_s": 20.0, "train_s": 10.0, "phases": {"start_s": 2.0}, "peak_rss_bytes": 10**9,
        "sent_bytes": {"gradients": 24 * 44_000_000} if point.ranks > 1 else {},
    }  # fmt: skip
    (place / "run.json").write_text(json.dumps(summary))
    resolved = {
        "version": 1,
        "data": {"path": "photos"},
        "train": {"batch_size": BATCH, "microbatches": 1, "seed": number, "sync_every": None, "precision": point.precision},
        "execution": {
            "layout": point.layout, "ranks": point.ranks, "threads": point.threads, "pipeline_schedule": None,
            "stages_per_rank": None,
        },
        "reasons": {},
    }  # fmt: skip
    for key, value in (changed or {}).items():
        section, name = key.split(".")
        resolved[section][name] = value
    (place / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    lines = [{"kind": "evaluate", "split": "val", "seconds_in": s, "accuracy": a, "step": 0} for s, a in curve]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = {
        f"{name}_s": full[f"{name}_s"]
        for name in ("input", "copy", "forward", "backward", "communication", "optimizer")
    }
    rows = [{"step": n, "epoch": n // 12, **parts, "total_s": step_s * (3.0 if n < 12 else 1.0)} for n in range(24)]
    for rank in range(point.ranks):
        pq.write_table(pa.Table.from_pylist(rows), place / f"steps-rank{rank}.parquet")
    probe = {
        "point": point.name,
        "round": number,
        "busy_before": 0.0,
        "seconds": 5.0,
        "blocks": drawn.slower(blocks, 1 / speed) if is_probed else [],
    }
    folder.finish(place, probe if link is None else probe | {"link": link})


def network(count: int = 4, *, numbers: int = 1000) -> dict[str, Any]:
    """Of equal pieces, as network.py counts them."""
    piece = {"tensors": [numbers], "flop": 1e9, "sent_bytes": 0.0, "kept_bytes": 0.0, "norms": [], "buffers": 0,
             "divided": 0.0, "divided_numbers": 0, "pairs": []}  # fmt: skip
    return {"blocks": [{"name": f"piece{n}", **piece} for n in range(count)], "reason": ""}


def link(*, bytes_per_s: float = 1e15, latency_s: float = 0.0, steals: float = 0.0, ranks: int = 2) -> dict[str, Any]:
    """As job.rank_link measures it: an all-reduce takes latency_s + bytes / bytes_per_s."""
    sizes = {str(size): latency_s + size / bytes_per_s for size in (4 << 10, 4 << 20)}
    return {"ranks": ranks, "all_reduce_s": sizes, "gather_s": latency_s / 2, "steals": steals}
