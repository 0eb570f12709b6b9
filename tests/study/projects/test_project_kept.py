"""What hours of measuring must not be lost by: a part that fails, a page or a result that cannot be written, a machine that
is not the one it began on. The studies of the parts are made up."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.errors import ConfigError, RunError
from fanlight.study.layouts import study as layouts
from fanlight.study.loading import run as loading
from fanlight.study.projects import page, run
from fanlight.train import folder as run_folders
from study.projects.made import ONE, TWO
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
MACHINE = {"cores_usable": 2, "cpu": "a processor", "system": "a system", "python": "3"}
BEGIN = ("study", "photos", "--recipe", "weather", "--out", "s", "--json")


def kept(place: Path, name: str, of: str, **more: Any) -> dict[str, Any]:
    """A result, written as its study writes it."""
    made = {"of": of, "study": str(place), "machine": MACHINE, "images": 4, "verdict": "Measured.", **more}
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(json.dumps(made))
    return made


class Measured:
    """The studies of both kinds, which count how often they were begun. `fails` is raised in place of measuring."""

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.begun: list[tuple[str, int | None, str]] = []
        self.ended = ""

    def loading(self, data: str, *, out: Path, rounds: int | None, command: str, **_: Any) -> dict[str, Any]:
        self._begin("loading", rounds, command)
        about = {"numpy": "2"}
        return kept(out, "study.json", "loading", rows=[], rounds=rounds or 5, wall_s=2.0, versions=about)

    def layouts(
        self, config: Config, asked: Any, *, out: Path | None, resume: Path | None, command: str, **__: Any
    ) -> dict[str, Any]:
        place = out or resume
        assert place is not None
        self._begin("layouts", asked.rounds, command)
        kept(place, "study.json", "layouts")
        configuration.write(place / "basis.yaml", config)
        return kept(place, "points.json", "layouts", points=[ONE, TWO], rounds=asked.rounds or 5, ended=self.ended,
                    baselines={}, measured_s=3.0, versions={"torch": "2", "gpu": "a GPU"})  # fmt: skip

    def _begin(self, of: str, rounds: int | None, command: str) -> None:
        self.begun.append((of, rounds, command))
        if of in self.fails:
            raise self.fails[of]


@pytest.fixture
def measured(own_place, monkeypatch) -> Measured:
    tiny.make(own_place / "photos", per_class=2, px=16)
    made = Measured()
    monkeypatch.setattr(loading, "study", made.loading)
    monkeypatch.setattr(layouts, "study", made.layouts)
    return made


@pytest.mark.parametrize("of", ["loading", "layouts"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("not enough memory: you tried to allocate\n more"), "not enough memory: you tried to allocate"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
    ],
)
def test_whatever_fails_in_a_part_is_its_reason_and_the_other_goes_on(fanlight, measured, of, error, reason):
    """Such as the estimate of how long it takes, which trains a step outside of any run."""
    measured.fails = {of: error}
    answer = fanlight(*BEGIN)
    assert answer.code == 0, answer.err
    parts = {part["of"]: part for part in json.loads(answer.out)["parts"]}
    assert (parts[of]["status"], parts[of]["reason"]) == ("failed", reason)
    (other,) = [part for name, part in parts.items() if name != of]
    assert other["status"] == "measured"


def test_nothing_measured_is_an_error(fanlight, measured):
    measured.fails = {"loading": ConfigError("no images"), "layouts": ConfigError("no model")}
    answer = fanlight(*BEGIN)
    assert answer.code == 1 and "no part could be measured; the first: no images" in answer.err


def test_what_a_part_had_measured_stays_where_it_fails_later(fanlight, measured):
    """Such as a study that cannot go on, since the machine is another one."""
    measured.ended = "the time limit ended it in round 3"
    assert fanlight(*BEGIN).code == 0
    measured.fails = {"layouts": ConfigError("another machine")}
    answer = fanlight("study", "--resume", "s", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    part = next(part for part in document["parts"] if part["of"] == "layouts")
    assert (part["status"], part["reason"], part["seconds"]) == ("failed", "another machine", 3.0)
    assert [point["name"] for point in document["points"]] == [ONE["name"], TWO["name"]]
    cases = [case for each in document["comparisons"] for case in each["cases"]]
    assert {case["here"] for case in cases} >= {ONE["name"], TWO["name"]}


def test_a_page_that_cannot_be_written_is_said(fanlight, measured, monkeypatch):
    def full(place: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page, "write", full)
    answer = fanlight(*BEGIN[:-1])
    assert answer.code == 0, answer.err
    assert "cannot be written (No space left on device); once that is mended: fanlight report s" in answer.out
    assert json.loads(Path("s/project.json").read_text())["points"]


def test_a_result_that_cannot_be_written_is_said_and_told_again_later(fanlight, measured, monkeypatch):
    write = run.folder.write

    def full(path: Path, document: Any) -> None:
        if path.name == "project.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, document)

    monkeypatch.setattr(run.folder, "write", full)
    answer = fanlight(*BEGIN[:-1])
    assert answer.code == 1 and answer.err.splitlines()[-1].startswith(
        "Error: s/project.json cannot be written (No space"
    )
    assert "20 epochs of training: theirs with" in answer.out, "the verdict is said all the same"
    monkeypatch.setattr(run.folder, "write", write)
    begun = len(measured.begun)
    assert fanlight("study", "--resume", "s").code == 0
    assert len(measured.begun) == begun and Path("s/report.html").exists()


def test_more_rounds_measure_what_has_fewer_and_the_starts_are_kept(fanlight, measured):
    assert fanlight(*BEGIN, "--rounds", 1).code == 0
    assert fanlight("study", "--resume", "s", "--rounds", 3).code == 0
    answer = fanlight("study", "--resume", "s", "--json")
    first, again = " ".join(["fanlight", *BEGIN, "--rounds", "1"]), "fanlight study --resume s --rounds 3"
    assert measured.begun == [
        ("loading", 1, first),
        ("layouts", 1, first),
        ("loading", 3, first),
        ("layouts", 3, again),
    ]
    document = json.loads(answer.out)
    assert [each["command"] for each in document["sessions"]] == [first, again], "of those that measured something"
    assert f"Continued by:\n\n    {again}\n" in Path("s/report.md").read_text()
    assert again in Path("s/report.html").read_text()
    assert document["versions"] == {"numpy": "2", "torch": "2", "gpu": "a GPU"}, "of all parts"


def test_loading_which_keeps_no_limit_leaves_time_for_what_does(fanlight, measured):
    """A limit of six minutes once went into loading alone. The report keeps the recipe's order."""
    document = json.loads(fanlight(*BEGIN, "--time-limit", "6m").out)
    assert [of for of, *_ in measured.begun] == ["layouts", "loading"]
    assert [part["of"] for part in document["parts"]] == ["loading", "layouts"]


