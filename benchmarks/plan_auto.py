"""What does `--layout auto` bring over the default layout, and what does planning cost?

    PYTHONPATH=src python benchmarks/plan_auto.py --data SETS --work FOLDER --out results/plan-auto_cpu_<date>.md

Pairs of a network and data. Each is planned once, as the first `--layout auto` on a machine plans: measuring it, then running
the best in turns. Then it is trained by the command line with the layout that was planned and with the default one, in the same
number format, batch and length, in turns, the order changing from round to round, as often as the minutes allow, at least once.
Where both are the same layout there is nothing to compare, and the ratio is 1 by definition. A rate is the run's own: of the
epochs after the first. What FOLDER has is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fanlight import console
from fanlight.errors import FanlightError
from fanlight.plan import planning
from fanlight.recipes import assemble
from fanlight.train import precision
from hardware import heading
from kept import Clock, Kept

PAIRS = (
    "resnet18:weather4", "convnext_atto:weather4", "convnext_atto:asl29", "mobilenetv3_small_100:lungcolon", "resnet18:asl29",
    "small-cnn:digits", "small-resnet:digits", "small-resnet:weather4",
)  # fmt: skip
IMAGES, EPOCHS, ROUNDS = 480, 3, 3  # of a training; of digits, which are small, all that there are
TIMEOUT_S = 300


@dataclass(frozen=True)
class Pair:
    """A network on data, and the training whose layout is asked for."""

    name: str
    data: str
    model: str
    number_format: str
    images: int

    def flags(self) -> list[str]:
        limit = [] if self.data == "digits" else ["--limit", str(self.images)]
        return [
            "--model",
            self.model,
            "--precision",
            self.number_format,
            "--epochs",
            str(EPOCHS),
            "--device",
            "cpu",
            *limit,
        ]

    def planned(self) -> dict[str, Any]:
        """What a plan chooses, and how long it takes where nothing was measured before."""
        flags = {
            "model.name": self.model, "train.precision": self.number_format, "execution.device": "cpu", "train.epochs": EPOCHS,
            "data.limit": None if self.data == "digits" else self.images, "execution.layout": "auto",
        }  # fmt: skip
        config = assemble(self.data, recipe=None, config=None, flags=flags, values=[])
        begin = time.perf_counter()
        found = planning.decided(config)
        e = found.execution
        return {
            "layout": e.layout,
            "ranks": e.ranks,
            "microbatches": found.train.microbatches,
            "s": time.perf_counter() - begin,
        }

    def train(self, layout: list[str], *, out: Path) -> dict[str, Any]:
        """One run by the command line; its own document, or why there is none."""
        shutil.rmtree(out, ignore_errors=True)  # of a run that was interrupted
        words = [
            "train",
            self.data,
            *self.flags(),
            *layout,
            "--no-report",
            "--no-autotune",
            "--json",
            "--out",
            str(out),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "fanlight", *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )  # fmt: skip
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1:] or ["failed"]}
        told = json.loads(done.stdout)
        return {key: told[key] for key in ("layout", "ranks", "images_per_s", "wall_s")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="a folder with the data sets that pairs name")
    options.add_argument("--work", type=Path, required=True, help="where measurements are kept")
    options.add_argument("--pairs", default=",".join(PAIRS))
    options.add_argument("--images", type=int, default=IMAGES)
    options.add_argument("--minutes", type=float, default=12.0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    clock = Clock(given.minutes)
    os.environ["FANLIGHT_CACHE"] = str(given.work.resolve() / "cache")
    kept = Kept(given.work / "measured.jsonl")
    gain = kept.of("bf16", precision.cpu_gain)
    number_format = "bf16" if gain >= precision.PAYS else "fp32"
    pairs = []
    for name in given.pairs.split(","):
        model, _, data = name.partition(":")
        where = data if data == "digits" else str(given.data / data)
        pairs.append(Pair(name, where, model, number_format, given.images))
    text = f"{heading('--layout auto and the default layout')}\n{report(measured(pairs, kept, clock, work=given.work))}"
    console.say(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def measured(pairs: list[Pair], kept: Kept, clock: Clock, *, work: Path) -> list[dict[str, Any]]:
    """A row of each pair."""
    rows = []
    for pair in pairs:
        try:
            plan = kept.of(f"plan {pair.name}", pair.planned)
        except FanlightError as error:
            plan = {"error": str(error)}
        rows.append({"pair": pair, "plan": plan, "auto": [], "default": []})
        console.say(f"  planned {pair.name}: {plan}")
    for turn in range(ROUNDS):
        for row in rows[:: 1 if turn % 2 == 0 else -1]:
            pair, plan = row["pair"], row["plan"]
            layouts = {"default": []}
            if plan.get("layout", "serial") != "serial":
                layouts["auto"] = ["--layout", plan["layout"], "--ranks", str(plan["ranks"])]
                if "pipe" in plan["layout"]:
                    layouts["auto"] += ["--set", f"train.microbatches={plan['microbatches']}"]
            for arm, flags in list(layouts.items())[:: 1 if turn % 2 == 0 else -1]:
                key = f"{turn} {arm} {pair.name}"
                if turn and clock.is_over and key not in kept:
                    continue
                out = work / "runs" / key.replace(" ", "-").replace(":", "-")
                row[arm].append(kept.of(key, lambda pair=pair, flags=flags, out=out: pair.train(flags, out=out)))
                console.say(f"  {turn + 1}/{ROUNDS} {arm} {pair.name}")
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """In Markdown: img/s are medians over rounds, ratios those of a round's own two runs."""
    lines = [
        "| network and data | format | planned | img/s planned | default | img/s default | ratio (rounds) | n | planning s "
        "| repaid after images |",
        "|---|---|---|--:|---|--:|---|--:|--:|--:|",
    ]  # fmt: skip
    medians = []
    for row in rows:
        pair, plan = row["pair"], row["plan"]
        default = [one for one in row["default"] if "error" not in one]
        auto = [one for one in row["auto"] if "error" not in one]
        failed = [one["error"] for arm in ("auto", "default") for one in row[arm] if "error" in one]
        is_same = bool(default) and plan.get("layout") == default[0]["layout"]
        if "error" in plan or not default or failed or not (auto or is_same):
            why = plan.get("error") or failed or "not reached in the time"
            lines.append(f"| {pair.name} | {pair.number_format} | {why} | | | | | | | |")
            continue
        base = median(one["images_per_s"] for one in default)
        what = f"{plan['layout']} on {plan['ranks']}"
        head = f"| {pair.name} | {pair.number_format} | {what} |"
        tail = f"{default[0]['layout']} on {default[0]['ranks']} | {base:.4g} |"
        if is_same:
            medians.append(1.0)
            lines.append(f"{head} {base:.4g} | {tail} 1 (the same) | {len(default)} | {plan['s']:.0f} | |")
            continue
        rate = median(one["images_per_s"] for one in auto)
        ratios = [a["images_per_s"] / b["images_per_s"] for a, b in zip(auto, default)]
        medians.append(median(ratios))
        saved_s = 1 / base - 1 / rate  # of an image
        repaid = f"{plan['s'] / saved_s:,.0f}" if saved_s > 0 else "never"
        told = " ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"{head} {rate:.4g} | {tail} {medians[-1]:.2f} ({told}) | {len(ratios)} | {plan['s']:.0f} | {repaid} |"
        )
    worst = f"{min(medians):.2f}" if medians else "none"
    better = sum(each > 1.05 for each in medians)
    summary = f"{len(medians)} pairs: more than 1.05 times as fast in {better}; the least ratio is {worst}."
    return "\n".join([summary, "", *lines]) + "\n"


if __name__ == "__main__":
    main()
