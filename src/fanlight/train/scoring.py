"""`fanlight evaluate`: a run's weights on one of its splits, or on other images with the same class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanlight import console, machine, tasks
from fanlight.data import augment, checkup
from fanlight.data.manifest import SPLITS, Manifest
from fanlight.data.source import Files
from fanlight.errors import ConfigError, DataError, near
from fanlight.parallel import comm, launch
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import place
from fanlight.tasks import Task, calibration, caption_report, classify_scores
from fanlight.train import build, devices, export, folder, precision, writing
from fanlight.train import evaluate as evaluating
from fanlight.train.step import Normalise, Sight, WholeStep, listeners

JOB = "fanlight.train.scoring:rank_score"


def evaluate(
    run: Path, *, data: str = "", split: str = "", device: str | None = None, ranks: int = 1, best: bool = False,
    tta: int = 1, unknown_below: float | None = None, beams: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores and prints; the JSON object of `evaluate --json`. The counts are exact on any number of `ranks`.

    `tta` views per image are averaged (augment.view_boxes). With `unknown_below`, `selective` says what is left when
    every image with a lower calibrated probability is called unknown.
    """
    calibration.check_threshold(unknown_below)
    summary = folder.read_summary(run)
    if summary.get("task") == "caption" and (tta != 1 or unknown_below is not None):
        flag = f"--tta {tta}" if tta != 1 else f"--unknown-below {unknown_below:g}"
        raise ConfigError(f"{flag} is for classes, and {run} writes captions; leave it out")
    if split not in ("", *SPLITS):
        raise ConfigError(f"--split {split!r} does not exist; use {', '.join(SPLITS)}")
    config = folder.read_config(run)
    augment.check_views(tta, flip=bool(config.augment.flip))
    trained_on_gpu = config.execution.device == "cuda" and torch.cuda.is_available()
    device = devices.device(device or ("cuda" if trained_on_gpu else "cpu"))
    devices.check_ranks(ranks, device=device)
    if data:
        try:
            checkup.up_to_date(data, decode=True)  # once, before ranks read the kept manifest
        except DataError as error:
            if summary.get("task") != "caption":
                raise
            raise DataError(
                f"{error}. Note that this run writes captions, and is scored by images that have some"
            ) from None
    else:
        manifest = folder.read_manifest(run)
        folder.check_unchanged(run, manifest)
        split = split or next(name for name in ("test", "val", "train") if len(manifest.rows(name)))
    arguments: dict[str, Any] = {
        "run": str(run.resolve()), "data": data, "split": split, "best": best, "tta": tta,
        "unknown_below": unknown_below, "beams": beams,
    }  # fmt: skip
    if ranks == 1:
        scores = rank_score(comm.alone(device), **arguments)
    else:
        with launch.Pool(ranks, device=device) as pool:
            scores = pool.run(JOB, **arguments)[0]
    assert scores is not None
    _say(scores, seen=augment.view_names(tta, flip=bool(config.augment.flip)))
    return scores


