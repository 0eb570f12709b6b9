"""How well is a slow network foretold? Two ranks in two network namespaces, the link between them held to a rate by the kernel's
token bucket; foretold from a cluster file that says that rate.

    PYTHONPATH=src python benchmarks/plan_link.py DATA --work FOLDER [--minutes 10] [--out results/plan-link_cpu_<date>.md]

Each network is calibrated on this machine, one thread a rank. The cluster file has two nodes of one device, as fast as one rank
beside another was found to be, and the link's nominal rate; its latency is that of the preset hosts-1gbit, the library's
overhead (which a file need not say) and what sending a byte takes from computing are those measured here; so what takes turns,
as the stages of model-parallel, is foretold as much too slow as neighbours slow each other here. Measured are real steps, every
configuration's on ranks that stay, a few of each in a turn, rates and configurations in the opposite order from round to round.
Speedups are over the same network trained in one place while the other place trains it too: of one round, so that a machine
whose pace changes is not taken for an error. The bucket passes 256 kB at once, and headers take some 5 % of its rate. FOLDER
keeps the calibration; what it has measured counts, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import fanlight
import places
import two_places
from fanlight import console
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
BATCH, ROUNDS = 32, 12
TURN_S, STEPS_MOST = 3.0, 5  # of a turn's steps
SERIAL = "serial"
START_S = 120.0  # of ranks, and of the first turns, which build and warm up
Rounds = list[dict[str, dict[str, list[float]]]]  # of each, by rate and configuration, seconds of its steps


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
        for name in (SERIAL, *LAYOUTS):
            told = choose.predicted(about, name, ranks=1 if name == SERIAL else 2, number_format="fp32")
            if not told.fits:
                console.say(f"  {model}, {name}: {told.reason}")
                continue
            # Ranks keep one model of a config: each rate has its own, whose gradient buckets are fitted to it.
            own = trial.config_of(told, about).with_value("train.seed", list(RATES).index(rate))
            steps = max(1, min(STEPS_MOST, round(TURN_S * told.images_per_s / told.batch)))
            found.append((rate, told, {"config": own.document(), "classes": classes, "steps": steps}))
    return found


def measured(jobs: dict[str, dict[str, Any]], *, work: Path, minutes: float) -> Rounds:
    """Rounds of all jobs, by rate and name: in a process of its own, in namespaces of its own."""
    asked, answers = work / "jobs.json", work / "measured.jsonl"
    asked.write_text(json.dumps({"minutes": minutes, "jobs": jobs}), encoding="utf-8")
    words = [sys.executable, str(Path(__file__).resolve()), "--inside", str(asked.resolve()), str(answers.resolve())]
    paths = [str(Path(each).resolve().parent) for each in (fanlight.__path__[0], __file__)]
    first = places.two_places(next(iter(RATES)))
    done = places.run(first, words, paths=paths, timeout_s=2 * (60 * minutes + START_S))
    if done.returncode:
        raise SystemExit(f"no steps: {done.stderr.strip()[-2000:]}")
    kept = Kept(answers)
    return [kept[str(turn)] for turn in range(ROUNDS) if str(turn) in kept]


def inside(asked: Path, answers: Path) -> None:
    """In the namespace of rank 0: all jobs, on one pool whose rank 1 is elsewhere. Rounds that are kept are not made again."""
    given = json.loads(asked.read_text(encoding="utf-8"))
    kept = Kept(answers)
    with Pool(2, threads=1, preload=(*confirm.PRELOAD, "two_places")) as pool:
        round_of(pool, given["jobs"], order=1)  # builds and warms up
        clock = Clock(given["minutes"])
        for turn in range(ROUNDS):
            if clock.is_over:
                break
            kept.of(str(turn), lambda turn=turn: round_of(pool, given["jobs"], order=-1 if turn % 2 else 1))


def round_of(pool: Pool, jobs: Mapping[str, Mapping[str, Any]], *, order: int) -> dict[str, dict[str, list[float]]]:
    """A turn of every job at every rate, in order or (-1) the other way round."""
    found: dict[str, dict[str, list[float]]] = {}
    for rate in list(jobs)[::order]:
        for words in places.changed(rate):
            subprocess.run(words, check=True)
        found[rate] = {}
        for name, job in list(jobs[rate].items())[::order]:
            what = two_places.ALONE if name.endswith(SERIAL) else confirm.TURN
            answers = pool.run(what, config=job["config"], classes=job["classes"], steps=job["steps"])
            if errors := [answer["error"] for answer in answers if answer["error"]]:
                raise SystemExit(f"{name} at {rate}: {errors[0]}")
            if name.endswith(SERIAL):  # of both places, the mean
                found[rate][name] = [sum(each) / 2 for each in zip(*(answer["steps_s"] for answer in answers))]
            else:
                found[rate][name] = [max(each) for each in zip(*(answer["steps_s"] for answer in answers))]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data")
    options.add_argument("--work", type=Path, required=True, help="where measurements are kept")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--limit", type=int)
    options.add_argument("--image-size", type=int)
    options.add_argument(
        "--minutes", type=float, default=10.0, help="of rounds; calibrations and the first turns come before"
    )
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    os.environ["FANLIGHT_CACHE"] = str(given.work.resolve() / "cache")
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
    rounds = measured(jobs, work=given.work, minutes=given.minutes)
    text = f"{heading('A slow network, foretold and measured')}\n{report(rows, rounds)}"
    console.say(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def report(rows: dict[tuple[str, str, str], Candidate], rounds: Rounds) -> str:
    """In Markdown."""
    lines = [
        "| link | network | layout | predicted speedup (simulated) | measured | error | predicted img/s | band | "
        "measured | error |",
        "|---|---|---|--:|---|--:|--:|---|--:|--:|",
    ]
    gains, rates, inside_band = [], [], 0
    best: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for (rate, model, layout), told in rows.items():
        own = [median(here[rate][f"{model} {layout}"]) for here in rounds]
        alone = [median(here[rate][f"{model} {SERIAL}"]) for here in rounds]
        single = rows[rate, model, SERIAL]
        real = told.batch / median(own)
        rates.append(abs(told.images_per_s / real - 1))
        inside_band += told.band[0] <= real <= told.band[1]
        gain = told.images_per_s / single.images_per_s
        found = sorted(told.batch / a / (single.batch / b) for a, b in zip(own, alone))
        cells = ["1", "1", ""]
        if layout != SERIAL:
            gains.append(abs(gain / median(found) - 1))
            cells = [f"{gain:.3f}", f"{median(found):.3f} ({found[0]:.3f} … {found[-1]:.3f})", f"{gains[-1]:.1%}"]
            best.setdefault((rate, model), []).append((told.images_per_s, real, layout))
        lines.append(
            f"| {RATES[rate]} | {model} | {layout} | {' | '.join(cells)} | {told.images_per_s:.4g} | "
            f"{told.band[0]:.4g} … {told.band[1]:.4g} | {real:.4g} | {rates[-1]:.1%} |"
        )
    told_best = []
    for (rate, model), mine in best.items():
        taken, quickest = max(mine), max(real for _, real, _ in mine)
        told_best.append(f"- {RATES[rate]}, {model}: {taken[2]}, {taken[1] / quickest:.1%} of the best of {len(mine)}")
    summary = (
        f"n = {len(gains)} configurations of two ranks, {len(rounds)} rounds. Error of the speedup over one place: median "
        f"{median(gains):.1%}, largest {max(gains):.1%}, {sum(each <= 0.15 for each in gains)} of {len(gains)} within 15%; of "
        f"images/s: median {median(rates):.1%}, largest {max(rates):.1%}; {inside_band} of {len(rates)} inside their bands."
    )
    return "\n".join([summary, "", *lines, "", "The layout that the prediction chooses:", "", *told_best]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
