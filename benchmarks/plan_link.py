"""How well is a slow network foretold? Two ranks in two network namespaces, the link between them held to a rate by the kernel's
token bucket; foretold from a cluster file that says that rate.

    PYTHONPATH=src python benchmarks/plan_link.py DATA --work FOLDER [--minutes 10] [--out results/plan-link_cpu_<date>.md]

Each network is calibrated on this machine, one thread a rank. The cluster file has two nodes of one device, as fast as one rank
beside another was found to be, and the link's nominal rate; its latency is that of the preset hosts-1gbit, the library's
overhead (which a file need not say) and what sending a byte takes from computing are those measured here; so what takes turns,
as the stages of model-parallel, is foretold as much too slow as neighbours slow each other here. Measured are real steps,
median of five after two, rounds in opposite orders. The bucket passes 256 kB at once, and headers take some 5 % of its rate.
What FOLDER has is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import fanlight
import places
from fanlight import console
from fanlight.config import from_document
from fanlight.errors import FanlightError
from fanlight.parallel.launch import Pool
from fanlight.plan import choose, cluster, confirm, measure, planning, trial
from fanlight.plan.calibration import Calibration
from fanlight.plan.choose import Candidate, Question
from fanlight.recipes import assemble
from hardware import heading
from kept import Clock, Kept

MODELS = ("resnet18", "mobilenetv3_small_100")
RATES = {"200mbit": "200 Mbit/s", "1gbit": "1 Gbit/s"}  # as tc and as a cluster file say it
LAYOUTS = ("ddp", "fsdp", "pipeline", "model-parallel")
BATCH, STEPS, ROUNDS = 32, 5, 2
TIMEOUT_S = 400.0  # of all steps at one rate


def described(rate: str, calibration: Calibration) -> cluster.Cluster:
    """The two computers, by way of a file's words."""
    beside = calibration.by_ranks[2]
    bytes_per_s = cluster.UNITS["bytes per second"][rate.split()[1]] * float(rate.split()[0])
    steals = min(
        1.0, beside.steals * bytes_per_s / beside.bytes_per_s
    )  # of a byte, as here; so less of a slower second
    text = f"""
name: two places, {rate}
nodes: 2
device: {{kind: cpu, count: 1, memory: 16 GB, speed: {1 / max(1.0, beside.steps["fp32"].alone):.4f}}}
links: {{between: {{latency: 150us, bandwidth: {rate}}}}}
spread: {beside.steps["fp32"].spread:.4f}
steals: {steals:.6f}
"""
    return cluster.parse(text, where="the described cluster")


def foretold(
    data: str, model: str, *, limit: int | None, image_px: int | None
) -> list[tuple[str, Candidate, dict[str, Any]]]:
    """(rate, what is foretold, the job that measures it) of every layout."""
    flags = {
        "model.name": model, "train.batch_size": BATCH, "train.precision": "fp32", "execution.threads": 1, "data.limit": limit,
        "data.image_px": image_px,
    }  # fmt: skip
    config, manifest = planning.resolved(assemble(data, recipe=None, config=None, flags=flags, values=[]))
    classes = len(manifest.classes)
    counted, *_ = planning.network_of(config, classes=classes)
    calibration = measure.calibrate(config, counted, classes=classes, precisions=["fp32"], ranks=[2])
    config = replace(config, asked=frozenset({"execution.threads"}))
    found = []
    for rate, words in RATES.items():
        about = Question(
            config, counted, len(manifest.rows("train")), described(words, calibration), calibration, BATCH
        )
        for name in LAYOUTS:
            told = choose.predicted(about, name, ranks=2, number_format="fp32")
            if not told.fits:
                console.say(f"  {model}, {name}: {told.reason}")
                continue
            job = {"config": trial.config_of(told, about).document(), "classes": classes}
            found.append((rate, told, job))
    return found


