"""`report.html` of a run: one file that needs no other and loads nothing. It reads the run folder, and of the images
only the worst mistakes. Every name in it may be hostile: autoescape is on, and a policy in the page forbids scripts.
No torch; the libraries that draw are imported when a report is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.study import captions, pages, reliability
from fanlight.study.runs import PARTS, RunFolder, headline_split, read, steady, step_shares

if TYPE_CHECKING:
    import pyarrow as pa

WORST = 12  # mistakes shown as pictures
LISTED = 200  # quarantined files named in the report; manifest.parquet has all
SPLITS = ("train", "val", "test")
SECTIONS = ("data", "model", "augment", "optim", "train", "execution")
# Keys that a run which stopped early may lack; None is shown as a dash.
RUN_KEYS = (
    "run", "status", "model", "layout", "ranks", "precision", "epochs", "steps", "batch_size", "wall_s", "train_s",
    "images_per_s", "input_wait_share", "peak_rss_bytes", "energy", "command", "started", "notes", "phases",
)  # fmt: skip
DATA_KEYS = (
    "path", "fingerprint", "classes", "captions", "images", "splits", "quarantined", "exact_copies", "label_conflicts", "leaks"
)  # fmt: skip
MACHINE_KEYS = ("cpu", "cores_usable", "device", "versions")


def write(run: Path) -> Path:
    """Writes `figures/` and `report.html` into a run folder; returns the page's path. RunError where it is none."""
    folder = read(run)
    scores = _scores(folder)
    counts = _class_counts(folder.manifest)
    calibrated = reliability.section(folder.predictions, scores)
    page = pages.render(
        "run.html",
        run=dict.fromkeys(RUN_KEYS) | folder.summary,
        data=dict.fromkeys(DATA_KEYS) | (folder.summary.get("data") or {}),
        split=headline_split(scores or folder.summary.get("metrics") or {}),
        scores=scores,
        leaks=any(each["without_leaks"] for each in scores.values()),
        metrics=folder.summary.get("metrics") or {},
        verdict=verdict(folder, scores),
        counts=counts,
        calibration=calibrated,
        captions=captions.section(folder.predictions, folder=run, root=_root(folder.manifest), missing=folder.missing),
        figures=_figures(folder, scores, counts, calibrated),
        worst=_worst(folder, scores),
        steps=[_step_row(rank, table) for rank, table in folder.steps.items()],
        parts=(*PARTS, "rest"),
        choices=_choices(folder.resolved),
        environment=dict.fromkeys(MACHINE_KEYS) | folder.environment,
        missing=folder.missing,
        listed=LISTED,
    )
    return pages.write(run / "report.html", page)


def verdict(folder: RunFolder, scores: dict[str, dict[str, Any]]) -> list[str]:
    """What a reader should know first, as sentences; only what the folder's own numbers say."""
    said = [_status(folder.summary)]
    split = headline_split(scores)
    if split and scores[split]["count"]:
        said += _accuracy(folder.summary, scores[split])
        from fanlight.tasks.classify_scores import leak_words

        said += [pages.sentence(leak_words(each)) for each in scores.values()]
    if scores.get("val") and scores.get("test"):
        from fanlight.tasks.classify_scores import gap_words

        said.append(pages.sentence(gap_words(scores["val"], scores["test"])))
    said += [_best_epoch(folder.metrics), _time(folder)]
    data = folder.summary.get("data") or {}
    if leaks := pages.count(data.get("leaks")):
        said.append(f"Copies, films or groups that stand in several splits: {leaks}. The score there is too high.")
    if conflicts := pages.count(data.get("label_conflicts")):
        said.append(f"Images filed under more than one class: {conflicts}. No model can be right about all of them.")
    return [sentence for sentence in said if sentence]


def _status(summary: dict[str, Any]) -> str:
    status = summary.get("status", "unknown")
    if status == "finished":
        return ""
    words = {"running": "has not finished", "stopped": "was stopped and can be resumed", "failed": "failed"}
    return f"This run {words.get(status, 'has status ' + str(status))}: the numbers are those of its last evaluation."


