"""A study's report among the results: results/study-<data>_<device>_<date>.md with its figures beside it.

Nothing is measured here; what is told is the study's own, with its hardware, rounds and command.

    fanlight study ../shared/data/weather4 --out scratch/grid-weather4
    python benchmarks/study_result.py scratch/grid-weather4 --kills 2
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"
FIGURES = ("speedups", "curves", "shares", "timeline")  # of which the others are tables


def stem(study: dict) -> str:
    device = "gpu" if study["baselines"]["one_device"] else "cpu"
    return f"study-{Path(study['data']).name}_{device}_{study['started'][:10]}"


def shortened(command: str) -> str:
    """The command without the folder that it wrote to, which is this machine's affair."""
    words = shlex.split(command)
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return shlex.join(words)


def text(report: str, study: dict, *, name: str, kills: int) -> str:
    """The report with figures that lie beside it, and what it says of all points together."""
    for figure in ("speedups", "curves", "shares", "timeline", "epochs", "accuracy", "memory"):
        link = f"![{figure}](figures/{figure}.svg)\n\n"
        report = report.replace(
            link, link.replace(f"figures/{figure}", f"{name}-{figure}") if figure in FIGURES else ""
        )
    report = report.replace(study["command"], shortened(study["command"]))
    told = [abs(point["unexplained"]) for point in study["points"] if point["unexplained"] is not None]
    note = f"n = {study['rounds']} rounds, in turns. Shares of {len(told)} points add up within {max(told):.1%}."
    if kills:
        note += f" Killed {kills} times (SIGKILL) and continued with --resume: every point is there."
    title, _, body = report.partition("\n")
    return f"{title}\n\n{note}\n{body}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="its folder, with the report that it wrote")
    parser.add_argument("--kills", type=int, default=0, help="how often it was killed, for the note")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    study = json.loads((arguments.study / "points.json").read_text(encoding="utf-8"))
    name, report = stem(study), (arguments.study / "report.md").read_text(encoding="utf-8")
    path = arguments.results / f"{name}.md"
    path.write_text(text(report, study, name=name, kills=arguments.kills), encoding="utf-8")
    for figure in FIGURES:
        made = arguments.study / "figures" / f"{figure}.svg"
        if made.exists():
            shutil.copyfile(made, arguments.results / f"{name}-{figure}.svg")
    print(path)


if __name__ == "__main__":
    main()
