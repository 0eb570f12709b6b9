"""Where measured curves would go on: that simulated figures follow from what was measured, say that they are none, and tell how
far they miss."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fanlight.study.layouts import calibration, grid, page, result, simulated
from fanlight.study.layouts.grid import Point
from study import reading
from study.layouts import folders, test_page

NEARLY = 1e-3  # a step's agreement of its ranks takes microseconds even where sending costs nothing
POINTS = grid.points(cores=2, gpus=0, names=["ddp", "fsdp", "local-sgd", "pipeline"], precisions=["fp32"], device="cpu")
ONE, BOTH, DDP, FSDP, APART, PIPE = POINTS
FREE = folders.link()


def begin(place: Path, *, points: list[Point] = POINTS, **about: Any) -> Path:
    study = folders.begin(place / "study", points, **{"network": folders.network(), **about})
    folders.run(study, ONE, 0, compute=0.18, launch=0.01, optimizer=0.01)
    folders.run(study, BOTH, 0, compute=0.09, launch=0.01, optimizer=0.01)
    return study


def ddp(study: Path, *, link: dict[str, Any] | None = FREE, **causes: float) -> dict[str, Any]:
    """What follows from one parallel point: half a core's work on each of two ranks, and `causes`."""
    folders.run(study, DDP, 0, link=link, **{"compute": 0.09, "launch": 0.01, "optimizer": 0.01, **causes})
    return result.write(study)["simulated"]


def rates(found: dict[str, Any]) -> dict[str, float]:
    return {point["name"]: point["images_per_s"] for point in found["points"]}


def test_with_free_links_only_the_work_is_divided(tmp_path):
    found = ddp(begin(tmp_path))
    for ranks in (4, 8, 16, 32):
        step_s = 0.18 / ranks + 0.01 + 0.01
        assert rates(found)[f"ddp-{ranks}-fp32"] == pytest.approx(32 / step_s, rel=NEARLY)
    point = found["points"][0]
    assert (point["source"], point["n"], point["goes_on_from"]) == ("simulated", 0, DDP.name)
    assert (point["cores"], point["machines"], point["batch_size"]) == (4, 2, 32)
    assert point["speedup"] == pytest.approx(0.2 / 0.065, rel=NEARLY)
    assert point["efficiency"] == pytest.approx(0.2 / 0.065 / 4, rel=NEARLY)
    assert point["band"][0] < point["images_per_s"] < point["band"][1]
    assert point["speedup_band"] == pytest.approx([end / (32 / 0.2) for end in point["band"]])
    assert point["efficiency_band"] == pytest.approx([end / 4 for end in point["speedup_band"]])
    assert found["left_out"] == [{
        "layout": "ddp", "precision": "fp32", "device": "cpu", "ranks": 64,
        "reason": "a batch of 32 leaves some of 64 ranks without a row; use a larger --batch-size",
    }]  # fmt: skip


def test_a_perfect_prediction_misses_nothing(tmp_path):
    found = ddp(begin(tmp_path))
    assert found["error"]["median"] == found["error"]["worst"] < NEARLY
    assert (found["error"]["worst_point"], found["error"]["n"]) == (DDP.name, 1)
    assert "misses the rates of one measured point by 0% in the middle" in simulated.words(found)


def test_who_sends_little_says_little_of_a_link():
    """Three points that hardly wait, whose differences came out as noise, against one that waits long."""
    assert calibration._weighted_median([(0.125, 0.01), (0.125, 0.02), (0.125, 0.01), (1.5, 0.2)]) == 1.5
    assert calibration._weighted_median([(3.0, 1.0), (1.0, 1.0), (2.0, 1.0)]) == 2.0
    assert calibration._weighted_median([(2.0, 1.0)]) == 2.0


def test_contention_goes_on_on_every_machine_and_is_not_foretold_without_the_point(tmp_path):
    found = ddp(begin(tmp_path), contention=0.022)  # a fifth of a rank's own .11 s
    for ranks in (4, 8):
        step_s = (0.18 / ranks + 0.02) * 1.2
        assert rates(found)[f"ddp-{ranks}-fp32"] == pytest.approx(32 / step_s, rel=NEARLY)
    assert found["points"][0]["factor"] == pytest.approx(1, rel=NEARLY)
    (told,) = found["predicted"]
    assert told["predicted"] == pytest.approx(32 / 0.11, rel=NEARLY)
    assert told["error"] == pytest.approx(0.2, abs=NEARLY) and found["error"]["worst"] == told["error"]


def test_what_no_cause_explains_scales_the_curve_and_widens_the_band(tmp_path):
    study = begin(tmp_path)
    found = ddp(study, compute=0.2)  # of which the serial run knows nothing
    point = found["points"][0]
    assert point["factor"] == pytest.approx(0.11 / 0.22, rel=NEARLY)
    assert point["images_per_s"] == pytest.approx(32 / 0.065 * 0.5, rel=NEARLY)
    assert point["band"][1] >= 32 / 0.065 and point["band"][0] < point["images_per_s"]


