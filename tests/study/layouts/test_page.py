"""The report of a study: that it says what the folder says, of any number of points, and that names stay names."""

import copy
import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fanlight.errors import RunError
from fanlight.study.layouts import drawings, folder, grid, markdown, page, result, timeline, told
from study import reading
from study.layouts import folders

pytest_plugins = ["train.fixtures"]

POINTS = grid.points(cores=2, gpus=0, names=["ddp", "fsdp", "local-sgd"], precisions=["fp32"])
ONE, BOTH, DDP, FSDP, APART = (point for point in POINTS if not point.reason)
HOSTILE = "<script>alert('a')</script> & | photos"
FIGURES = {"speedups", "curves", "shares", "timeline", "epochs", "accuracy", "memory"}


def begin(place: Path, points: list[grid.Point], **about: Any) -> Path:
    """A study's folder with the machine as study.py describes it, and a hostile name."""
    study = folders.begin(place, points, **about)
    plan = json.loads((study / folder.PLAN).read_text())
    machine = {"memory_bytes": 2**34, "system": "Linux", "python": "3.11", **plan["machine"]}
    folder.write(study / folder.PLAN, plan | {"data": HOSTILE, "machine": machine, "versions": {"torch": "2"}})
    return study


def run(study: Path, point: grid.Point, number: int, **about: Any) -> None:
    folders.run(study, point, number, curve=((2.0, 0.5), (4.0, 0.9)), **about)
    path = folder.run_of(study, point, number) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"splits": {"train": 12 * folders.BATCH}}}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = begin(tmp_path_factory.mktemp("page") / "study", POINTS)
    for number in range(3):
        run(made, ONE, number, compute=0.18 + 0.001 * number)
        run(made, BOTH, number, compute=0.09)
        run(made, DDP, number, compute=0.08 + 0.001 * number, contention=0.03, changed={"train.microbatches": 8})
        run(made, APART, number, communication=0.02, wall_s=0.2)
    folder.fail(folder.run_of(made, FSDP, 0), "<b>out of memory</b>")
    result.write(made)
    page.write(made)
    return made


def test_the_page_says_what_the_folder_says(study):
    words = reading.read((study / "report.html").read_text()).words
    document = json.loads((study / "points.json").read_text())
    missing = {line for line in document["verdict"].splitlines() if not any(
        line.startswith(f"{name}: ") for name in (FSDP.name, "serial-1gpu-fp32")) and line not in words}  # fmt: skip
    assert not missing
    for point in document["points"]:
        assert point["name"] in words
        if point["status"] == "measured":
            assert f"{point['images_per_s']:,.1f}" in words and f"{point['speedup']:.2f}" in words
            assert f"{point['interval'][0]:.1f} – {point['interval'][1]:.1f}" in words
            assert f"{point['efficiency']:.2f}" in words
    assert "slow-down" in words and "<b>out of memory</b>" in words  # as words, not as a tag
    assert "train.microbatches: 8 (baseline: 1)ddp-2-fp32" in words and "no GPU is visible" in words
    assert document["flags"]["unexplained"] in words and document["flags"]["other algorithm"] in words
    assert document["flags"]["oversubscribed"] not in words  # no point has it
    assert "fanlight study photos" in words and "3 rounds" in words
    assert "device gain" not in words  # there is no GPU


def test_the_page_needs_nothing_and_runs_nothing(study):
    text = (study / "report.html").read_text()
    found = reading.read(text)
    assert len(found.sources) == len(FIGURES) and all(
        source.startswith("data:image/svg+xml") for source in found.sources
    )
    assert "default-src 'none'" in text and HOSTILE in found.words and HOSTILE not in text


def test_figures_are_files_too(study):
    assert {path.name for path in (study / "figures").iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")
    }
    shares = (study / "figures/shares.svg").read_text()
    for words in (*drawings.CAUSE_COLOURS, "ddp-2-fp32"):
        assert words in shares
    assert "0.84× of all cores, slow-down" in (study / "figures/speedups.svg").read_text()
    assert "rank 1" in (study / "figures/timeline.svg").read_text()


