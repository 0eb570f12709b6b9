"""What the five reference projects compared, each by one command, beside what they reported: results/reference-<name>_….md.

Each recipe runs once, on a set of the same kind as the project's own; what this machine lacks is a row that says so. A run that
was stopped is continued by the same command. Wants a machine that does nothing else.

    python benchmarks/reference_projects.py --data ../shared/data
    python benchmarks/reference_projects.py --data ../shared/data --only weather captioning --rounds 5
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from hardware import heading

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Job:
    """A recipe, the folder or file below --data that it runs on, and what two cores make shorter of it."""

    data: str
    words: tuple[str, ...] = ()
    note: str = ""


JOBS = {
    "weather": Job("weather4", note="957 photos of 4 classes instead of 6,862 of 11"),
    "sign-language": Job(
        "asl29", ("--limit", "580", "--epochs", "2"), "580 images instead of 10,000; frames of one film stay on one side"
    ),
    "scratch-cnn": Job("cifar10.tar.xz", ("--limit", "6000",), "6,000 images of CIFAR-10 instead of MNIST"),
    "lung-colon": Job(
        "lungcolon", ("--limit", "400", "--batch-size", "16"), "400 tiles instead of 25,000, in batches of 16"
    ),
    "captioning": Job(
        "flickr700", ("--limit", "200", "--batch-size", "8"), "200 images instead of 75,000, in batches of 8"
    ),
}  # fmt: skip


def run(name: str, job: Job, *, data: Path, work: Path, rounds: int, time_limit: str | None) -> str | None:
    """The report of one recipe; None where the command failed."""
    place = work / name
    if (place / "recipe.json").exists():
        words = ["study", "--resume", str(place), "--rounds", str(rounds)]
    else:
        words = [
            "study",
            str(data / job.data),
            "--recipe",
            name,
            *job.words,
            "--rounds",
            str(rounds),
            "--out",
            str(place),
        ]
    words += ["--time-limit", time_limit] if time_limit else []
    print(f"{name}: fanlight {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "fanlight", *words]).returncode
    if code:
        print(f"  failed with exit code {code}; nothing written", flush=True)
        return None
    return (place / "report.md").read_text(encoding="utf-8")


def portable(text: str) -> str:
    """Without the place where this machine keeps the project: paths start from its root."""
    return text.replace(f"{ROOT}/", "").replace(f"{ROOT.parent}/", "../")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets")
    parser.add_argument("--work", type=Path, default=Path("scratch/reference"), help="folder of the studies, kept")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time-limit", help="of each recipe, such as 40m")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    import torch

    where = "gpu" if torch.cuda.is_available() else "cpu"
    failed = []
    for name in arguments.only:
        text = run(
            name, JOBS[name], data=arguments.data, work=arguments.work, rounds=arguments.rounds,
            time_limit=arguments.time_limit,
        )  # fmt: skip
        if text is None:
            failed.append(name)
            continue
        title, _, body = text.partition("\n")
        head = heading(title.removeprefix("# "))
        note = f"n = {arguments.rounds} rounds at most, in turns; {JOBS[name].note}.\n"
        path = arguments.results / f"reference-{name}_{where}_{date.today().isoformat()}.md"
        path.write_text(portable(f"{head}\n{note}{body}"), encoding="utf-8")
        print(f"  {path}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
