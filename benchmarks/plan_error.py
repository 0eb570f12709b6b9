"""How far the plan is from what this machine does: predicted against measured rates, for what was not calibrated with.

    PYTHONPATH=src python benchmarks/plan_error.py DATA [--models resnet18,resnet34] [--out FILE]

Each network is calibrated once, at one batch size; predicted and then measured are other batch sizes, every layout on 1 and on as
many ranks as cores, in both number formats: ten steps after a warm-up of two, and their median. On a quiet machine. What ranks
that share cores do (`--oversubscribed`) is reported apart.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

from fanlight import console, machine
from fanlight.plan import choose, measure, planning
from fanlight.plan.choose import Candidate, Question
from fanlight.recipes import assemble

MODELS = ("resnet18", "mobilenetv3_small_100", "convnext_atto")
CALIBRATED, BATCHES = 32, (16, 48)
LAYOUTS = ("ddp", "fsdp", "tensor", "pipeline", "model-parallel")
PRECISIONS = ("fp32", "bf16")


def rows(data: str, models: list[str], *, oversubscribed: bool) -> list[tuple[str, Candidate, Candidate]]:
    """(model, predicted, measured) of every configuration that can be."""
    found = []
    cores = machine.cores_usable()
    for model in models:
        config = assemble(
            data, recipe=None, config=None, flags={"model.name": model, "train.batch_size": CALIBRATED}, values=[]
        )
        config, manifest = planning.resolved(config)
        counted = planning.counted_of(config, classes=len(manifest.classes))
        calibration = measure.calibrate(config, classes=len(manifest.classes), precisions=PRECISIONS)
        cluster = calibration.by_ranks[max(calibration.by_ranks)].cluster("this machine")
        ranks = 2 * cores if oversubscribed else cores
        if oversubscribed:
            cluster = replace(cluster, devices=ranks)
        for batch in BATCHES:
            about = Question(
                config.with_value("train.batch_size", batch),
                counted,
                len(manifest.rows("train")),
                cluster,
                calibration,
                batch,
            )
            about = replace(about, config=replace(about.config, asked=frozenset()))
            for precision in PRECISIONS:
                for name in ("serial", *LAYOUTS):
                    one = choose.predicted(about, name, ranks=1 if name == "serial" else ranks, number_format=precision)
                    if one.fits and (name != "serial" or not oversubscribed):
                        found.append((model, one, planning.run(one, about, classes=len(manifest.classes))))
    return [(model, told, real) for model, told, real in found if real.fits]


def report(found: list[tuple[str, Candidate, Candidate]], command: str) -> str:
    errors = [abs(told.images_per_s / real.images_per_s - 1) for _, told, real in found]
    inside = sum(told.band[0] <= real.images_per_s <= told.band[1] for _, told, real in found)
    lines = [
        f"`{command}` on {machine.cpu_name()}, {machine.cores_usable()} cores; n = {len(found)} configurations, "
        f"{planning.STEPS} steps each.",
        "", f"Relative error: median {median(errors):.1%}, 90th percentile {quantiles(errors, n=10)[-1]:.1%}; "
        f"{inside} of {len(found)} inside their bands.", "",
        "| model | layout | ranks | format | batch | predicted img/s | measured | error |", "|---|---|--:|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for (model, told, real), error in zip(found, errors):
        lines.append(
            f"| {model} | {told.layout} | {told.ranks} | {told.precision} | {told.batch} | {told.images_per_s:.4g} | "
            f"{real.images_per_s:.4g} | {error:.0%} |"
        )
    for group in sorted({(model, told.precision, told.batch) for model, told, _ in found}):
        mine = [(told, real) for model, told, real in found if (model, told.precision, told.batch) == group]
        chosen, fastest = (
            max(mine, key=lambda pair: pair[0].images_per_s)[1],
            max(real.images_per_s for _, real in mine),
        )
        lines.append(
            f"\n{', '.join(map(str, group))}: {chosen.layout} is chosen, {chosen.images_per_s / fastest:.1%} of the best."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--oversubscribed", action="store_true")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    found = rows(given.data, given.models.split(","), oversubscribed=given.oversubscribed)
    text = report(found, shlex.join(["python", *sys.argv]))
    console.say(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
