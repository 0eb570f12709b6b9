"""Cross-validated accuracy of a recipe: every image is validated once, exact copies on one side.

    python benchmarks/folds.py --data ../shared/data/weather4 --recipe photos-small --folds 5 --work scratch/folds

Each fold is one `fanlight train` as a user would type it. Folds that are done are read from `--work`, so it can be
interrupted. The interval is Student's t over folds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fanlight import machine
from hardware import heading


def train(fold: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The object that `fanlight train --json` prints for one fold."""
    kept = arguments.work / f"fold{fold}.json"
    if not kept.exists():
        command = [
            sys.executable, "-m", "fanlight", "train", arguments.data, "--recipe", arguments.recipe,
            "--folds", str(arguments.folds), "--fold", str(fold), "--json", "--no-report",
            "--threads", str(max(1, machine.cores_usable() // arguments.jobs)),
            "--out", str(arguments.work / f"run{fold}"),
        ]  # fmt: skip
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        kept.write_text(answer)
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="folds at a time, each on its share of the cores")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as jobs:
        rows = list(jobs.map(lambda fold: train(fold, arguments), range(arguments.folds)))
    accuracies = np.array([row["metrics"]["val"]["accuracy"] for row in rows])
    from scipy.stats import t

    half = float(t.ppf(0.975, len(rows) - 1) * accuracies.std(ddof=1) / np.sqrt(len(rows)))
    print(heading(f"{arguments.folds} folds of {Path(arguments.data).name} by recipe {arguments.recipe}"))
    print("| fold | validated | accuracy | balanced | wall s | train img/s |")
    print("|--:|--:|--:|--:|--:|--:|")
    for fold, row in enumerate(rows):
        val = row["metrics"]["val"]
        numbers = (
            f"{val['accuracy']:.4f} | {val['balanced_accuracy']:.4f} | {row['wall_s']:.0f} | {row['images_per_s']:.0f}"
        )
        print(f"| {fold} | {val['count']} | {numbers} |")
    minutes = np.median([row["wall_s"] for row in rows]) / 60
    print(
        f"\nMean accuracy {accuracies.mean():.4f}, 95 % interval {accuracies.mean() - half:.4f} … "
        f"{accuracies.mean() + half:.4f} (n = {len(rows)} folds); "
        f"median {minutes:.1f} minutes a fold, {arguments.jobs} at a time."
    )


if __name__ == "__main__":
    main()
