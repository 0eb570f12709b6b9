"""The head of a recipe's result: machine, rounds and commands of each part, whatever the last command asked for."""

import json
from pathlib import Path
from typing import Any

import reference_projects
from reference_projects import Job

PROJECT = {
    "images": 957, "versions": {"torch": "2.0"},
    "sessions": [{"started": "2026-01-01T23:04:05+00:00"}, {"started": "2026-01-02T03:04:05+00:00"}],
    "machine": {"cpu": "a processor", "cores_usable": 2, "python": "3.11"},
    "parts": [
        {"name": "loading", "of": "loading", "title": "Reading", "study": "parts/loading", "status": "measured", "reason": ""},
        {"name": "training", "of": "layouts", "title": "Training", "study": "parts/training", "status": "measured", "reason": ""},
    ],
}  # fmt: skip


def written(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def made(place: Path, *, plan: dict[str, Any]) -> Path:
    """A recipe's folder: loading in two rounds, training in one to three."""
    written(place / "project.json", PROJECT)
    (place / "report.md").write_text("# Weather\n\nReported: a GPU.\n")
    written(place / "parts/loading/study.json", {"rounds": 2, "command": "fanlight study photos --rounds 2"})
    points = [{"n": n} for n in (1, 3, 0)]
    written(place / "parts/training/points.json", {"points": points, "equal": {"train.batch_size": 16}})
    written(place / "parts/training/study.json", {"command": "fanlight study photos --rounds 2"} | plan)
    return place


def test_each_part_tells_its_own_rounds_and_commands(tmp_path):
    sessions = [{"command": "fanlight study photos --rounds 2"}, {"command": "fanlight study --resume s --rounds 3"}]
    told = reference_projects.text(
        made(tmp_path, plan={"sessions": sessions}), Job("weather4", "6,862", ours=" of 4 classes")
    )
    assert told.splitlines() == [
        "# Weather", "", "a processor, 2 usable cores, no GPU; torch 2.0, Python 3.11; 2026-01-02", "",
        "957 images of 4 classes instead of 6,862.", "",
        "- Reading: n = 2 rounds; `fanlight study photos --rounds 2`",
        "- Training: n = 1 … 3 rounds in turns, batches of 16; `fanlight study photos --rounds 2`, then `fanlight study "
        "--resume s --rounds 3`",
        "", "Reported: a GPU.",
    ]  # fmt: skip


def test_a_plan_that_kept_no_starts_tells_its_first_command(tmp_path):
    told = reference_projects.text(made(tmp_path, plan={}), Job("weather4", "6,862"))
    assert "batches of 16; begun by `fanlight study photos --rounds 2`\n" in told and "then" not in told


def test_a_part_without_a_figure_says_why(tmp_path):
    part = PROJECT["parts"][1] | {"status": "not measured", "reason": "the time limit ended the study before it"}
    assert reference_projects.measured(tmp_path, part) == "not measured: the time limit ended the study before it"
    loading = PROJECT["parts"][0] | {"status": "failed", "reason": "no room"}
    assert reference_projects.measured(tmp_path, loading) == "failed: no room"
    written(tmp_path / "points.json", {"points": [{"n": 0}], "equal": {}})
    assert reference_projects.measured(tmp_path, part | {"reason": "no GPU"}) == "not measured: no GPU"


def test_paths_of_this_machine_stay_at_home(tmp_path):
    place = made(tmp_path, plan={"command": f"fanlight study {reference_projects.ROOT}/photos"})
    assert "`fanlight study photos`" in reference_projects.text(place, Job("weather4", "6,862"))