def test_the_table_has_a_row_per_point(study):
    with open(study / "points.csv", newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == [point.name for point in POINTS]
    ddp = rows[DDP.name]
    assert float(ddp["images_per_s"]) == pytest.approx(32 / 0.131, rel=1e-6)
    assert float(ddp["epoch_s"]) == pytest.approx(12 * 0.131, rel=1e-6)
    assert float(ddp["images_per_s_low"]) < float(ddp["images_per_s"]) < float(ddp["images_per_s_high"])
    assert float(ddp["share_contention"]) == pytest.approx(0.03 / 0.131, rel=1e-6)
    assert 0 < float(ddp["timer_forward"]) < float(ddp["timer_backward"]) < 1
    assert (rows[FSDP.name]["status"], rows[FSDP.name]["images_per_s"]) == ("failed", "")


def test_markdown_has_the_same_and_no_markup_of_others(study):
    text = (study / "report.md").read_text()
    point = next(p for p in json.loads((study / "points.json").read_text())["points"] if p["name"] == DDP.name)
    shares = " | ".join(f"{100 * share:.1f}" for share in point["shares"].values())
    assert f"| {DDP.name} | {1e3 * point['step_s']:,.1f} ms | {shares} | 0.0 |" in text
    assert "&lt;script&gt;alert('a')&lt;/script&gt; &amp; \\| photos" in text and "<script>" not in text
    assert "| fsdp-2-fp32 | failed | &lt;b&gt;out of memory&lt;/b&gt; |" in text
    assert "](figures/shares.svg)" in text and "No parallel layout is faster beyond its interval" in text
    assert markdown.plain("a|b\n[c](d) `e`") == "a\\|b \\[c\\](d) \\`e\\`"


def test_the_command_makes_it_again(study, fanlight, monkeypatch):
    before = (study / "report.html").read_text()
    (study / "report.html").unlink()
    svgs = {path.stem: path.read_text() for path in (study / "figures").glob("*.svg")}
    order = ("speedups", "curves", "shares", "timeline", "epochs", "accuracy", "memory")
    monkeypatch.setattr(page, "_figures", lambda found: {name: svgs[name] for name in order})  # drawing takes seconds
    answer = fanlight("report", study)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(study / "report.html") and (study / "report.html").read_text() == before


def test_a_study_without_a_result_says_what_to_do(tmp_path):
    made = begin(tmp_path / "study", POINTS)
    with pytest.raises(
        RunError,
        match=f"has no readable points.json, which a study writes after every round.*fanlight study --resume {made}",
    ):
        page.write(made)


def test_where_nothing_was_measured_the_reasons_are_the_report(tmp_path):
    made = begin(tmp_path / "study", POINTS)
    folder.fail(folder.run_of(made, ONE, 0), "no memory")
    result.write(made, ended="the time limit ended it in round 1")
    found = reading.read(page.write(made).read_text())
    assert "img" not in found.tags and "no memory" in found.words and "Nothing was measured" in found.words
    assert "the time limit ended it in round 1" in found.words


def test_many_points_and_ranks_are_cut_and_it_is_said(study, monkeypatch):
    monkeypatch.setattr(drawings, "ROWS_UP_TO", 5)
    monkeypatch.setattr(timeline, "POINTS_UP_TO", 2)
    points = told.read(study).measured
    many = [{**copy.deepcopy(point), "name": f"{'long' * 20}{number}"} for number in range(2) for point in points]
    assert "the first 5 of 8" in drawings.speedups(many) and "the first 5 of 8" in drawings.shares(many)
    parts = next(iter(told.read(study).steps.values()))[0]
    assert "the first 2 of 3 points" in timeline.figure({f"p{n}": {0: parts} for n in range(3)})
    assert "p, the first 8 ranks" in timeline.figure({"p": dict.fromkeys(range(64), parts)})


def test_the_report_names_what_a_figure_left_out(study, tmp_path, monkeypatch):
    copied = shutil.copytree(study, tmp_path / "copied")
    monkeypatch.setattr(drawings, "ROWS_UP_TO", 2)
    monkeypatch.setattr(
        page, "_figures", lambda found: {"speedups": "<svg/>", "curves": "<svg/>", "timeline": "<svg/>"}
    )
    words = reading.read(page.write(copied).read_text()).words
    left = f"Left out: {DDP.name}, {APART.name}; the table has all."
    assert words.count(left) == 1 and left in (copied / "report.md").read_text()
    monkeypatch.setattr(page, "NAMED_MOST", 1)
    assert f"Left out: {DDP.name} and 1 more; the table has all." in reading.read(page.write(copied).read_text()).words


def test_simulated_points_continue_the_curves(study):
    points = told.read(study).measured
    ddp = next(point for point in points if point["layout"] == "ddp")
    more = {**ddp, "name": "ddp-64-fp32", "cores": 64, "ranks": 64, "source": "simulated", "speedup_interval": None}
    assert "ddp, simulated" in drawings.curves([*points, more]) and "simulated" not in drawings.curves(points)


def test_one_usual_step_is_of_the_timers(study):
    ranks = told.read(study).steps[DDP.name]
    assert list(ranks) == [0, 1]
    assert sum(ranks[0].values()) == pytest.approx(0.08 + 0.002 + 0.02 + 0.03)  # of the last round, after the warm-up


def test_start_and_first_epoch_are_told_apart(study):
    with open(study / "points.csv", newline="", encoding="utf-8") as file:
        ddp = {row["name"]: row for row in csv.DictReader(file)}[DDP.name]
    assert float(ddp["start_s"]) == 2.0 and float(ddp["warmup_s"]) == pytest.approx(12 * 3 * 0.131)
    words = reading.read((study / "report.html").read_text()).words
    assert "Before the steady steps" in words and page.BEFORE in words
    assert f"| {DDP.name} | 2.0 s | 4.7 s | 1.6 s |" in (study / "report.md").read_text()


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GPUs beside two cores: one core .2 s a step, both .11 s, a GPU .02 s, two of them .0125 s."""
    points = grid.points(cores=2, gpus=2, names=["ddp"], precisions=["fp32"])
    made = begin(tmp_path_factory.mktemp("gpus") / "study", points, target=0.95)
    seconds = {"serial-1core-fp32": 0.2, "serial-2cores-fp32": 0.11, "ddp-2-fp32": 0.12, "serial-1gpu-fp32": 0.02,
               "ddp-2gpus-fp32": 0.0125}  # fmt: skip
    for number in range(3):
        for point in points:
            run(made, point, number, compute=seconds[point.name] * (1 + 0.01 * number), launch=0.0, optimizer=0.0)
    result.write(made)
    return made


def test_gpus_have_their_headline_and_a_gain_is_no_speedup(gpus, monkeypatch):
    monkeypatch.setattr(page, "_figures", lambda found: {"memory": "<svg/>"})
    words = reading.read(page.write(gpus).read_text()).words
    said = (
        "fp32: one GPU does 1,584.2 images/s, a gain of 5.5× from both cores of the same machine to the GPU. "
        "Fastest: ddp-2gpus-fp32, 1.60× of that."
    )
    assert said in json.loads((gpus / "points.json").read_text())["verdict"].splitlines() and said in words
    assert "1.60×of one GPU, at best: ddp-2gpus-fp32" in words
    assert "5.5×gain of one GPU over all cores of the same machine, fp32" in words
    assert "gain of 5.5" in words and "speedup of 5.5" not in words
    assert page.GPU_MEMORY.strip() in words
    text = (gpus / "report.md").read_text()
    assert "speedup, one core or GPU" in text and "| ddp | cuda | fp32 | 1, 2 |" in text


def test_ranks_that_were_not_bound_are_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_figures", lambda found: {})
    points = grid.points(cores=1, gpus=0, names=["serial"], precisions=["fp32"], device="cpu")
    made = begin(tmp_path / "study", points, cores=1)
    plan = json.loads((made / "study.json").read_text())
    plan["machine"]["unbound"] = "OMP_PROC_BIND is set"
    folder.write(made / "study.json", plan)
    run(made, points[0], 0)
    result.write(made)
    assert "(ranks not bound to cores: OMP_PROC_BIND is set)" in reading.read(page.write(made).read_text()).words
    words = markdown.plain("OMP_PROC_BIND is set")
    assert f"; ranks not bound to cores ({words});" in (made / "report.md").read_text()


def test_counts_of_one_are_singular(tmp_path, monkeypatch):
    """A machine of one core, one round of one point, one seed."""
    monkeypatch.setattr(page, "_figures", lambda found: {})
    points = [
        point for point in grid.points(cores=1, gpus=0, precisions=["fp32"]) if point.is_baseline and not point.reason
    ]
    made = begin(tmp_path / "study", points, cores=1, target=0.95)
    run(made, points[0], 0)
    result.write(made)
    words = reading.read(page.write(made).read_text()).words
    text = (made / "report.md").read_text()
    assert "a processor, 1 usable core ·" in words and "a processor, 1 usable core; 100 images;" in text
    assert "fp32: one process on 1 core does 320.0 images/s." in words and "one process on 1 core does" in text
    assert "1 of 1point could be measured here" in words and "0 of 1 seed" in words
    assert "took turns in 1 round, each round" in words and "over 1 round." in words and "\n1 round; " in text
    assert not re.search(r"\b1 (cores|ranks|rounds|points|seeds)\b", words + text)


def test_a_target_that_was_not_reached_has_its_reason(gpus, monkeypatch):
    monkeypatch.setattr(page, "_figures", lambda found: {})
    words = reading.read(page.write(gpus).read_text()).words
    point = json.loads((gpus / "points.json").read_text())["points"][0]
    assert point["to_accuracy"]["reached"] == 0 and point["to_accuracy"]["reason"] in words
    assert (
        f"| {point['name']} | – | – | 0 of 3 | {point['to_accuracy']['reason']} |" in (gpus / "report.md").read_text()
    )


def test_timers_stand_beside_shares(study):
    words = reading.read((study / "report.html").read_text()).words
    assert "Timers beside shares" in words and page.CHECKED in words
    found = told.read(study)
    rows = dict(page.checked(found))
    assert [pair is None for pair in rows[ONE.name]] == [False, True, False, False]  # one process waits for nobody
    assert rows[DDP.name][2].timers == pytest.approx(rows[DDP.name][2].shares)
    text = (study / "report.md").read_text()
    assert f"| {DDP.name} | 0.0 / 0.0 | 0.0 / 0.0 | 7.6 / 7.6 | 92.4 / 92.4 |" in text
    for point in found.study["points"]:  # of a study that an older Fanlight wrote
        del point["checks"]
    assert page.checked(found) == []


def test_markdown_has_the_laws_and_intervals(study):
    text = (study / "report.md").read_text()
    ddp = next(p for p in json.loads((study / "points.json").read_text())["points"] if p["name"] == DDP.name)
    assert f"{ddp['speedup']:.2f} ({ddp['speedup_interval'][0]:.2f} – {ddp['speedup_interval'][1]:.2f})" in text
    assert f"{ddp['serial_fraction']['value']:.3f}" in text and "serial fraction" in text
    assert "## Laws of scaling" in text and "| ddp | cpu | fp32 | 1, 2 | amdahl | sigma " in text
    assert "speedup, one core |" in text  # no GPU is there