def _accuracy(summary: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    split, count = scores["split"], scores["count"]
    largest = max(scores["per_class"], key=lambda row: row["count"])
    said = [
        f"{scores['correct']} of {count} {split} images are right ({pages.share(scores['accuracy'])}); "
        f"always answering {largest['class']} would give {pages.share(largest['count'] / count)}."
    ]
    written = ((summary.get("metrics") or {}).get(split) or {}).get("accuracy")
    if written is not None and abs(written - scores["accuracy"]) > 0.5 / count:
        said.append(f"run.json says {pages.share(written)} for {split}; this page goes by predictions.parquet.")
    low, high = scores["interval"]
    if high - low > 0.1:
        said.append(
            f"With {count} images the true accuracy may be anywhere from {pages.share(low)} to {pages.share(high)}."
        )
    weakest = min((row for row in scores["per_class"] if row["count"]), key=lambda row: row["recall"])
    if weakest["recall"] < 1:
        row = scores["confusion"][[each["class"] for each in scores["per_class"]].index(weakest["class"])]
        taken = max((n, each["class"]) for n, each in zip(row, scores["per_class"]) if each is not weakest)
        said.append(
            f"The weakest class is {weakest['class']}: {weakest['correct']} of {weakest['count']} found, "
            f"most often taken for {taken[1]} ({taken[0]})."
        )
    if scores["absent"]:
        said.append(f"Without images in {split}, so in no mean over classes: {', '.join(scores['absent'])}.")
    return said


def _best_epoch(metrics: list[dict[str, Any]]) -> str:
    val = [record for record in metrics if record.get("split") == "val" and record.get("accuracy") is not None]
    last = {int(record["epoch"]): record for record in val if "epoch" in record}
    if len(last) < 2:
        return ""
    final = last[max(last)]
    best = max(last.values(), key=lambda record: record["accuracy"])
    if best["accuracy"] <= final["accuracy"]:
        return f"Validation accuracy was highest at the last evaluation, epoch {final['epoch']}."
    return (
        f"Validation accuracy was highest at epoch {best['epoch']} ({pages.share(best['accuracy'])}) "
        f"and ended at {pages.share(final['accuracy'])}."
    )


def _time(folder: RunFolder) -> str:
    """Where a steady step's time goes, and what to try when it is not in the network."""
    if not folder.steps:
        return ""
    ranks = [step_shares(table) for table in folder.steps.values()]
    shares = {part: sum(rank[part] for rank in ranks) / len(ranks) for part in ranks[0]}
    compute = shares["forward"] + shares["backward"]
    said = f"{compute:.0%} of a step is forward and backward"
    part, share = max(((p, s) for p, s in shares.items() if p not in ("forward", "backward")), key=lambda item: item[1])
    said += f"; of the rest {part} is the largest, {share:.0%}."
    advice = {
        "input": "Training waits for images: try more --workers.",
        "communication": "Ranks wait for each other: try fewer --ranks.",
    }
    return f"{said} {advice[part]}" if share > 0.15 and part in advice else said


def _scores(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """split -> scores, recomputed from predictions.parquet; empty without it or for another task."""
    if folder.predictions is None or folder.summary.get("task", "classify") != "classify":
        return {}
    from fanlight.tasks.classify_scores import classes_of, score

    there = folder.predictions["split"].unique().to_pylist()
    classes = classes_of(folder.predictions)
    return {split: score(folder.predictions, classes=classes, split=split) for split in sorted(there, key=_split_order)}


def _class_counts(manifest: "pa.Table | None") -> dict[str, dict[str, int]]:
    """split -> class -> images in use; rows with a reason not to be used, and images with captions, which have no class, are
    left out."""
    if manifest is None:
        return {}
    counts: dict[str, dict[str, int]] = {}
    grouped = manifest.group_by(["split", "label", "status"]).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        if row["status"] == "ok" and row["split"] and row["label"]:
            by_class = counts.setdefault(row["split"], {})
            by_class[str(row["label"])] = row["count_all"]
    return {split: counts[split] for split in sorted(counts, key=_split_order)}


def _split_order(split: str) -> tuple[int, str]:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), split


def _figures(
    folder: RunFolder, scores: dict[str, Any], counts: dict[str, dict[str, int]], calibrated: dict[str, Any]
) -> dict[str, str]:
    """name -> data URI of every figure that the folder has numbers for; each is saved in figures/ too."""
    from fanlight.study import drawing, figures

    drawings: dict[str, str | bytes] = {}
    if folder.metrics:
        drawings["curves"] = figures.curves(folder.metrics)
    if counts:
        drawings["class_counts"] = figures.class_counts(counts)
    split = headline_split(scores)
    if split and scores[split]["count"]:
        per_class = scores[split]["per_class"]
        drawings["confusion"] = figures.confusion(scores[split]["confusion"], [row["class"] for row in per_class])
        drawings["f1"] = figures.f1_bars(per_class)
    if calibrated:
        drawings["reliability"] = reliability.figure(calibrated)
    if folder.steps:
        drawings["throughput"] = figures.throughput(folder.steps)
    for name, made in drawings.items():
        drawing.save(folder.folder / "figures", name, made)
    return {name: pages.uri(made) for name, made in drawings.items()}


def _worst(folder: RunFolder, scores: dict[str, Any]) -> list[dict[str, Any]]:
    split = headline_split(scores)
    if folder.predictions is None or split is None:
        return []
    from fanlight.tasks.classify_scores import worst

    root = _root(folder.manifest)
    rows = worst(folder.predictions, split=split, n=WORST)
    return [row | dict(zip(("picture", "problem"), pages.thumbnail(root / row["path"]))) for row in rows]


def _root(manifest: "pa.Table | None") -> Path:
    """The folder that the manifest's paths start from."""
    import json

    metadata = (manifest.schema.metadata if manifest is not None else None) or {}
    return Path(json.loads(metadata.get(b"fanlight", b"{}")).get("root") or ".")


def _step_row(rank: int, table: "pa.Table") -> dict[str, Any]:
    rows, left_out = steady(table)
    return {
        "rank": rank,
        "steps": len(rows),
        "left_out": left_out,
        "step_s": float(rows["total_s"].to_numpy().mean()),
        "shares": step_shares(table),
    }


def _choices(resolved: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """key, value and reason of every setting, those with a reason first."""
    reasons = resolved.get("reasons") or {}
    sections = {name: part for name, part in resolved.items() if name in SECTIONS and isinstance(part, dict)}
    values = {f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()}
    return sorted(((key, value, reasons.get(key, "")) for key, value in values.items()), key=lambda row: not row[2])