@pytest.mark.parametrize("waits_s", [0.01, 0.02, 0.06])
def test_the_link_is_calibrated_by_the_communication_of_the_point(tmp_path, waits_s):
    """Simulated where it was measured, a step waits for messages as long as the measured one did."""
    study = begin(tmp_path, network=folders.network(numbers=2_000_000))
    found = ddp(study, link=folders.link(bytes_per_s=1e9, latency_s=1e-4, steals=1.0), communication=waits_s)
    assert found["points"][0]["factor"] == pytest.approx(1, rel=0.02)
    slower = rates(found)["ddp-4-fp32"]
    assert slower < 32 / (0.045 + 0.02 + waits_s / 2)  # more ranks send as much, and longer around


def test_a_link_far_from_what_was_measured_is_not_believed(tmp_path):
    """Messages that take hundreds of times as long are something else: the factor of the whole has the rest."""
    study = begin(tmp_path, network=folders.network(numbers=2_000))
    found = ddp(study, link=folders.link(bytes_per_s=1e9, latency_s=1e-4, steals=1.0), communication=0.2)
    assert found["points"][0]["factor"] < 0.5


def test_the_band_has_slower_and_faster_links(tmp_path):
    study = begin(tmp_path, network=folders.network(numbers=2_000_000))
    point = ddp(study, link=folders.link(bytes_per_s=1e9, steals=1.0), communication=0.02)["points"][0]
    low, high = point["band"]
    assert low < 0.9 * point["images_per_s"] and high > 1.05 * point["images_per_s"]


def test_layouts_go_on_each_by_its_own_program(tmp_path):
    study = begin(tmp_path)
    for point in (FSDP, APART):
        folders.run(study, point, 0, link=FREE, compute=0.09, launch=0.01, optimizer=0.01)
    cut = {"execution.pipeline_schedule": "1f1b", "execution.stages_per_rank": 1, "train.microbatches": 8}
    folders.run(study, PIPE, 0, link=FREE, compute=0.09, launch=0.01, optimizer=0.01, wall_s=0.16, changed=cut)
    found = ddp(study)
    assert {point["layout"] for point in found["points"]} == {"ddp", "fsdp", "local-sgd", "pipeline"}
    pipes = [point for point in found["points"] if point["layout"] == "pipeline"]
    assert [(point["ranks"], point["microbatches"]) for point in pipes] == [(4, 8)]  # of at least 4 rows each
    (left,) = [each for each in found["left_out"] if each["layout"] == "pipeline"]
    assert (left["ranks"], left["reason"]) == (8, "the network can be cut into at most 4 stages, and the layout has 8")
    assert found["error"]["n"] == 4


def test_weak_scaling_keeps_the_batch_of_a_core(tmp_path):
    found = ddp(begin(tmp_path, scaling="weak"))
    assert [point["batch_size"] for point in found["points"]] == [64, 128, 256, 512, 1024]
    assert found["left_out"] == []


def test_what_is_not_simulated_says_why(tmp_path):
    points = [
        *POINTS[:2], Point("ddp", 4, "fp32", "cpu", 1, 2), Point("replicate=2", 2, "fp32", "cpu", 1, 2),
        Point("tensor", 2, "fp32", "cpu", 1, 2),
    ]  # fmt: skip
    study = begin(tmp_path, points=points)
    for point in points[2:]:
        folders.run(study, point, 0, link=FREE, compute=0.05)
    found = result.write(study)["simulated"]
    assert found["points"] == []
    assert {(each["layout"], each["reason"].partition(",")[0]) for each in found["left_out"]} == {
        ("replicate=2", "its degrees are fixed"), ("tensor", "the network has no block that tensor parallelism can divide")
    }  # fmt: skip
    assert {each["point"] for each in found["predicted"]} == {"replicate2-2-fp32", "tensor-2-fp32"}  # none taking turns


def test_without_a_link_or_a_network_there_is_a_reason(tmp_path):
    found = ddp(begin(tmp_path / "a"), link=None)
    assert found["points"] == [] and found["error"] is None
    assert [each["reason"] for each in found["left_out"]] == [calibration.NO_LINK]
    assert simulated.words(found) == "No parallel point was measured that the simulation could be held against."
    found = ddp(begin(tmp_path / "b", network={"blocks": [], "reason": "it has no pieces"}))
    assert (
        found["points"] == []
        and simulated.words(found) == "Nothing is simulated beyond this machine: it has no pieces."
    )
    study = folders.begin(tmp_path / "c", POINTS)  # of an older Fanlight
    folders.run(study, ONE, 0)
    assert "before its network's pieces were counted" in result.write(study)["simulated"]["reason"]