def test_a_study_from_before_sessions_were_kept_has_its_first():
    plan = {"started": "then", "command": "fanlight study photos", "version": 1}
    assert run.sessions(plan) == [{"started": "then", "command": "fanlight study photos"}]


def test_a_result_of_another_version_names_the_way_out(fanlight, measured):
    assert fanlight(*BEGIN).code == 0
    path = Path("s/project.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(RunError, match=r"has version 1, .* without measuring, by: fanlight study --resume s"):
        page.write(Path("s"))
    assert fanlight("study", "--resume", "s").code == 0
    assert page.write(Path("s")).exists()


def test_two_processes_do_not_measure_one_study(own_place):
    """The second would begin anew the part that the first is measuring."""
    with run_folders.locked(own_place), pytest.raises(RunError, match="is being trained by process"):
        run._parts(own_place, {}, time_limit_s=None, command="")


def test_a_result_of_a_part_that_is_not_whole_is_no_result(fanlight, measured, own_place):
    assert fanlight(*BEGIN).code == 0
    begun = len(measured.begun)
    for path in own_place.glob("s/parts/*/points.json"):
        path.write_text("{}")
    assert fanlight("study", "--resume", "s", "--json").code == 0
    assert {of for of, *_ in measured.begun[begun:]} == {"layouts"}
