"""How long from Enter to help, and to the first training step on a packed set, beside what any trainer must import.

    python benchmarks/start.py --data ../shared/data/weather4 --work scratch/start

The floor is `import torch, timm` and the construction of the same network, in a process of its own. Runs alternate.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from hardware import heading, ratio_interval

FLOOR = "import torch, timm; timm.create_model('resnet18', num_classes=4)"


def wall_s(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def first_step_s(data: Path, work: Path) -> float:
    """From Enter to the first step, as the run itself records it."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    words = [
        sys.executable, "-m", "fanlight", "train", str(data), "--model", "resnet18", "--image-size", "128", "--epochs", "1",
        "--device", "cpu", "--pack-dir", str(work / "packs"), "--no-report", "--limit", "128", "--out", str(run),
    ]  # fmt: skip
    wall_s(words)
    return json.loads((run / "run.json").read_text())["phases"]["start_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--n", type=int, default=7)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    first_step_s(a.data, a.work)  # makes the pack, and brings files into memory
    wall_s([sys.executable, "-c", FLOOR])
    help_s, step_s, floor_s = [], [], []
    for _ in range(a.n):
        help_s.append(wall_s([sys.executable, "-m", "fanlight", "--help"]))
        step_s.append(first_step_s(a.data, a.work))
        floor_s.append(wall_s([sys.executable, "-c", FLOOR]))
    ratio, low, high = ratio_interval(step_s, floor_s)
    print(heading("Start-up"))
    print("| what | median s | lowest | highest |\n|---|--:|--:|--:|")
    rows = {"`fanlight --help`": help_s, "Enter to first step, packed": step_s, "import torch, timm; network": floor_s}
    for name, times in rows.items():
        print(f"| {name} | {median(times):.2f} | {min(times):.2f} | {max(times):.2f} |")
    print(f"\nFirst step / imports: {ratio:.2f} ({low:.2f} … {high:.2f}), n = {a.n} pairs.")


if __name__ == "__main__":
    main()
