"""`fanlight train` around the run itself: the result said in words, the report after it, the object of `--json`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fanlight import console
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.parallel import launch
from fanlight.tasks import calibration, caption_report, classify_scores
from fanlight.train import ahead, folder, prepare

KEYS = (
    "run", "task", "model", "layout", "ranks", "precision", "epochs", "steps", "batch_size", "microbatches", "metrics",
    "wall_s", "train_s", "images_per_s", "input_wait_share", "peak_rss_bytes", "sent_bytes", "energy",
)  # fmt: skip


def train(
    config: Config, *, out: Path | None, resume: str | None, command: str, entered: float, dry_run: bool = False,
    report: Callable[[Path], Path],
) -> dict[str, Any]:  # fmt: skip
    """Trains, prints the result, writes the `report` of the run folder; the JSON object of `train --json`."""
    if resume == "":  # of an unset variable
        raise ConfigError("--resume is empty; name the run folder, or leave it out to start a new run")
    if resume is None:
        folder.check_out(out)  # now, not after minutes of packing
    if dry_run:
        return _dry_run(config, out=out, resume=resume, command=command, entered=entered)
    run, summary = _train(config, out=out, resume=resume, command=command, entered=entered)
    if not summary:  # a rank that is not the first, under a launcher
        return {}
    _say(summary, run)
    if folder.read_config(run).execution.report:
        begin = time.perf_counter()
        path = report(run)
        phases = {**summary["phases"], "report_s": time.perf_counter() - begin}
        folder.update_summary(run, phases=phases)
        console.say(f"Report: {path}")
    return {**{key: summary[key] for key in KEYS}, "run": str(run)}


def _train(
    config: Config, *, out: Path | None, resume: str | None, command: str, entered: float
) -> tuple[Path, dict[str, Any]]:
    gathered = ahead.gather(config) if resume is None and not launch.joined() else None
    from fanlight.train import job

    return job.train(config, out=out, command=command, entered=entered, resume=resume, gathered=gathered)


def _dry_run(config: Config, *, out: Path | None, resume: str | None, command: str, entered: float) -> dict[str, Any]:
    if resume:
        raise ConfigError(f"--dry-run prepares a new run, and --resume {resume} continues one; use one of them")
    run = prepare.prepare(config, out=out, command=command, entered=entered)
    with folder.discarded_when_refused(run):
        from fanlight.models import zoo
        from fanlight.train import build

        config = folder.read_config(run)
        created = build.create_model(config, folder.read_manifest(run))
        facts: dict[str, Any] = {}
        if (config.execution.ranks or 1) > 1:
            facts["holdings"] = _holdings(run, config, whole=zoo.parameters_text(created.model))
    summary = folder.update_summary(run, status="prepared", **facts)
    console.say(f"--dry-run: nothing was trained. Train it with: fanlight train --resume {shlex.quote(str(run))}")
    return {**{key: summary.get(key) for key in KEYS}, "run": str(run), **facts}


def _holdings(run: Path, config: Config, *, whole: str) -> list[dict[str, Any]]:
    """What each rank holds, sees and sends, found on ranks that are built for it."""
    from fanlight.train import holdings

    e = config.execution
    with launch.Pool(e.ranks or 1, device=e.device or "cpu", threads=e.threads) as pool:
        table = pool.run(holdings.JOB, run=str(run))
    holdings.say(table, whole=whole)
    return table


def _say(summary: dict[str, Any], run: Path) -> None:
    if summary["task"] == "caption":
        for split, scores in summary["metrics"].items():
            for line in caption_report.words({"split": split, **scores}):
                console.say(line)
    else:
        _say_classes(summary)
    rates = ""
    if summary["images_per_s"] is not None:  # none where a resumed run had no step left
        rates = f" {summary['images_per_s']:.0f} img/s steady, input wait {summary['input_wait_share']:.1%},"
    if "reason" not in summary["energy"]:
        rates += f" {summary['energy']['j_per_image']:.3g} J per image at {summary['energy']['mean_w']:.0f} W,"
    console.say(
        f"{console.seconds_text(summary['wall_s'])} from Enter to the last metric, "
        f"{console.seconds_text(summary['train_s'])} training,{rates} memory "
        f"{console.bytes_text(summary['peak_rss_bytes'])}"
    )
    if words := overtrained_words(summary, run):
        console.say(words)
    console.say(f"Weights: last.safetensors and best.safetensors in {run / 'weights'}")


def overtrained_words(summary: dict[str, Any], run: Path) -> str:
    """Where an evaluation before the last was better by more than chance gives (the last one's Wilson interval, of images or
    of words) and the scores above are therefore not the best that the run has; else nothing."""
    last, best = summary["metrics"].get("val"), summary["best"]
    if not last or not best:
        return ""
    count = int(last["words"] if summary["task"] == "caption" else last["count"])
    interval = classify_scores.wilson(round(last["accuracy"] * count), count)
    if interval is None or best["accuracy"] <= interval[1]:
        return ""
    return (
        f"The weights of epoch {best['epoch']:.0f} were better: accuracy {best['accuracy']:.3f} on val, the last ones' is "
        f"{last['accuracy']:.3f}. fanlight evaluate {shlex.quote(str(run))} --best scores them, and predict --best uses them; "
        "fewer epochs, or --patience, would have spared the rest."
    )


def _say_classes(summary: dict[str, Any]) -> None:
    for split, scores in summary["metrics"].items():
        low, high = scores["interval"]
        loss = "not finite" if scores["loss"] is None else f"{scores['loss']:.4f}"
        console.say(
            f"{split}: accuracy {scores['accuracy']:.4f} (95 % interval {low:.3f} … {high:.3f}, n = {scores['count']}), "
            f"balanced {scores['balanced_accuracy']:.4f}, loss {loss}"
        )
        if words := classify_scores.leak_words(scores | {"split": split}):
            console.warn(f"the {split} split leaks", why=words, do="Put all copies of a picture into one split")
    if {"val", "test"} <= summary["metrics"].keys():
        console.say(classify_scores.gap_words(summary["metrics"]["val"], summary["metrics"]["test"]))
    found = summary["calibration"]
    for split, measured in found["splits"].items():
        if measured:
            console.say(f"Probabilities: {calibration.words(measured, split=split)}")
    if found["temperature"] == 1.0:
        console.say(f"Probabilities stay as the network gives them: {found['reason']}")
