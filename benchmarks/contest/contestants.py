"""Who takes part in a contest, the command of each, and what its output says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fanlight
from contest import measure
from contest.rounds import Record

PEERS = Path(__file__).parent.parent / "peers"
LIBRARIES = ("torch", "lightning", "timm", "transformers", "ultralytics")
FANLIGHT, FLOOR = "fanlight", "floor"


@dataclass(frozen=True)
class Job:
    """What every contestant of a contest does."""

    data: Path  # with train/ and val/
    epochs: int | None = 4  # None: what each recipe says
    image_px: int = 128
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    precision: str = "fp32"  # of the peers' best versions
    workers: int = 2  # of the peers' best versions
    frozen: Path | None = None  # weights of a backbone that stays as it is


@dataclass(frozen=True)
class Contestant:
    """One row of a table."""

    name: str
    script: str = ""  # under peers/; empty: Fanlight
    version: str = "best"
    more: tuple[str, ...] = ()
    data: Path | None = None  # instead of the job's
    keeps_cache: bool = False  # a second run on the same data
    flags: tuple[str, ...] = field(default=())  # of Fanlight, instead of the job's


def peers(version: str, *, suffix: str = "", **given) -> list[Contestant]:
    """Every library in one version."""
    return [Contestant(f"{name} {suffix or version}", f"with_{name}.py", version, **given) for name in LIBRARIES]


def floor(train: int, val: int, classes: int, *, batch: int) -> Contestant:
    """The arithmetic alone of a job on so many images."""
    steps, forwards = floor_steps(train, val, batch=batch)
    more = ("--steps", str(steps), "--forwards", str(forwards), "--classes", str(classes))
    return Contestant(FLOOR, "floor.py", more=more)


def floor_steps(train: int, val: int, *, batch: int) -> tuple[int, int]:
    """An epoch's optimizer steps and evaluation forwards: whole training batches, the last evaluation batch included."""
    return train // batch, -(-val // batch)


def command(who: Contestant, job: Job, *, work: Path, seed: int, epochs: int | None) -> list[str]:
    """What a user would type, with this Python."""
    data = who.data or job.data
    if not who.script:
        words = [sys.executable, "-m", "fanlight", "train", str(data), "--device", "cpu", "--seed", str(seed)]
        flags = who.flags or _job_flags(job)
        length = ["--epochs", str(epochs)] if epochs is not None else []
        return [*words, *flags, *length, "--json", "--out", str(work / "run")]
    words = [
        sys.executable,
        str(PEERS / who.script),
        "--data",
        str(data),
        "--work",
        str(work),
        "--version",
        who.version,
    ]
    for name in ("image_px", "batch", "lr", "weight_decay", "precision", "workers"):
        words += [f"--{name.replace('_', '-')}", str(getattr(job, name))]
    words += ["--seed", str(seed), *who.more]
    words += ["--epochs", str(epochs)] if epochs is not None else []
    words += ["--frozen", str(job.frozen)] if job.frozen else []
    return words


def _job_flags(job: Job) -> tuple[str, ...]:
    flags = (
        "--model", "resnet18", "--image-size", str(job.image_px), "--batch-size", str(job.batch), "--optimizer", "adamw",
        "--lr", str(job.lr), "--schedule", "cosine", "--set", f"optim.weight_decay={job.weight_decay}",
        "--set", "optim.warmup_share=0", "--set", "optim.label_smoothing=0", "--set", "optim.clip_norm=none",
    )  # fmt: skip
    return (*flags, "--weights", str(job.frozen), "--freeze", "--no-augment") if job.frozen else flags


def environment(caches: Path) -> dict[str, str]:
    """The user's, with caches of this contest's own, and without the network."""
    source = str(Path(fanlight.__file__).parent.parent)
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH", "")) if part)
    return {
        **os.environ, "PYTHONPATH": path, "FANLIGHT_CACHE": str(caches / "fanlight"), "HF_HOME": str(caches / "hf"),
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(caches.parent / "ultralytics"),  # settings and fonts, not data
        "MPLCONFIGDIR": str(caches.parent / "matplotlib"),
    }  # fmt: skip


