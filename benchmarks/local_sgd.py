"""What do ranks that train apart lose in accuracy, and what do they save in bytes?

ddp, local-sgd (H = 8) and diloco (H = 8) on 4 ranks, CIFAR-10 (10,000 training and 10,000 validation images), the same seeds
for all, so differences are by pairs. Bytes are counted on the ranks, norms' statistics included. Accuracy and bytes do not
depend on what else the machine does; seconds are not told.

    python benchmarks/local_sgd.py --cifar ../shared/data/cifar10.tar.xz --work scratch/apart --seeds 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from contest import photos
from hardware import heading

LAYOUTS: dict[str, tuple[str, ...]] = {
    "ddp": (), "local-sgd": ("--sync-every", "8"), "diloco": ("--sync-every", "8"),
}  # fmt: skip


def train(a: argparse.Namespace, data: Path, layout: str, seed: int) -> dict[str, Any]:
    """What `fanlight train --json` says, and the bytes that rank 0 sent; read from --work where it is done."""
    lr = dict(a.lr).get(layout)
    name = f"{a.model}-{layout}-{a.ranks}-{a.epochs}-b{a.batch_size}-lr{lr or 'own'}-{seed}"
    kept = a.work / f"{name}.json"
    if not kept.exists():
        words = [sys.executable, "-m", "fanlight", "train", str(data), "--layout", layout, "--ranks", str(a.ranks)]
        words += [
            "--model", a.model, "--epochs", str(a.epochs), "--seed", str(seed), "--no-report", "--json", *LAYOUTS[layout],
        ]  # fmt: skip
        words += ["--out", str(a.work / name), "--device", "cpu", "--batch-size", str(a.batch_size)]
        words += ["--lr", str(lr)] if lr else []
        words += ["--set", f"train.evaluate_every={a.epochs}"]
        kept.write_text(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return json.loads(kept.read_text())


def rate(text: str) -> tuple[str, float]:
    layout, _, value = text.partition("=")
    if layout not in LAYOUTS:
        raise argparse.ArgumentTypeError(f"{text}: LAYOUT=RATE, with {', '.join(LAYOUTS)}")
    return layout, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--model", default="small-resnet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128, help="of all ranks together")
    parser.add_argument("--lr", type=rate, action="append", default=[], help="LAYOUT=RATE; else what train chooses")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parent.parent / "src"))
    data = photos.unpack_cifar(a.cifar, a.work / "cifar10-10000-10000", val=10_000)
    found = {name: [train(a, data, name, seed) for seed in range(a.seeds)] for name in LAYOUTS}
    scores = {name: np.array([each["metrics"]["val"]["accuracy"] for each in runs]) for name, runs in found.items()}
    sent = {name: sum(runs[0]["sent_bytes"].values()) for name, runs in found.items()}
    count = found["ddp"][0]["metrics"]["val"]["count"]
    print(heading(f"Ranks that train apart: {a.ranks} ranks, CIFAR-10, {a.model}, {a.epochs} epochs"))
    print(
        "| layout | accuracy by seed | mean | difference from ddp, by pairs | 95 % | bytes sent by rank 0 | of ddp's |"
    )
    print("|---|---|--:|--:|--:|--:|--:|")
    from scipy.stats import t

    for name, values in scores.items():
        gaps = values - scores["ddp"]
        half = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else np.nan
        told = " ".join(f"{value:.4f}" for value in values)
        print(
            f"| {name} | {told} | {values.mean():.4f} | {gaps.mean():+.4f} | ±{half:.4f} | {sent[name]:,} "
            f"| {sent[name] / sent['ddp']:.4f} |"
        )
    print(f"\nn = {count} validation images a run, {a.seeds} seeds.")


if __name__ == "__main__":
    main()