def rank_score(
    world: World,
    *,
    run: str,
    data: str,
    split: str,
    best: bool,
    tta: int,
    unknown_below: float | None,
    beams: int | None,
) -> dict[str, Any] | None:
    """Scores on every rank; the scores on rank 0."""
    path = Path(run)
    config = folder.read_config(path)
    number_format = config.train.precision or "fp32"
    if number_format == "fp16" and world.device.type == "cpu":
        number_format = "fp32"  # as a CPU does not compute in fp16
    if world.ranks == 1:  # several have their share already
        torch.set_num_threads(machine.cores_usable())
    precision.set_up(number_format, world.device, deterministic=config.train.deterministic)
    about, model = export.load_network(path / "weights" / ("best.safetensors" if best else "last.safetensors"))
    task = tasks.restored(about, beams=beams)
    manifest = _other(data, task, split) if data else folder.read_manifest(path)
    split = split or "test"
    if not len(manifest.rows(split)):
        there = ", ".join(name for name in SPLITS if len(manifest.rows(name)))
        raise ConfigError(f"--split {split!r} has no images; there is {there}")
    where = Files(manifest, canvas_px=about["canvas_px"]) if data else build.open_source(config, manifest, world)
    samples = build.split_samples(config, manifest, task, where, split)
    place(model, Layout(), world, channels_last=bool(config.execution.channels_last))
    normalise = Normalise(
        about["mean"], about["std"], like=next(model.parameters()), channels_last=bool(config.execution.channels_last)
    )
    sight = Sight(task, normalise, config.train.seed, world.device, listeners=listeners([model]))
    step = WholeStep(model, sight, number_format=number_format)
    cutting = build.cut_batches(config, rank=world.rank, ranks=world.ranks)
    how: dict[str, Any] = {"batch": config.execution.eval_batch, "workers": config.execution.workers or 1}
    outputs = evaluating.outputs(step, task, samples, cutting, world, views=tta, **how)
    if tasks.writes(task):
        world.heartbeat.announce("write")
        made = writing.written(writing.Writer(model, task, config, world), samples, cutting, world, **how)
        if outputs is None or made is None:
            return None
        table = task.written(manifest, task.table(manifest, samples.rows, outputs), made)
        scores = task.score(table, split=split)
        notes = [*scores["notes"], *task.lacks(manifest, samples.rows)]
        return {**scores, "notes": notes, "task": task.name}
    if outputs is None:
        return None
    table = task.table(manifest, samples.rows, outputs)
    scores = {**task.score(table, split=split), "task": task.name, "views": tta}
    # The images that the temperature was fitted on, seen as then, are scored by halves; in other views as in use.
    crossed = not data and split == "val" and tta == 1
    logits, temperature = calibration.outputs(table, split=split), about["temperature"]
    scores["calibration"] = calibration.measure(logits, temperature=temperature, crossed=crossed)
    if unknown_below is not None and logits is not None:
        scores["selective"] = calibration.selective(logits, temperature=temperature, below=unknown_below)
    return scores


def _other(data: str, task: Task, split: str) -> Manifest:
    """Other images, with the run's class numbers, or with captions. DataError for a class that the run does not know."""
    manifest, classes = checkup.up_to_date(data, decode=True), task.classes
    if tasks.name_of(manifest) != task.name:
        kinds = {"caption": "captions", "classify": "classes"}
        raise DataError(
            f"{data} has {kinds[tasks.name_of(manifest)]}, and the run learned {kinds[task.name]}; give data of that kind"
        )
    if tasks.writes(task):  # an image without a caption has nothing to be scored by
        manifest = manifest.quarantine(
            {int(row): "no caption" for row in np.flatnonzero(manifest.ok & ~manifest.captioned)}
        )
    unknown = sorted(set(manifest.classes) - set(classes))
    if unknown:
        raise DataError(f"{data}: class {unknown[0]!r} is not one of the run's.{near(unknown[0], classes)}")
    manifest = replace(manifest, classes=classes)
    if split and set(manifest.column("split")[manifest.ok]) != {""}:
        return manifest
    return manifest.with_columns(split=np.full(len(manifest), split or "test", dtype=object))


def _say(scores: dict[str, Any], *, seen: str) -> None:
    if scores["task"] == "caption":
        for line in caption_report.words(scores):
            console.say(line)
        return
    low, high = scores["interval"]
    if scores["views"] > 1:
        console.say(f"{scores['views']} views per image, log-probabilities averaged: {seen}")
    console.say(
        f"{scores['split']}: {scores['correct']} of {scores['count']} right, accuracy {scores['accuracy']:.4f} "
        f"(95 % interval {low:.3f} … {high:.3f}), balanced {scores['balanced_accuracy']:.4f}"
    )
    for row in scores["per_class"]:
        numbers = (
            f"{name} {row[name]:.3f}" if row[name] is not None else f"{name} –"
            for name in ("precision", "recall", "f1")
        )
        console.say(f"  {row['class']:<20} n {row['count']:>5}  {'  '.join(numbers)}")
    if words := classify_scores.leak_words(scores):
        console.warn(f"the {scores['split']} split leaks", why=words, do="Put all copies of a picture into one split")
    if scores["calibration"]:
        console.say(f"Probabilities: {calibration.words(scores['calibration'], split=scores['split'])}")
    if selective := scores.get("selective"):
        console.say(calibration.selective_words(selective))
