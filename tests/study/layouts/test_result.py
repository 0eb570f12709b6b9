"""Points, speedups, flags and the verdict, from folders whose figures are known."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fanlight.errors import RunError
from fanlight.study.layouts import folder, grid, intervals, result, table, verdict
from study.layouts import folders

POINTS = grid.points(cores=2, gpus=0, names=["ddp", "local-sgd", "dataparallel"], precisions=["fp32"])
ONE, BOTH, DDP, APART = (point for point in POINTS if not point.reason)

STEP = {"compute": 0.08, "launch": 0.01, "optimizer": 0.01}  # seconds of ddp's


def made(place: Path, points: list[grid.Point] = POINTS, **causes: float) -> dict[str, Any]:
    """A study of three rounds in which one core takes .2 s a step, both take .11 s, and ddp what `causes` say."""
    study = folders.begin(place / "study", points)
    for number in range(3):
        drift = 1 + 0.2 * number  # which ratios by rounds do not see
        folders.run(study, ONE, number, compute=0.18 * drift, launch=0.01 * drift, optimizer=0.01 * drift)
        folders.run(study, BOTH, number, compute=0.09 * drift, launch=0.01 * drift, optimizer=0.01 * drift)
        folders.run(study, DDP, number, **{name: value * drift for name, value in (STEP | causes).items()})
    return result.write(study)


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {point["name"]: point for point in document["points"]}


def test_speedups_are_over_resources_and_free_of_drift(tmp_path):
    document = made(tmp_path, contention=0.02)
    points = by_name(document)
    ddp = points[DDP.name]
    assert ddp["speedup"] == pytest.approx(0.2 / 0.12) and ddp["efficiency"] == pytest.approx(0.2 / 0.12 / 2)
    assert ddp["speedup_interval"] == pytest.approx([0.2 / 0.12] * 2)
    assert (
        ddp["over"]["all_cores"]["value"] == pytest.approx(0.11 / 0.12)
        and ddp["over"]["all_cores"]["point"] == BOTH.name
    )
    assert points[ONE.name]["speedup"] == 1.0 and points[BOTH.name]["speedup"] == pytest.approx(0.2 / 0.11)
    assert ddp["images_per_s"] == pytest.approx(32 / (0.12 * 1.2)) and ddp["n"] == 3
    assert ddp["flags"] == [] and ddp["interval"][1] > 1.5 * ddp["interval"][0]  # rates drift, what is claimed does not
    assert document["baselines"]["one_core"]["fp32"]["point"] == ONE.name
    assert document["baselines"]["all_cores"]["fp32"]["images_per_s"] == pytest.approx(32 / (0.11 * 1.2))
    assert document["baselines"]["one_device"] == {}
    assert ddp["device_gain"] is None  # of GPUs alone


def test_shares_and_what_they_leave_add_up(tmp_path):
    point = by_name(made(tmp_path, contention=0.02, communication=0.05, input=0.01))[DDP.name]
    assert sum(point["shares"].values()) + point["unexplained"] == pytest.approx(1.0)
    assert point["shares"]["communication"] == pytest.approx(0.05 / 0.18) and point["unexplained"] == pytest.approx(0.0)
    assert set(point["shares"]) >= {
        "input",
        "compute",
        "contention",
        "communication",
        "bubble",
        "optimizer",
        "launch",
        "rest",
    }
    assert point["seconds"]["input"] == pytest.approx(0.01 * 1.2)


def test_the_verdict_names_the_cause_with_its_figure(tmp_path):
    said = made(tmp_path, contention=0.031)["verdict"]
    assert "fp32: one process on 2 cores does 242.4 images/s, 1.82× of one core." in said
    assert "No parallel layout is faster beyond its interval" in said
    assert "ddp-2-fp32: 0.84× of one process on both cores, a slow-down: 19% more time." in said
    assert "each step is 31% slower when all ranks compute" in said
    assert (
        "dataparallel-1gpus-fp32: cannot run: splits batches over the GPUs of one process, and 0 can be used." in said
    )


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("communication", "Exchange: 72 ms of a step's 191 ms have nothing else to do, for 44.0 MB a step and rank."),
        ("input", "Images: 72 ms of a step; 72 ms are waiting for them"),
        ("slow", "One rank is slower than the others: 72 ms of a step are spent waiting for it."),
        ("launch", "Too little work at a time: 72 ms of a step would stay with fewer rows than its 32."),
    ],
)
def test_the_largest_cause_comes_first(tmp_path, cause, words):
    causes = {"communication": 0.001, "compute": 0.089, "launch": 0.0} | {cause: 0.06}
    document = made(tmp_path, **causes)
    line = next(line for line in document["verdict"].splitlines() if line.startswith(DDP.name))
    assert words in line, line


def test_a_gain_is_a_gain(tmp_path):
    said = made(tmp_path, compute=0.06)["verdict"]
    assert "Fastest: ddp-2-fp32, 1.38× of that." in said and "slow-down" not in said


def test_a_speedup_within_its_scatter_is_not_told_apart(tmp_path):
    """Slower in the middle, and faster in a round: that is no slow-down, and no gain either."""
    study = folders.begin(tmp_path / "study", POINTS)
    for number, contention in enumerate((0.02, 0.02, -0.01)):
        folders.run(study, ONE, number)
        folders.run(study, BOTH, number)
        folders.run(study, DDP, number, contention=contention)
    said = result.write(study)["verdict"]
    assert "ddp-2-fp32: 0.83× of one process on both cores, not told apart from it (" in said
    assert "slow-down" not in said


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (1.2, (1.1, 1.3), "gain"),
        (1.2, (0.9, 1.5), "not told apart"),
        (0.8, (0.7, 0.9), "slow-down"),
        (0.8, None, "slow-down"),
        (0.8, (0.7, 1.0), "not told apart"),
        (1.02, (1.01, 1.03), "no gain"),
    ],
)
def test_where_a_ratio_stands(value, interval, words):
    assert intervals.standing(value, interval) == words


def test_points_that_lack_for_one_reason_stand_together(tmp_path):
    found = verdict.absent(made(tmp_path)["points"])
    names = ["dataparallel-1gpus-fp32"]
    assert (names, "cannot run", "splits batches over the GPUs of one process, and 0 can be used") in found
    assert all(status != "measured" and names for names, status, _ in found)


def test_no_gain_is_said(tmp_path):
    said = made(tmp_path, contention=0.0101)["verdict"]
    assert "ddp-2-fp32: 1.00× of one process on both cores, no gain." in said


def test_what_the_run_and_the_probe_disagree_on_is_flagged(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    folders.run(study, ONE, 0)
    folders.run(study, DDP, 0, wall_s=0.125)  # of which the probe found .1
    document = result.write(study)
    point = by_name(document)[DDP.name]
    assert point["unexplained"] == pytest.approx(0.2) and "unexplained" in point["flags"]
    assert "Unexplained: ddp-2-fp32" in document["verdict"]


def test_a_machine_that_changes_its_speed_explains_itself(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    for number, speed in enumerate((0.8, 1.0, 1.25)):
        folders.run(study, ONE, number)
        folders.run(study, DDP, number, contention=0.025, speed=speed)
    document = result.write(study)
    point = by_name(document)[DDP.name]
    assert point["unexplained"] == pytest.approx(0.0) and "unexplained" not in point["flags"]
    assert point["shares"]["contention"] == pytest.approx(0.2)
    assert point["drift"] == pytest.approx(1.0) and point["drift_interval"] == pytest.approx([0.8, 1.25])
    said = document["verdict"].splitlines()
    words = "The machine's speed changed by up to 25% between a run and the probe after it (ddp-2-fp32)"
    place = next(number for number, line in enumerate(said) if line.startswith(words))
    assert place > 0  # what pays comes first


def test_a_straggler_is_slower_in_most_rounds(tmp_path):
    """In one round of three a rank was late: that is not a slow rank."""
    study = folders.begin(tmp_path / "study", POINTS)
    for number, slow in enumerate((0.0, 0.03, 0.0)):
        folders.run(study, ONE, number)
        folders.run(study, DDP, number, slow=slow)
    point = by_name(result.write(study))[DDP.name]
    assert point["shares"]["straggler"] == pytest.approx(0.0)
    assert sum(point["shares"].values()) + point["unexplained"] == pytest.approx(1.0)


def test_accuracy_is_compared_by_seed(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    for number, accuracy in enumerate((0.80, 0.90, 0.85, 0.82, 0.88)):  # seeds differ by more than ddp does
        folders.run(study, ONE, number, accuracy=accuracy)
        folders.run(study, BOTH, number, accuracy=accuracy)
        folders.run(study, DDP, number, accuracy=accuracy + (0.005, -0.005, 0.01, 0.0, 0.0)[number])
        folders.run(study, APART, number, accuracy=accuracy - 0.3)  # 6 of 20 images
    points = by_name(result.write(study))
    assert "accuracy differs" not in points[DDP.name]["flags"]
    assert points[APART.name]["flags"] == ["other algorithm", "accuracy differs"]
    apart = points[APART.name]
    assert apart["accuracy_gap"] == pytest.approx(-0.3) and apart["accuracy_p"] < 0.05 and apart["accuracy_test"] == "t"
    assert apart["accuracy_gap_interval"][0] < -0.3 < apart["accuracy_gap_interval"][1] < 0
    assert points[DDP.name]["accuracy_p"] > 0.05 and points[BOTH.name]["accuracy_p"] is None  # it is the baseline
    few = folders.begin(tmp_path / "few", POINTS)
    for number in range(2):
        folders.run(few, BOTH, number, accuracy=0.9)
        folders.run(few, DDP, number, accuracy=0.1)
    point = by_name(result.write(few))[DDP.name]  # two seeds are told, and prove nothing
    assert point["accuracy_gap"] == pytest.approx(-0.8) and point["accuracy_p"] is None and point["flags"] == []


def test_serial_fractions_and_laws(tmp_path):
    points = grid.points(cores=4, gpus=0, names=["ddp"], precisions=["fp32"], device="cpu", threads=1)
    study = folders.begin(tmp_path / "study", points, cores=4)
    for number in range(3):
        drift = 1 + 0.1 * number
        for point in points:  # a fifth of one core's work is serial
            folders.run(
                study, point, number, compute=0.2 * drift * (0.2 + 0.8 / point.cores), launch=0.0, optimizer=0.0
            )
    document = result.write(study)
    found = by_name(document)
    assert [point.cores for point in points] == [1, 4, 2, 4]
    for name in ("serial-4cores-fp32", "ddp-2-fp32", "ddp-4-fp32"):
        fraction = found[name]["serial_fraction"]
        assert fraction["formula"] == "Karp–Flatt" and fraction["value"] == pytest.approx(0.2)
    assert found["serial-1core-fp32"]["serial_fraction"] == {
        "formula": "Karp–Flatt", "value": None, "interval": None, "reason": "it has no more cores than the baseline"
    }  # fmt: skip
    fits = {fit["layout"]: fit for fit in document["fits"]}
    assert fits["ddp"]["cores"] == [1, 2, 4] and fits["ddp"]["rounds"] == 3
    assert fits["ddp"]["laws"]["amdahl"]["parameters"]["sigma"]["value"] == pytest.approx(0.2, rel=1e-3)
    assert fits["ddp"]["best"] is None and "3 points cannot tell" in fits["ddp"]["reason"]
    assert fits["serial"]["laws"]["usl"]["reason"] == "usl needs 3 numbers of ranks with 1 among them, got 2"
    assert "gustafson" not in fits["ddp"]["laws"]


def test_laws_need_cores_that_grow(tmp_path):
    points = grid.points(
        cores=4, gpus=0, names=["fsdp"], precisions=["fp32"], device="cpu"
    )  # 4 cores for 2 ranks and for 4
    study = folders.begin(tmp_path / "study", points, cores=4)
    for point in points:
        folders.run(study, point, 0)
    fit = next(fit for fit in result.write(study)["fits"] if fit["layout"] == "fsdp")
    assert fit["laws"] == {} and "with --threads 1 cores grow with ranks" in fit["reason"]


def test_the_default_grid_of_several_cores_has_laws(tmp_path):
    """Serial on 1, 2, 4, 8 cores, ddp with one thread a rank: points on all cores with more threads are in no law, and the
    serial ones on some cores are no baseline."""
    points = grid.points(cores=8, gpus=0, precisions=["fp32"], device="cpu")
    study = folders.begin(tmp_path / "study", points, cores=8)
    for number in range(3):
        for point in points:
            if point.layout in ("serial", "ddp") and not point.reason:
                more = 0.01 * (point.threads > 1) * (point.layout == "ddp")
                folders.run(
                    study, point, number, compute=0.2 * (0.2 + 0.8 / point.cores) + more, launch=0.0, optimizer=0.0
                )
    document = result.write(study)
    fits = {fit["layout"]: fit for fit in document["fits"]}
    assert fits["ddp"]["points"] == ["serial-1core-fp32", "ddp-8-fp32", "ddp-2x1-fp32", "ddp-4x1-fp32"]
    for layout in ("serial", "ddp"):
        assert sorted(fits[layout]["cores"]) == [1, 2, 4, 8] and fits[layout]["enough"] == "amdahl", fits[layout]
        assert fits[layout]["laws"]["amdahl"]["parameters"]["sigma"]["value"] == pytest.approx(0.2, rel=1e-3)
    bases = document["baselines"]
    assert bases["all_cores"]["fp32"]["point"] == "serial-8cores-fp32" and bases["one_core"]["fp32"]["cores"] == 1
    assert by_name(document)["ddp-2x1-fp32"]["over"]["all_cores"]["point"] == "serial-8cores-fp32"
    said = {line.split(":")[0]: line for line in document["verdict"].splitlines()}
    assert said["ddp-2x1-fp32"].startswith("ddp-2x1-fp32: 1.67× of one core, on 2 of 8 cores.")
    assert "a slow-down" in said["ddp-4-fp32"]


def test_speedups_that_vary_are_wide(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    for number in range(3):
        folders.run(study, ONE, number)
        folders.run(study, DDP, number, contention=0.03 * number)
    document = result.write(study)
    assert by_name(document)[DDP.name]["flags"] == ["wide"] and "Wide: ddp-2-fp32" in document["verdict"]


def test_what_differs_is_named(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    folders.run(study, ONE, 0)
    folders.run(study, DDP, 0, changed={"train.microbatches": 8})
    document = result.write(study)
    assert by_name(document)[DDP.name]["differs"] == {
        "execution.layout": ["ddp", "serial"], "execution.ranks": [2, 1], "train.microbatches": [8, 1]
    }  # fmt: skip
    assert "layout, ranks, threads; and train.microbatches where a point says so" in document["verdict"]


def test_failed_and_missing_points_are_rows(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    folders.run(study, ONE, 0)
    folder.fail(folder.run_of(study, DDP, 0), "out of memory: 3 GB")
    document = result.write(study, ended="the time limit ended it in round 1")
    points = by_name(document)
    assert [point["name"] for point in document["points"]] == [point.name for point in POINTS]
    assert (points[DDP.name]["status"], points[DDP.name]["reason"]) == ("failed", "out of memory: 3 GB")
    assert points[BOTH.name]["status"] == "not measured" and points[DDP.name]["shares"] is None
    assert "Not complete: the time limit ended it in round 1." in document["verdict"]
    lines = table.lines(document)
    assert len(lines) == 1 + len(POINTS) and lines[3].endswith("failed: out of memory: 3 GB")


def test_oversubscribed_ranks_are_marked(tmp_path):
    points = grid.points(cores=2, gpus=0, names=["ddp"], ranks=[4], precisions=["fp32"], device="cpu")
    study = folders.begin(tmp_path / "study", points)
    folders.run(study, points[0], 0)
    folders.run(study, points[-1], 0)
    document = result.write(study)
    assert by_name(document)["ddp-4-fp32"]["flags"] == ["oversubscribed"]
    assert "Oversubscribed: ddp-4-fp32 (more compute threads than cores, over all ranks: they" in document["verdict"]


def test_threads_count_as_ranks_do(tmp_path):
    """Two ranks of four threads take turns on four cores: they are marked, and in no law of cores."""
    points = grid.points(cores=4, gpus=0, names=["ddp"], precisions=["fp32"], device="cpu", threads=4, ranks=[2])
    study = folders.begin(tmp_path / "study", points, cores=4)
    for point in points:
        folders.run(study, point, 0)
    document = result.write(study)
    assert by_name(document)["ddp-2-fp32"]["flags"] == ["oversubscribed"]
    assert by_name(document)["serial-4cores-fp32"]["flags"] == []
    assert [fit["layout"] for fit in document["fits"]] == ["serial"]


def test_a_link_that_could_not_be_measured_says_why(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    for number in range(2):
        folders.run(study, ONE, number)
        folders.run(study, DDP, number)
        probe = folder.run_of(study, DDP, number) / folder.PROBE
        probe.write_text(
            json.dumps(json.loads(probe.read_text()) | {"link_reason": f"rank 1 was lost in round {number}"})
        )
    points = by_name(result.document(study))
    assert points[DDP.name]["link"] is None and points[DDP.name]["link_reason"] == "rank 1 was lost in round 1"
    assert points[ONE.name]["link_reason"] is None
    folders.run(study, DDP, 2, link=folders.link())
    point = by_name(result.document(study))[DDP.name]
    assert point["link"] == folders.link() and point["link_reason"] is None


def test_time_to_accuracy_counts_the_seeds_that_got_there(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS, target=0.8)
    for number in range(3):
        folders.run(study, ONE, number, curve=((10.0 + number, 0.7), (20.0 + number, 0.85)))
        folders.run(study, DDP, number, curve=((5.0 + number, 0.79 + 0.01 * number),))
    points = by_name(result.write(study))
    assert points[ONE.name]["to_accuracy"] == {
        "target": 0.8, "seconds": [20.0, 21.0, 22.0], "reached": 3, "of": 3, "median_s": 21.0, "interval": [20.0, 22.0],
        "reason": "",
    }  # fmt: skip
    assert points[DDP.name]["to_accuracy"]["reached"] == 2 and points[DDP.name]["to_accuracy"]["median_s"] is None
    assert points[DDP.name]["to_accuracy"]["reason"] == "2 of 3 reached; the median is above 6 s"


def test_the_folder_is_read_without_torch_or_pickle(tmp_path):
    document = made(tmp_path)
    study = Path(document["study"])
    assert json.loads((study / "points.json").read_text()) == document
    rounds = pq.read_table(study / "rounds.parquet")
    assert rounds.num_rows == 9 and {"point", "round", "images_per_s", "shares"} <= set(rounds.column_names)
    blocks = pq.read_table(study / "blocks.parquet").to_pylist()
    assert {row["kind"] for row in blocks if row["point"] == DDP.name} == {"full", "memory", "together", "alone", "few"}


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"is not a study's folder: it has no readable study\.json"):
        folder.read_plan(tmp_path)


def test_other_programs_are_told_first(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    folders.run(study, ONE, 0)
    folders.run(study, DDP, 0)
    probe = folder.run_of(study, DDP, 0) / folder.PROBE
    document = json.loads(probe.read_text())
    for row in document["blocks"]:
        row["queued_s"] = row["step_s"] / 4
    probe.write_text(json.dumps(document))
    first = result.write(study)["verdict"].splitlines()[0]
    assert first.startswith(
        "Other programs had the cores for up to 25% of a step (ddp-2-fp32): take every figure as preliminary"
    )


def test_a_single_round_proves_nothing(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    folders.run(study, ONE, 0)
    folders.run(study, BOTH, 0)
    folders.run(study, DDP, 0, compute=0.01)
    said = result.write(study)["verdict"]
    assert "Best of a single round: ddp-2-fp32" in said and "Fastest" not in said


@pytest.mark.parametrize(
    ("threads", "batch", "expected"), [(1, folders.BATCH, 1.0), (1, 2 * folders.BATCH, 0.5), (2, folders.BATCH, 2.0)]
)
def test_work_is_of_cores_and_of_images(tmp_path, threads, batch, expected):
    """Two ranks that compute half a batch each do what one core does; of twice the images that is half, by twice the cores
    twice as much."""
    points = [grid.Point("serial", 1, "fp32", "cpu", 1, 1), grid.Point("ddp", 2, "fp32", "cpu", threads, 2 * threads)]
    study = folders.begin(tmp_path / "study", points)
    for number in range(2):
        folders.run(study, points[0], number, compute=0.16, launch=0.02)
        folders.run(study, points[1], number, compute=0.08, launch=0.01, changed={"train.batch_size": batch})
    assert result.document(study)["points"][1]["work"] == pytest.approx(expected)


def test_a_large_rest_is_named(tmp_path):
    point = by_name(made(tmp_path))[DDP.name]
    point["shares"]["rest"] = 0.2
    assert ("rest", 0.2) in verdict.ranked(point) and "the loop around the step 20%" in verdict.explain(point)