def measured(rate: str, jobs: dict[str, dict[str, Any]], *, work: Path) -> dict[str, Any]:
    """Seconds of each job's steps on a link of `rate`, by name: in a process of its own, in namespaces of its own."""
    asked, answers = work / f"{rate}-jobs.json", work / f"{rate}-answers.json"
    asked.write_text(json.dumps(jobs), encoding="utf-8")
    answers.unlink(missing_ok=True)
    words = [sys.executable, str(Path(__file__).resolve()), "--inside", str(asked.resolve()), str(answers.resolve())]
    paths = [str(Path(each).resolve().parent) for each in (fanlight.__path__[0], __file__)]
    done = places.run(places.two_places(rate), words, paths=paths, timeout_s=TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"no steps at {rate}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def inside(asked: Path, answers: Path) -> None:
    """In the namespace of rank 0: all jobs, on one pool whose rank 1 is elsewhere."""
    found = {}
    with Pool(2, threads=1, preload=(*confirm.PRELOAD, "two_places")) as pool:
        for name, job in json.loads(asked.read_text(encoding="utf-8")).items():
            config = from_document(job["config"], where=name)
            found[name] = confirm.on(pool, config, classes=job["classes"], steps=STEPS).steps_s
    answers.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data")
    options.add_argument("--work", type=Path, required=True, help="where measurements are kept")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--limit", type=int)
    options.add_argument("--image-size", type=int)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    clock = Clock(given.minutes)
    os.environ["FANLIGHT_CACHE"] = str(given.work.resolve() / "cache")
    kept = Kept(given.work / "measured.jsonl")
    rows: dict[tuple[str, str, str], Candidate] = {}
    jobs: dict[str, dict[str, dict[str, Any]]] = {rate: {} for rate in RATES}
    for model in given.models.split(","):
        try:
            found = foretold(given.data, model, limit=given.limit, image_px=given.image_size)
        except FanlightError as error:
            raise SystemExit(str(error)) from None
        for rate, told, job in found:
            rows[rate, model, told.layout] = told
            jobs[rate][f"{model} {told.layout}"] = job
    rounds: list[dict[str, dict[str, Any]]] = []
    for turn in range(ROUNDS):
        here = {}
        for rate in list(RATES)[:: 1 if turn % 2 == 0 else -1]:
            key = f"{turn} {rate}"
            if turn and clock.is_over and key not in kept:
                continue
            mine = dict(list(jobs[rate].items())[:: 1 if turn % 2 == 0 else -1])
            here[rate] = kept.of(key, lambda rate=rate, mine=mine: measured(rate, mine, work=given.work))
            console.say(f"  {turn + 1}/{ROUNDS} {rate}")
        rounds.append(here)
    text = f"{heading('A slow network, foretold and measured')}\n{report(rows, rounds)}"
    console.say(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def report(rows: dict[tuple[str, str, str], Candidate], rounds: list[dict[str, dict[str, Any]]]) -> str:
    """In Markdown."""
    lines = [
        "| link | network | layout | predicted img/s (simulated) | band | measured | error | rounds |",
        "|---|---|---|--:|---|--:|--:|--:|",
    ]
    errors, inside_band = [], 0
    best: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for (rate, model, layout), told in rows.items():
        steps = [here[rate][f"{model} {layout}"] for here in rounds if f"{model} {layout}" in here.get(rate, {})]
        if not steps:
            continue
        real = told.batch / median(median(each) for each in steps)
        errors.append(abs(told.images_per_s / real - 1))
        inside_band += told.band[0] <= real <= told.band[1]
        best.setdefault((rate, model), []).append((told.images_per_s, real, layout))
        lines.append(
            f"| {RATES[rate]} | {model} | {layout} | {told.images_per_s:.4g} | {told.band[0]:.4g} … {told.band[1]:.4g} | "
            f"{real:.4g} | {errors[-1]:.1%} | {len(steps)} |"
        )
    told_best = []
    for (rate, model), mine in best.items():
        taken, quickest = max(mine), max(real for _, real, _ in mine)
        told_best.append(f"- {RATES[rate]}, {model}: {taken[2]}, {taken[1] / quickest:.1%} of the best of {len(mine)}")
    summary = (
        f"n = {len(errors)} configurations of two ranks, {STEPS} steps a round. Relative error: median {median(errors):.1%}, "
        f"largest {max(errors):.1%}; {inside_band} of {len(errors)} inside their bands."
    )
    return "\n".join([summary, "", *lines, "", "The layout that the prediction chooses:", "", *told_best]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
