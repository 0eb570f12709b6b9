"""Does a run that was killed, and continued, end in the same bits as one that nobody disturbed?

One undisturbed run; then, point by point, the same run is killed (SIGKILL, its whole process group) at a moment drawn
uniformly from its time between its folder's creation and its end, and continued until it has finished. Compared are the
bytes of weights/last.safetensors. Floor: all equal (CPU, fp32, the same number of ranks and threads).

    python benchmarks/kill_resume.py --points 20
    python benchmarks/kill_resume.py --points 20 --ranks 2
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fanlight.train import folder, state
from hardware import heading

# 28 steps and 14 checkpoints: a kill finds it in a step, in an evaluation or in a save.
SETTINGS = (
    "--limit", "300", "--epochs", "4", "--batch-size", "32", "--precision", "fp32", "--threads", "1", "--no-report",
    "--set", "execution.checkpoint_steps=2",
)  # fmt: skip
WEIGHTS, PATIENCE_S = "weights/last.safetensors", 600


@dataclass(frozen=True)
class Point:
    """One kill and what came of it."""

    killed_s: float  # after the run's folder was there
    checkpoint: int | None  # newest whole one then; None: there was none
    left: str  # what the kill left unfinished on disk
    starts: int
    equal: bool


def start(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fanlight", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run ended with exit code {process.poll()} before {path} was there")
        time.sleep(0.002)


def is_finished(run: Path) -> bool:
    return folder.read_summary(run)["status"] == "finished"


def undisturbed(run: Path, words: list[str]) -> float:
    """Trains in `run`; seconds from its folder's creation to its end."""
    process = start(*words, "--out", str(run))
    wait_for(run / "run.json", process)
    begin = time.monotonic()
    while not is_finished(run) and process.poll() is None:
        time.sleep(0.01)
    whole_s = time.monotonic() - begin
    if process.wait():
        raise SystemExit(f"the undisturbed run failed with exit code {process.returncode}")
    return whole_s


def disturbed(run: Path, words: list[str], *, kill_s: float, expected: bytes) -> Point | None:
    """The same run in `run`, killed once, `kill_s` after its folder was there, and continued; None when it was done by
    then, as on a machine that others use, too."""
    process = start(*words, "--out", str(run))
    wait_for(run / "run.json", process)
    time.sleep(kill_s)
    os.killpg(process.pid, signal.SIGKILL)  # ranks end with their parent
    process.wait()
    if is_finished(run):
        return None
    whole = state.whole(run / "checkpoints")
    torn = sorted(path.name for path in (run / "checkpoints").glob("*.tmp"))
    starts = 1
    while not is_finished(run):
        if starts > 3 or start("--resume", str(run)).wait() not in (0, -signal.SIGKILL):
            return Point(kill_s, None, "a run that cannot be continued", starts, False)
        starts += 1
    step = int(whole[-1].name.removeprefix("step-")) if whole else None
    return Point(kill_s, step, ", ".join(torn) or "–", starts, (run / WEIGHTS).read_bytes() == expected)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--points", type=int, default=20)
    arguments.add_argument("--ranks", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = arguments.parse_args()
    words = [asked.data, *SETTINGS, "--ranks", str(asked.ranks)]
    draws = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as home:
        whole_s = undisturbed(Path(home) / "undisturbed", words)
        expected = (Path(home) / "undisturbed" / WEIGHTS).read_bytes()
        points: list[Point] = []
        while len(points) < asked.points:
            with tempfile.TemporaryDirectory(dir=home) as place:
                kill_s = draws.uniform(0, whole_s)
                point = disturbed(Path(place) / "run", words, kill_s=kill_s, expected=expected)
            points += [point] if point else []
    print(heading("Killed and continued"))
    print(f"`fanlight train {' '.join(words)}`, {whole_s:.1f} s undisturbed after its folder was there.\n")
    print("| point | killed after | newest whole checkpoint | left unfinished | starts | equal, bit for bit |")
    print("|--:|--:|--:|---|--:|---|")
    for number, point in enumerate(points, 1):
        step = "none" if point.checkpoint is None else f"step {point.checkpoint}"
        equal = "yes" if point.equal else "**no**"
        print(f"| {number} | {point.killed_s:.2f} s | {step} | {point.left} | {point.starts} | {equal} |")
    equal = sum(point.equal for point in points)
    print(
        f"\n{equal} of n = {len(points)} killed runs ended in the bits of the undisturbed one, {asked.ranks} rank(s)."
    )
    sys.exit(0 if equal == len(points) else 1)


if __name__ == "__main__":
    main()
