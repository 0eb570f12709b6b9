"""A study's report among the results: results/study-<data>_<device>_<date>.md with its figures beside it.

Nothing is measured here; what is told is the study's own, with its hardware, rounds and command.

    fanlight study ../shared/data/weather4 --out scratch/grid-weather4
    python benchmarks/study_result.py scratch/grid-weather4
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


def note(study: dict, *, begun: int | None) -> str:
    """What is to be said of all points together. `begun`: how often the study was, where its folder tells it."""
    measured = [point for point in study["points"] if point["n"]]
    if not measured:
        return f"Nothing was measured{': ' * bool(study['ended'])}{study['ended']}."
    counts = sorted(point["n"] for point in measured)
    span = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} … {counts[-1]}"
    said = [f"n = {span} round{'s' * (counts[-1] != 1)}, in turns."]
    told = [abs(point["unexplained"]) for point in measured if point["unexplained"] is not None]
    if told:
        said.append(f"Shares of {len(told)} points add up within {max(told):.1%}.")
    if begun is not None and begun > 1:
        is_whole = counts[0] == counts[-1] and not study["ended"]
        kept = f": all {len(measured)} points that were measured have every round" if is_whole else ""
        said.append(f"Continued {begun - 1} time{'s' * (begun > 2)} with --resume{kept}.")
    return " ".join(said)


def starts(plan: dict) -> int | None:
    """How often the study was started, where its study.json keeps that."""
    return len(plan["sessions"]) if "sessions" in plan else None


def text(report: str, study: dict, *, name: str, begun: int | None) -> str:
    """The report with figures that lie beside it, and what it says of all points together."""
    for figure in ("speedups", "curves", "shares", "timeline", "epochs", "accuracy", "memory"):
        link = f"![{figure}](figures/{figure}.svg)\n\n"
        report = report.replace(
            link, link.replace(f"figures/{figure}", f"{name}-{figure}") if figure in FIGURES else ""
        )
    report = report.replace(study["command"], shortened(study["command"]))
    title, _, body = report.partition("\n")
    return f"{title}\n\n{note(study, begun=begun)}\n{body}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="its folder, with the report that it wrote")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    study, plan = (
        json.loads((arguments.study / name).read_text(encoding="utf-8")) for name in ("points.json", "study.json")
    )
    name, report = stem(study), (arguments.study / "report.md").read_text(encoding="utf-8")
    path = arguments.results / f"{name}.md"
    path.write_text(text(report, study, name=name, begun=starts(plan)), encoding="utf-8")
    for figure in FIGURES:
        made = arguments.study / "figures" / f"{figure}.svg"
        if made.exists():
            shutil.copyfile(made, arguments.results / f"{name}-{figure}.svg")
    print(path)


if __name__ == "__main__":
    main()
