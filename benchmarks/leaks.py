"""How much of a score is copies? One data set, the same training, split at random and split by what the audit found.

`fanlight train DATA` with `--audit exact` (files are split at random, only byte copies are kept together) and with the audit,
the same seeds for both; the test split, where the data has one, is scored with both networks. Nothing else differs.

    python benchmarks/leaks.py --data ../shared/data/lungcolon --work scratch/leaks --seeds 2 --audit thorough
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hardware import heading


def train(a: argparse.Namespace, level: str, seed: int) -> dict[str, Any]:
    """What `fanlight train --json` says; read from --work where it is done."""
    name = f"{a.data.name}-{level}-{a.epochs or 'default'}-{seed}"
    kept = a.work / f"{name}.json"
    if not kept.exists():
        words = [
            sys.executable,
            "-m",
            "fanlight",
            "train",
            str(a.data),
            "--audit",
            level,
            "--seed",
            str(seed),
            "--json",
        ]
        words += ["--no-report", "--out", str(a.work / name), *(("--epochs", str(a.epochs)) if a.epochs else ())]
        kept.write_text(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--audit", default="thorough", choices=["quick", "thorough"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="Default: as train chooses.")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    runs = {level: [] for level in ("exact", a.audit)}
    for seed in range(a.seeds):
        for level in runs:
            runs[level].append(train(a, level, seed))
    print(heading(f"Random and group split: {a.data.name}"))
    print(
        "| split | validation accuracy by seed | mean | images | test accuracy by seed | mean |\n|---|---|--:|--:|---|--:|"
    )
    for level, found in runs.items():
        row = [f"--audit {level}"]
        for split in ("val", "test"):
            scores = [each["metrics"][split] for each in found if split in each["metrics"]]
            values = [each["accuracy"] for each in scores]
            row.append(", ".join(f"{value:.3f}" for value in values) or "–")
            row.append(f"{np.mean(values):.3f}" if values else "–")
            if split == "val":
                row.append(", ".join(str(each["count"]) for each in scores))
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
