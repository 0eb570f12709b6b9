"""Does a setting change the accuracy? The same training with and without it, over seeds that both share.

    python benchmarks/seeds.py --data ../shared/data/weather4 --flags="--epochs 8" --against="--no-pack" --work scratch/seeds

Each run is one `fanlight train` as a user would type it; those that are done are read from `--work`. A seed draws
split, weights, order and crops, the same ones for both, so differences are by pairs.
The interval of the mean difference is Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hardware import heading


def train(name: str, flags: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The object that `fanlight train --json` prints."""
    kept = arguments.work / f"{name}-{seed}.json"
    if not kept.exists():
        command = [
            sys.executable,
            "-m",
            "fanlight",
            "train",
            arguments.data,
            "--seed",
            str(seed),
            "--json",
            "--no-report",
        ]
        command += [*shlex.split(flags), "--out", str(arguments.work / f"{name}-{seed}")]
        kept.write_text(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--flags", default="", help="of both")
    parser.add_argument("--against", required=True, help="further flags of the second")
    parser.add_argument("--n", type=int, default=5, help="seeds")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    ways = {"without": arguments.flags, "with": f"{arguments.flags} {arguments.against}"}
    rows = [{name: train(name, flags, seed, arguments) for name, flags in ways.items()} for seed in range(arguments.n)]
    scores = {name: np.array([row[name]["metrics"]["val"]["accuracy"] for row in rows]) for name in ways}
    print(heading(f"{Path(arguments.data).name} with and without {arguments.against}"))
    print("| seed | validated | accuracy without | accuracy with | wall s without | wall s with |")
    print("|--:|--:|--:|--:|--:|--:|")
    for seed, row in enumerate(rows):
        count = row["with"]["metrics"]["val"]["count"]
        walls = " | ".join(f"{row[name]['wall_s']:.0f}" for name in ways)
        print(f"| {seed} | {count} | {scores['without'][seed]:.4f} | {scores['with'][seed]:.4f} | {walls} |")
    from scipy.stats import t

    gaps = scores["with"] - scores["without"]
    half = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
    print(
        f"\nMeans {scores['without'].mean():.4f} without, {scores['with'].mean():.4f} with; mean difference "
        f"{gaps.mean():+.4f}, 95 % interval {gaps.mean() - half:+.4f} … {gaps.mean() + half:+.4f} (n = {len(gaps)} seeds)."
    )


if __name__ == "__main__":
    main()
