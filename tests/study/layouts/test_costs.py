"""Energy and cost of a study's points, from folders whose figures are known; and that nothing is missing in silence."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fanlight.errors import ConfigError
from fanlight.study.layouts import costs, folder, grid, page, result, table
from study import reading
from study.layouts import folders

pytest_plugins = ["train.fixtures"]

POINTS = grid.points(cores=2, gpus=0, names=["ddp"], precisions=["fp32"])
ONE, BOTH, DDP = (point for point in POINTS if not point.reason)
HIDDEN = {"reason": "the system <hides> its counters"}
TRAIN_IMAGES = 7200


def joules(each: float, *, images: int = 100, lacking: dict[str, str] | None = None) -> dict[str, Any]:
    """`energy` of a run that took so many joules for an image, in ten seconds, by two packages."""
    return {
        "energy_j": {"package-0": each * images / 4, "package-1": each * images * 3 / 4}, "seconds": 10.0, "images": images,
        "j_per_image": each, "mean_w": each * images / 10, "lacking": lacking or {},
    }  # fmt: skip


def study(place: Path, *, price: float | None = None, **energy: list[Any]) -> Path:
    """Of three rounds. `energy`: by layout the energy of each round; HIDDEN where it is left out."""
    made = folders.begin(place / "study", POINTS)
    plan = json.loads((made / folder.PLAN).read_text())
    machine = {"memory_bytes": 2**34, "system": "Linux", "python": "3.11", **plan["machine"]}
    folder.write(made / folder.PLAN, plan | {"machine": machine} | ({"price": price} if price else {}))
    for number in range(3):
        for point, step_s in ((ONE, 0.2), (BOTH, 0.1), (DDP, 0.08)):
            folders.run(made, point, number, wall_s=step_s * (1 + 0.01 * number))
            path = folder.run_of(made, point, number) / "run.json"
            about = {"data": {"splits": {"train": TRAIN_IMAGES}}}
            name = "one" if point == ONE else point.layout
            about["energy"] = energy.get(name, [HIDDEN] * 3)[number]
            path.write_text(json.dumps(json.loads(path.read_text()) | about))
    return made


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {point["name"]: point for point in document["points"]}


def rows(made: Path) -> dict[str, dict[str, str]]:
    with open(made / "points.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def undrawn(monkeypatch) -> None:
    monkeypatch.setattr(page, "_figures", lambda found: {})  # drawing takes seconds


def test_energy_is_the_median_of_rounds_with_its_interval(tmp_path):
    made = result.write(study(tmp_path, ddp=[joules(2.0), joules(3.0), joules(2.5)]))
    found = by_name(made)[DDP.name]["energy"]
    assert (found["j_per_image"], found["mean_w"], found["n"]) == (pytest.approx(2.5), pytest.approx(25.0), 3)
    assert found["interval"][0] < 2.0 < 3.0 < found["interval"][1]  # Student's t of three
    assert found["mean_w_interval"] == pytest.approx([10 * end for end in found["interval"]])
    assert made["energy"]["sources"] == ["package-0", "package-1"]
    assert made["energy"]["absent"] == {HIDDEN["reason"]: [ONE.name, BOTH.name]}


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["dram-0", "package-0"], "over the steady steps (dram is memory). A counter"),
        (["package-0"], "over the steady steps, without memory, of which there is no counter among them. A counter"),
        (["gpu-0"], "over the steady steps. A counter"),
    ],
)
def test_the_note_names_what_was_read_and_whether_memory_is_in_it(sources, words):
    (line,) = costs.words({"energy": {"reason": "", "sources": sources, "lacking": {}, "absent": {}}})
    assert line.startswith(f"Energy is of {', '.join(sources)}, by their own counters, {words}")


def test_rounds_without_energy_or_of_other_counters_are_left_out(tmp_path):
    half = {**joules(9.0), "energy_j": {"package-0": 900.0}}
    found = by_name(result.write(study(tmp_path, ddp=[half, HIDDEN, joules(2.5)])))[DDP.name]["energy"]
    assert (found["j_per_image"], found["interval"], found["n"]) == (pytest.approx(2.5), None, 1)


def test_a_cost_is_time_times_price_whatever_cores_are_used(tmp_path):
    points = by_name(result.write(study(tmp_path, price=9.0)))
    for point, step_s in ((ONE, 0.2), (DDP, 0.08)):
        found = points[point.name]["cost"]
        hours = TRAIN_IMAGES / folders.BATCH * step_s * 1.01 / 3600
        assert found["epoch"] == pytest.approx(9.0 * hours)
        assert found["per_1000_images"] == pytest.approx(9.0 * hours * 1000 / TRAIN_IMAGES)
        assert found["epoch_interval"][0] < found["epoch"] < found["epoch_interval"][1]
        assert found["interval"] == pytest.approx([end * 1000 / TRAIN_IMAGES for end in found["epoch_interval"]])


def test_without_a_price_there_is_no_cost(tmp_path):
    document = result.write(study(tmp_path))
    assert document["price"] is None and by_name(document)[DDP.name]["cost"] is None
    assert not any("Costs" in line for line in costs.words(document))


def test_where_nothing_can_be_read_one_line_says_why(tmp_path, undrawn):
    made = study(tmp_path)
    document = result.write(made)
    assert document["energy"] == HIDDEN and by_name(document)[DDP.name]["energy"] == HIDDEN
    line = f"Energy was not measured: {HIDDEN['reason']}."
    found = reading.read(page.write(made).read_text())
    assert found.words.count(line) == 1 and "J per image" not in found.words and "cost per" not in found.words
    assert (made / "report.md").read_text().count(
        "Energy was not measured: the system &lt;hides&gt; its counters."
    ) == 1
    assert not {*costs.COLUMNS["energy"], *costs.COLUMNS["cost"]} & rows(made)[DDP.name].keys()
    assert costs.words(document) == [line] and "J/image" not in table.lines(document)[0]


def test_columns_are_there_where_there_is_any(tmp_path, undrawn):
    lacking = {"gpu": "no driver"}
    made = study(tmp_path, price=3600.0, ddp=[joules(2.5, lacking=lacking)] * 3, one=[joules(250.0)] * 3)
    document = result.write(made)
    words = reading.read(page.write(made).read_text()).words
    text = (made / "report.md").read_text()
    cost = by_name(document)[DDP.name]["cost"]
    paid = f"{costs.amount(cost['epoch'])} | {costs.amount(cost['per_1000_images'])}"
    for line in costs.words(document):
        assert line in words
    assert "Not in it are GPUs: no driver." in words and f"No energy of {BOTH.name}: {HIDDEN['reason']}." in words
    assert "at 3600 per hour" in words and "J per image" in words
    assert "| J/image | W | cost of an epoch | of 1000 images |" in text and f"| 2.5 | 25 | {paid} |" in text
    assert "| – | – |" in text  # of the point without
    row = rows(made)[DDP.name]
    assert (float(row["j_per_image"]), float(row["mean_w"])) == (pytest.approx(2.5), pytest.approx(25.0))
    assert float(row["cost_epoch"]) == pytest.approx(TRAIN_IMAGES / folders.BATCH * 0.08 * 1.01)
    assert rows(made)[BOTH.name]["j_per_image"] == ""
    head, *lines = table.lines(document)
    assert head.split()[7:10] == ["J/image", "cost/epoch", "cost/1000"]
    assert any(line.startswith(DDP.name) and " 2.5 " in line for line in lines)


def test_a_study_from_before_says_that_it_did_not_read(tmp_path, undrawn):
    made = study(tmp_path)
    result.write(made)
    document = json.loads((made / folder.POINTS).read_text())
    del document["energy"], document["price"]
    for point in document["points"]:
        del point["energy"], point["cost"]
    folder.write(made / folder.POINTS, document)
    assert f"Energy was not measured: {costs.NOT_KEPT}." in reading.read(page.write(made).read_text()).words
    for run in (made / "runs").iterdir():
        summary = json.loads((run / "run.json").read_text())
        del summary["energy"]
        (run / "run.json").write_text(json.dumps(summary))
    assert result.write(made)["energy"] == {"reason": costs.NOT_KEPT}


def test_a_study_without_a_point_has_no_energy(tmp_path):
    made = folders.begin(tmp_path / "study", POINTS)
    assert result.write(made)["energy"] == {"reason": "no point was measured"}


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_price(price):
    with pytest.raises(ConfigError, match=f"--price {price:g}: say what this machine costs per hour, in any currency"):
        costs.check_price(price)


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (0.000123, "0.000123"), (1.0, "1"), (99.96, "100"), (12345.6, "12,346")]
)
def test_figures_of_any_size(value, words):
    assert costs.amount(value) == words


def test_a_price_is_kept_and_may_be_given_anew(fanlight, tmp_path, monkeypatch):
    """By the command, on a study with nothing left to do; what is wrong is refused before anything is written."""
    from fanlight.study.layouts import study as subject

    def continued(config: Any, resume: Path, *, command: str) -> tuple[Path, dict[str, Any], Any]:
        return resume, folder.read_plan(resume), None

    made = study(tmp_path, price=9.0)
    document = result.write(made)
    monkeypatch.setattr(subject, "_report", lambda place: "none")
    monkeypatch.setattr(subject.Runner, "rounds", lambda self, asked: "")
    monkeypatch.setattr(subject.estimate, "seconds", lambda *_, **__: {})
    monkeypatch.setattr(subject.estimate, "words", lambda *_, **__: "")
    monkeypatch.setattr(subject, "_continued", continued)
    kept = json.loads(fanlight("study", "--resume", made, "--json").out)
    assert kept["price"] == 9.0 and by_name(kept)[DDP.name]["cost"] == by_name(document)[DDP.name]["cost"]
    anew = json.loads(fanlight("study", "--resume", made, "--price", 18, "--json").out)
    assert by_name(anew)[DDP.name]["cost"]["epoch"] == pytest.approx(2 * by_name(document)[DDP.name]["cost"]["epoch"])
    assert folder.read_plan(made)["price"] == 18.0
    wrong = fanlight("study", "--resume", made, "--price", "nan")
    assert wrong.code == 2 and wrong.err.startswith("Error: --price nan: say what this machine costs per hour")
    assert folder.read_plan(made)["price"] == 18.0


def test_a_price_is_of_layouts_alone(fanlight):
    refused = fanlight("study", "photos", "--of", "loading", "--price", 2)
    assert refused.code == 2 and refused.err.startswith("Error: --price is of another study")
