"""How far the plan is from what this machine does: predicted against measured rates and memory, beyond what calibrated it.

    PYTHONPATH=src python benchmarks/plan_error.py DATA --work FOLDER [--minutes 15] [--out results/plan-error_cpu_<date>.md]

A round calibrates each network anew, at one batch size; predicted and then measured are other batch sizes, on one rank and on
as many as there are cores, in every layout and in the number formats that this processor does not emulate (or in --formats);
and, told apart, on twice as many ranks as cores. A measurement is the median of ten steps after a warm-up of two, by processes
that are started for it, whose peak resident memory is then theirs alone. Further rounds measure in the opposite order while the
minutes last. An error is of medians over rounds, of predictions and of measurements; the errors of single rounds, each with its
one calibration on a machine whose pace changes, are told beside it. Run it on a quiet machine. What FOLDER has is not measured
again: an interrupted run goes on, and after a change of the code or on another machine FOLDER has to be another.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from fanlight import console, machine
from fanlight.errors import FanlightError
from fanlight.plan import choose, confirm, measure, planning, trial
from fanlight.plan.choose import Candidate, Question
from fanlight.recipes import assemble
from fanlight.train import precision
from hardware import heading
from kept import Clock, Kept

MODELS = ("resnet18", "mobilenetv3_small_100", "convnext_atto")
CALIBRATED = 32  # images of a batch
LAYOUTS = {16: ("serial", "ddp"), 48: ("serial", "ddp", "fsdp", "tensor", "pipeline", "model-parallel")}  # by batch
SHORT = {48: ("serial", "ddp")}  # in bf16
CROWDED = {48: ("ddp", "pipeline")}  # on twice as many ranks as cores
ROUNDS = 3
STEPS = 10
MEMORY_WITHIN, BEST_WITHIN = 0.20, 0.95


@dataclass(frozen=True)
class Job:
    """One configuration: what is foretold of it, and how to measure it."""

    model: str
    told: Candidate
    about: Question
    classes: int

    @property
    def is_crowded(self) -> bool:
        return self.told.ranks > machine.cores_usable()

    @property
    def key(self) -> str:
        t = self.told
        return f"{self.model} {t.layout} {t.ranks} {t.precision} {t.batch}"

    def measured(self) -> dict[str, object]:
        """Seconds of each step and bytes of the process that held most; or why there are none."""
        try:
            found = confirm.measure(trial.config_of(self.told, self.about), classes=self.classes, steps=STEPS)
        except FanlightError as error:
            return {"error": str(error)}
        return {"steps_s": found.steps_s, "peak_bytes": found.peak_bytes}


def jobs(data: str, models: list[str], *, formats: list[str], limit: int | None, image_px: int | None) -> list[Job]:
    """Every configuration that the plan thinks possible."""
    found = []
    cores = machine.cores_usable()
    for model in models:
        flags = {"model.name": model, "train.batch_size": CALIBRATED, "data.limit": limit, "data.image_px": image_px}
        config, manifest = planning.resolved(assemble(data, recipe=None, config=None, flags=flags, values=[]))
        classes = len(manifest.classes)
        counted, *_ = planning.network_of(config, classes=classes)
        calibration = measure.calibrate(config, counted, classes=classes, precisions=formats)
        here = calibration.by_ranks[max(calibration.by_ranks)].cluster("this machine")
        images = len(manifest.rows("train"))
        asked = {"fp32": LAYOUTS, "bf16": SHORT}
        wanted = [
            (batch, name, 1 if name == "serial" else cores, number_format)
            for number_format in formats
            for batch, names in asked[number_format].items()
            for name in names
        ]
        if model == models[0] and "fp32" in formats:
            wanted += [(b, name, 2 * cores, "fp32") for b, names in CROWDED.items() for name in names]
        for batch, name, ranks, number_format in wanted:
            if name != "serial" and ranks < 2:
                continue
            other = replace(config.with_value("train.batch_size", batch), asked=frozenset())
            about = Question(other, counted, images, here, calibration, batch)
            told = choose.predicted(about, name, ranks=ranks, number_format=number_format)
            if told.fits:
                found.append(Job(model, told, about, classes))
            else:
                console.say(f"  {model}, {name} on {ranks}: {told.reason}")
    return found


Measured = dict[
    str, list[tuple[Job, dict[str, object]]]
]  # by configuration: what was foretold and measured in each round


def measure_all(jobs_of: Callable[[int], list[Job]], kept: Kept, clock: Clock) -> Measured:
    """A round after the other, every other one backwards, so that what changes on the machine meanwhile falls on all."""
    rows: Measured = {}
    for turn in range(ROUNDS):
        if turn and clock.is_over and f"{turn} begun" not in kept:
            break
        kept.of(f"{turn} begun", lambda: True)
        for job in jobs_of(turn)[:: 1 if turn % 2 == 0 else -1]:
            key = f"{turn} {job.key}"
            if turn and key not in kept and clock.is_over:
                continue
            rows.setdefault(job.key, []).append((job, kept.of(key, job.measured)))
            console.say(f"  {turn + 1}/{ROUNDS} {job.key}")
    return rows


@dataclass(frozen=True)
class Row:
    """A configuration, over rounds."""

    job: Job
    told: tuple[float, ...]  # images/s, by round
    real: tuple[float, ...]
    peak_bytes: float

    @property
    def foretold(self) -> float:
        return median(self.told)

    @property
    def images_per_s(self) -> float:
        return median(self.real)

    @property
    def error(self) -> float:
        return abs(self.foretold / self.images_per_s - 1)

    @property
    def errors(self) -> list[float]:
        """Of single rounds."""
        return [abs(told / real - 1) for told, real in zip(self.told, self.real)]

    @property
    def memory_error(self) -> float:
        return abs(self.job.told.bytes / self.peak_bytes - 1)


def rows_of(measured: Measured) -> tuple[list[Row], list[str]]:
    """What was measured, and what could not be, in words."""
    rows, failed = [], []
    for key, rounds in measured.items():
        good = [(job, one) for job, one in rounds if "error" not in one]
        failed += [f"{key}: {one['error']}" for _, one in rounds if "error" in one]
        if good:
            told = tuple(job.told.images_per_s for job, _ in good)
            real = tuple(job.told.batch / median(one["steps_s"]) for job, one in good)  # type: ignore[call-overload]
            peak = median(float(one["peak_bytes"]) for _, one in good)  # type: ignore[arg-type]
            rows.append(Row(good[0][0], told, real, peak))
    return rows, failed


def report(rows: list[Row], failed: list[str]) -> str:
    """In Markdown."""
    apart, own = [row for row in rows if row.job.is_crowded], [row for row in rows if not row.job.is_crowded]
    lines = [summary(own), ""]
    lines += [f"On twice as many ranks as cores, apart: {summary(apart)}", ""] if apart else []
    lines += [f"Could not be run: {'; '.join(failed)}.", ""] if failed else []
    lines += [
        "| model | layout | ranks | format | batch | predicted img/s (simulated) | band, first round | measured | error "
        "| of single rounds | a rank's memory, predicted | measured | error |",
        "|---|---|--:|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        t = row.job.told
        single = ", ".join(f"{error:.0%}" for error in row.errors)
        lines.append(
            f"| {row.job.model} | {t.layout} | {t.ranks} | {t.precision} | {t.batch} | {row.foretold:.4g} | "
            f"{t.band[0]:.4g} … {t.band[1]:.4g} | {row.images_per_s:.4g} | {row.error:.1%} | {single} | "
            f"{console.bytes_text(t.bytes)} | {console.bytes_text(row.peak_bytes)} | {row.memory_error:.1%} |"
        )
    return "\n".join([*lines, "", *chosen(own)]) + "\n"


def summary(rows: list[Row]) -> str:
    errors, held = [row.error for row in rows], [row.memory_error for row in rows]
    single = [error for row in rows for error in row.errors]
    inside = sum(row.job.told.band[0] <= row.real[0] <= row.job.told.band[1] for row in rows)
    near = sum(each <= MEMORY_WITHIN for each in held)
    rounds = max(len(row.real) for row in rows)
    return (
        f"n = {len(rows)} configurations, {rounds} round(s) of {STEPS} steps. Relative error of the rate, medians over rounds: "
        f"median {median(errors):.1%}, 90th percentile {ninth(errors):.1%}; of single rounds: median {median(single):.1%}, 90th "
        f"percentile {ninth(single):.1%} (n = {len(single)}); {inside} of {len(rows)} inside their bands in the first. Memory: "
        f"median {median(held):.1%}, 90th percentile {ninth(held):.1%}; {near} of {len(rows)} within {MEMORY_WITHIN:.0%} of peak "
        "resident."
    )


def ninth(values: list[float]) -> float:
    """The 90th percentile."""
    return float(np.quantile(values, 0.9))


def chosen(rows: list[Row]) -> list[str]:
    """For each network, format and batch, how good the layout is that the prediction alone would choose."""
    lines, shares = [], []
    for group in sorted({(row.job.model, row.job.told.precision, row.job.told.batch) for row in rows}):
        mine = [row for row in rows if (row.job.model, row.job.told.precision, row.job.told.batch) == group]
        if len(mine) > 1:
            best, taken = max(row.images_per_s for row in mine), max(mine, key=lambda row: row.foretold)
            shares.append(taken.images_per_s / best)
            what = f"{taken.job.told.layout}, {shares[-1]:.1%} of the best of {len(mine)}"
            lines.append(f"- {', '.join(map(str, group))}: {what}")
    good = sum(share >= BEST_WITHIN for share in shares)
    told = f"The layout that the prediction alone chooses is within {1 - BEST_WITHIN:.0%} of the best in"
    return [f"{told} {good} of {len(shares)} groups:", "", *lines] if shares else []


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data")
    options.add_argument("--work", type=Path, required=True, help="where measurements are kept")
    options.add_argument("--minutes", type=float, default=20.0)
    options.add_argument(
        "--formats", help="fp32,bf16, with commas between; default: those that this processor does not emulate"
    )
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--limit", type=int)
    options.add_argument("--image-size", type=int)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    clock = Clock(given.minutes)
    kept = Kept(given.work / "measured.jsonl")
    gain = kept.of("bf16", precision.cpu_gain)
    formats = ["fp32", "bf16"] if gain >= 1 else ["fp32"]
    formats = given.formats.split(",") if given.formats else formats

    def jobs_of(turn: int) -> list[Job]:
        os.environ["FANLIGHT_CACHE"] = str(given.work.resolve() / f"cache-{turn}")  # calibrations of this round
        models = given.models.split(",")
        return jobs(given.data, models, formats=formats, limit=given.limit, image_px=given.image_size)

    rows, failed = rows_of(measure_all(jobs_of, kept, clock))
    if not rows:
        raise SystemExit(f"nothing could be measured: {'; '.join(failed) or 'no configuration fits'}")
    left = "" if "bf16" in formats else f"bf16 is left out: {precision.gain_words(gain)}.\n\n"
    text = f"{heading('Predicted and measured rates and memory')}\n{left}{report(rows, failed)}"
    console.say(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
