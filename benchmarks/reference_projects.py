"""What the five reference projects compared, each by one command, beside what they reported: results/reference-<name>_….md.

Each recipe runs once, on a set of the same kind as the project's own; what this machine lacks is a row that says so. A run that
was stopped is continued by the same command. Wants a machine that does nothing else.

    python benchmarks/reference_projects.py --data ../shared/data
    python benchmarks/reference_projects.py --data ../shared/data --only weather captioning --rounds 5
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Job:
    """A recipe, the folder or file below --data that it runs on, and what two cores make shorter of it."""

    data: str
    theirs: str  # images of the project
    words: tuple[str, ...] = ()
    ours: str = ""  # after the number of images


JOBS = {
    "weather": Job("weather4", "6,862 of 11", ours=" of 4 classes"),
    "sign-language": Job("asl29", "10,000", ("--limit", "580", "--epochs", "2")),
    "scratch-cnn": Job("cifar10.tar.xz", "MNIST", ("--limit", "6000"), " of CIFAR-10"),
    "lung-colon": Job("lungcolon", "25,000", ("--limit", "400", "--batch-size", "16")),
    "captioning": Job("flickr700", "75,000", ("--limit", "200", "--batch-size", "8")),
}  # fmt: skip


def run(name: str, job: Job, *, data: Path, work: Path, rounds: int, time_limit: str | None) -> Path | None:
    """The folder of one recipe, measured; None where the command failed."""
    place = work / name
    words = ["study", "--resume", str(place)]
    if not (place / "recipe.json").exists():
        words = ["study", str(data / job.data), "--recipe", name, *job.words, "--out", str(place)]
    words += ["--rounds", str(rounds), *(["--time-limit", time_limit] if time_limit else [])]
    print(f"{name}: fanlight {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "fanlight", *words]).returncode
    if code:
        print(f"  failed with exit code {code}; nothing written", flush=True)
        return None
    return place


def text(place: Path, job: Job) -> str:
    """The recipe's report under a head of the study's own: its machine, and of each part how many rounds and which commands.
    What was asked for last is none of them, where a study was continued."""
    project = _read(place / "project.json")
    title, _, body = (place / "report.md").read_text(encoding="utf-8").partition("\n")
    machine, versions = project["machine"], project["versions"]
    lines = [
        title, "",
        f"{machine['cpu']}, {machine['cores_usable']} usable cores, {versions.get('gpu', 'no GPU')}; "
        f"torch {versions.get('torch', 'not told')}, Python {machine['python']}; {_date(project)}", "",
        _images(project, job), "",
        *(f"- {part['title']}: {measured(place / part['study'], part)}" for part in project["parts"]),
    ]  # fmt: skip
    return portable("\n".join([*lines, body]))


def _date(project: dict[str, Any]) -> str:
    """Of the last start in which something was measured."""
    return str(project["sessions"][-1]["started"][:10])


def _images(project: dict[str, Any], job: Job) -> str:
    if project["images"] is None:
        return "Nothing was measured."
    return f"{project['images']:,} images{job.ours} instead of {job.theirs}."


def measured(study: Path, part: dict[str, Any]) -> str:
    """Rounds and commands of one part, from its own files."""
    if part["of"] == "loading":
        found = _read(study / "study.json")
        return f"{_rounds([found['rounds']])}; `{found['command']}`" if found else f"{part['status']}: {part['reason']}"
    points, plan = _read(study / "points.json"), _read(study / "study.json")
    counts = sorted({point["n"] for point in points.get("points", []) if point["n"]})
    if not counts:
        return f"{part['status']}: {part['reason']}"
    starts = [f"`{each['command']}`" for each in plan.get("sessions", [])]
    commands = ", then ".join(starts) or f"begun by `{plan['command']}`"
    batch = f", batches of {points['equal']['train.batch_size']}"
    return f"{_rounds(counts)} in turns{batch}; {commands}"


def _rounds(counts: list[int]) -> str:
    """Points may have unlike numbers of rounds, where a time limit ended one."""
    span = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} … {counts[-1]}"
    return f"n = {span} round{'s' * (counts[-1] != 1)}"


def _read(path: Path) -> dict[str, Any]:
    """Of a part that was not begun, nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


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
    failed = []
    for name in arguments.only:
        place = run(
            name, JOBS[name], data=arguments.data, work=arguments.work, rounds=arguments.rounds,
            time_limit=arguments.time_limit,
        )  # fmt: skip
        if place is None:
            failed.append(name)
            continue
        project = _read(place / "project.json")
        where = "gpu" if "gpu" in project["versions"] else "cpu"
        path = arguments.results / f"reference-{name}_{where}_{_date(project)}.md"
        path.write_text(text(place, JOBS[name]), encoding="utf-8")
        print(f"  {path}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