def test_cores_between_one_and_all_lie_on_a_line_of_logarithms():
    def serial(cores: int, compute: float) -> dict[str, Any]:
        causes = {"launch": 0.0, "optimizer": 0.01, "rest": 0.0, "input": 0.0, "compute": compute}
        return {"layout": "serial", "cores": cores, "shares": {"compute": 1.0}, "seconds": causes, "microbatches": 1,
                "batch_size": 10, "timers": {"forward": 0.3, "backward": 0.6}}  # fmt: skip

    machine = calibration.Machine([serial(1, 0.4), serial(16, 0.1)], {}, [])
    between = machine.alone(4, device="cpu")
    assert isinstance(between, calibration.Alone)
    assert between.row_s == pytest.approx(0.02) and between.optimizer_s == pytest.approx(0.01)
    assert between.forward == pytest.approx(1 / 3)
    assert "on 32 cores" in str(machine.alone(32, device="cpu"))


@pytest.mark.parametrize(
    ("launch", "compute", "launch_s", "row_s"),
    [(0.1, 0.4, 0.1, 0.04), (-0.1, 0.5, 0.0, 0.04), (0.5, -0.1, 0.4, 0.0), (-0.2, 0.1, 0.0, 0.0)],
)
def test_a_part_below_nothing_is_taken_from_the_other(launch, compute, launch_s, row_s):
    """A step that is simulated takes as long as the one that was measured, however its line came out."""
    causes = {"launch": launch, "compute": compute, "optimizer": 0.01, "rest": 0.0, "input": 0.0}
    one = {"layout": "serial", "cores": 1, "shares": {"compute": 1.0}, "seconds": causes, "microbatches": 1,
           "batch_size": 10, "timers": {"forward": 0.3, "backward": 0.6}}  # fmt: skip
    alone = calibration.Machine([one], {}, []).alone(1, device="cpu")
    assert isinstance(alone, calibration.Alone)
    assert (alone.launch_s, alone.row_s) == (pytest.approx(launch_s), pytest.approx(row_s))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = test_page.begin(tmp_path_factory.mktemp("beyond") / "study", POINTS, network=folders.network())
    test_page.run(made, ONE, 0, compute=0.18)
    test_page.run(made, DDP, 0, compute=0.09, contention=0.022, link=FREE)
    test_page.run(made, FSDP, 0, compute=0.09, contention=0.011, link=FREE)
    result.write(made)
    page.write(made)
    return made


def test_the_report_shows_dashes_a_band_and_what_they_assume(study):
    curves = (study / "figures/curves.svg").read_text()
    assert "ddp, simulated" in curves and "stroke-dasharray" in curves and "opacity: 0.13" in curves
    document = json.loads((study / "points.json").read_text())
    words = reading.read((study / "report.html").read_text()).words
    found = document["simulated"]
    for sentence in (found["assumed"], found["band"], simulated.words(found)):
        assert sentence in words
        assert sentence.split("(")[0] in (study / "report.md").read_text().replace("\\", "")
    assert "misses the rates of 2 measured points" in simulated.words(found)
    for point in found["points"]:
        assert f"{point['name']} simulated" in words and f"{point['images_per_s']:,.0f}" in words


def test_nothing_simulated_is_among_the_measured(study):
    document = json.loads((study / "points.json").read_text())
    names = {point["name"] for point in document["simulated"]["points"]}
    assert names and not names & {point["name"] for point in document["points"]}
    assert {point["source"] for point in document["points"]} == {"measured"}
    assert not names & {line.partition(",")[0] for line in (study / "points.csv").read_text().splitlines()}
    assert "simulated" not in (study / "figures/speedups.svg").read_text() and "ddp-4" not in document["verdict"]


def test_the_report_is_made_without_torch(study):
    code = (
        "import sys\nfrom pathlib import Path\nfrom fanlight.study.layouts import page\n"
        f"page._figures = lambda found: {{}}\npage.write(Path({str(study)!r}))\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("latency_s", "bucket_mb"), [(1e-6, 1.0), (5e-2, 25.0)])
def test_buckets_are_those_that_a_run_fits_to_the_link(tmp_path, latency_s, bucket_mb):
    """As plan has them; what a run was asked for stays."""
    study = begin(tmp_path)
    ddp(study, link=folders.link(latency_s=latency_s, bytes_per_s=1e9))
    points = result.write(study)["points"]
    (point,) = (each for each in points if each["name"] == DDP.name)
    for asked_mb, expected_mb in ((None, bucket_mb), (3.0, 3.0)):
        settings = {each["name"]: {"execution": {"bucket_mb": asked_mb}} for each in points}
        blocks = calibration.blocks_of(folders.network()["blocks"])
        case = calibration.Machine(points, settings, blocks).here(point, calibration.Learned())
        assert isinstance(case, calibration.Case) and case.asked.bucket_bytes == expected_mb * 2**20