def run(who: Contestant, job: Job, *, work: Path, seed: int, epochs: int | None, cap_s: float | None) -> Record:
    """One run in `work`, the contest's own folder, from empty caches unless the contestant keeps its own; the record,
    with `error` if it failed."""
    caches, place = work / "caches" / _plain(who.name), work / "runs" / _plain(who.name)
    data = who.data or job.data
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    env = environment(caches)
    Path(env["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)
    words = command(who, job, work=place, seed=seed, epochs=epochs)
    if not who.keeps_cache:
        shutil.rmtree(caches, ignore_errors=True)
    elif not caches.exists():  # filled by a run that is not counted
        measure.run([*words, "--dry-run"], env=env, log=work / "logs" / f"{_plain(who.name)}-fill")
        shutil.rmtree(place / "run", ignore_errors=True)
    for left in (data / "train.cache", data / "val.cache"):  # Ultralytics keeps what it knows of the files there
        left.unlink(missing_ok=True)
    log = work / "logs" / f"{_plain(who.name)}-{seed}"
    finished = measure.run(words, env=env, log=log, cap_s=cap_s)
    record: Record = {
        "command": _shown(words), "seed": seed, "wall_s": finished.wall_s, "cpu_s": finished.cpu_s,
        "peak_bytes": finished.peak_bytes, "is_capped": finished.is_capped,
    }  # fmt: skip
    try:
        if finished.code != 0 and not finished.is_capped:
            raise ValueError(f"exit code {finished.code}: {finished.errors[-2000:] or finished.output[-2000:]}")
        told = of_fanlight(place / "run", finished.output) if not who.script else of_peer(finished)
    except (ValueError, KeyError, IndexError, OSError) as error:
        return {**record, "error": f"{type(error).__name__}: {error}"}
    return {**record, **told}


def of_peer(finished: measure.Finished) -> Record:
    """From the lines of `peers/job.py`; a run that was ended early has its validations only."""
    lines = [json.loads(line) for line in finished.output.splitlines() if line.startswith('{"')]
    epochs = [line for line in lines if "at" in line]
    if not epochs:
        raise ValueError("it printed no validation" + (" before its time was over" if finished.is_capped else ""))
    curve = [(line["at"] - finished.began, line["accuracy"]) for line in epochs]
    last = next((line for line in lines if "phases" in line), {})
    return _told(curve, images=last.get("images", 0), count=last.get("count", 0), phases=last.get("phases", {}))


def of_fanlight(run_folder: Path, output: str) -> Record:
    """From the object that `--json` prints, and the run folder's record of evaluations."""
    summary = json.loads(output)
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "evaluate" and row["split"] == "val"]
    start_s = summary["wall_s"] - rows[-1]["seconds_in"]  # of its clock, after Enter: wall_s ends with that evaluation
    curve = [(start_s + row["seconds_in"], row["accuracy"]) for row in rows]
    images = summary["steps"] * summary["batch_size"]
    phases = {**summary.get("phases", {}), "train_s": summary["train_s"]}
    return _told(curve, images=images, count=summary["metrics"]["val"]["count"], phases=phases)


def _told(curve: Sequence[tuple[float, float | None]], *, images: int, count: int, phases: Record) -> Record:
    validated_s = curve[-1][0]
    return {
        "validated_s": validated_s, "accuracy": curve[-1][1], "curve": [list(point) for point in curve], "count": count,
        "images": images, "images_per_s": images / validated_s, "phases": phases,
    }  # fmt: skip


def _plain(name: str) -> str:
    return name.replace(" ", "-")


def _shown(words: Sequence[str]) -> str:
    """A command without the places of this machine's Python and files."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)
