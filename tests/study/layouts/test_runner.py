"""Rounds, failures, and a study that is killed: on runs that are made up in no time."""

import errno
import time
from dataclasses import replace

import pytest

from fanlight.errors import DiskError, RunError, Stopped, TrainingError
from fanlight.study.layouts import folder, grid, intervals, measured, result, runner, told
from study.layouts import folders
from study.layouts.trials import NAMES, POINTS, Killed, OfRanks, Trial, runs, trial


def test_every_round_begins_with_another_point(tmp_path):
    found = trial(folders.begin(tmp_path / "study", POINTS))
    assert found.rounds(3) == ""
    order = {number: [name for name, round_ in found.seen if round_ == number] for number in range(3)}
    assert order[0] == NAMES
    alive = [name for name in NAMES if name != "fsdp-2-fp32"]  # it failed, and is not tried again
    assert order[1] == alive[1:] + alive[:1] and order[2] == alive[2:] + alive[:2]


def test_a_point_that_fails_is_a_row_with_its_reason(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    trial(study).rounds(1)
    rows = {point["name"]: point for point in result.write(study)["points"]}
    assert (rows["fsdp-2-fp32"]["status"], rows["fsdp-2-fp32"]["reason"]) == ("failed", "rank 1 was killed by SIGKILL")
    assert rows["ddp-2-fp32"]["status"] == "measured"


def test_a_failed_run_keeps_where_it_happened_and_no_weights(tmp_path):
    class Failing(Trial):
        def _train_and_probe(self, point, number, run):
            (run / "checkpoints/step-1").mkdir(parents=True)
            (run / "weights").mkdir()
            (run / "metrics.jsonl").write_text("")
            error = TrainingError("rank 1 failed: KeyError: 'x'")
            if point.ranks > 1:
                error.rank_traceback = "Traceback of rank 1"
            raise error

    study = folders.begin(tmp_path / "study", POINTS)
    found = Failing(study, None, POINTS, block_s=1.0, repeats=1, begun=time.monotonic())  # type: ignore[arg-type]
    found.rounds(1)
    of_ranks, own = (folder.run_of(study, POINTS[NAMES.index(name)], 0) for name in ("ddp-2-fp32", "serial-1core-fp32"))
    assert folder.failure(of_ranks) == "rank 1 failed: KeyError: 'x'"
    assert (of_ranks / folder.LOG).read_text() == "Traceback of rank 1"
    assert "test_runner.py" in (own / folder.LOG).read_text()  # raised here
    assert {path.name for path in own.iterdir()} == {folder.FAILURE, folder.LOG, "metrics.jsonl"}


@pytest.mark.parametrize(
    "name", ["probe.json", "run.json", "resolved.yaml", "steps-rank0.parquet", "steps-rank1.parquet"]
)
def test_a_finished_run_that_is_torn_is_measured_again(tmp_path, name):
    study = folders.begin(tmp_path / "study", POINTS)
    trial(study).rounds(2)
    ddp = POINTS[NAMES.index("ddp-2-fp32")]
    path = folder.run_of(study, ddp, 1) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = trial(study)
    again.mend()
    again.rounds(2)
    assert again.seen == [("ddp-2-fp32", 1)]
    assert len(measured.rounds(study, ddp)) == 2
    assert (study / "runs" / ".torn-ddp-2-fp32-1" / name).exists()  # nothing measured is deleted
    result.write(study)
    assert told.read(study).steps["ddp-2-fp32"]


def test_a_torn_run_says_once_that_it_is_measured_again(tmp_path, capsys):
    study = folders.begin(tmp_path / "study", POINTS)
    trial(study).rounds(1)
    (folder.run_of(study, POINTS[NAMES.index("ddp-2-fp32")], 0) / "steps-rank1.parquet").write_bytes(b"PAR1")
    trial(study).mend()
    warned = capsys.readouterr().err
    assert warned.startswith("Warning: ") and "It is measured again" in warned
    assert warned.count("again") == 1, warned


def test_a_failure_without_a_reason_is_measured_again(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    trial(study).rounds(1)
    run = folder.run_of(study, POINTS[NAMES.index("fsdp-2-fp32")], 0)
    (run / folder.FAILURE).write_text("[]")
    again = trial(study)
    again.mend()
    again.rounds(1)
    assert again.seen == [("fsdp-2-fp32", 0)] and folder.failure(run) == "rank 1 was killed by SIGKILL"


def test_a_rate_is_of_all_ranks_or_none(tmp_path):
    """A rank whose table is torn may be the slow one."""
    study = folders.begin(tmp_path / "study", POINTS)
    trial(study).rounds(1)
    ddp = POINTS[NAMES.index("ddp-2-fp32")]
    (folder.run_of(study, ddp, 0) / "steps-rank1.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"steps-rank1\.parquet cannot be read .*--resume"):
        measured.rounds(study, ddp)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        DiskError("the disk of runs/1 is full; make room"),
        TrainingError("rank 1 failed: OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_full_disk_ends_the_study_and_fails_no_point(tmp_path, error):
    """As a failure it would be kept, and the point never be tried again once there is room."""

    class Full(Trial):
        def _train_and_probe(self, point, number, run):
            if point.name == "ddp-2-fp32":
                raise error
            super()._train_and_probe(point, number, run)

    study = folders.begin(tmp_path / "study", POINTS)
    full = Full(study, None, POINTS, block_s=1.0, repeats=1, begun=time.monotonic())  # type: ignore[arg-type]
    full.seen = []
    with pytest.raises(DiskError, match="continue with: fanlight study --resume"):
        full.rounds(1)
    assert "ddp-2-fp32-0" not in runs(study)
    later = trial(study)
    later.rounds(1)
    assert ("ddp-2-fp32", 0) in later.seen


@pytest.mark.parametrize(
    ("layout", "ranks", "threads", "cores", "held"),
    [
        ("serial", 1, 1, 1, 1), ("serial", 1, 2, 2, 2), ("serial", 1, 4, 4, None), ("ddp", 2, 1, 2, 2), ("ddp", 2, 2, 4, None),
        ("ddp", 3, 1, 3, 3), ("ddp", 8, 1, 4, None),
    ],
)  # fmt: skip
def test_ranks_are_held_to_the_cores_that_they_are_charged_for(
    tmp_path, monkeypatch, layout, ranks, threads, cores, held
):
    """With --threads 1 two ranks of four cores would else have two for each, and their input threads use what nobody counts."""
    asked = {}

    class Asked:
        is_open = True

        def __init__(self, ranks, **about):
            asked.update(about, ranks=ranks)

        def close(self):
            pass

    monkeypatch.setattr(runner, "Pool", Asked)
    monkeypatch.setattr(runner.machine, "cores_usable", lambda: 4)
    point = grid.Point(layout, ranks, "fp32", "cpu", threads, cores)
    trial(folders.begin(tmp_path / "study", POINTS))._pool(point)
    assert (asked["ranks"], asked["threads"], asked["cores"]) == (ranks, threads, held)
    trial(tmp_path / "study")._pool(grid.Point("serial", 1, "fp32", "cuda", 4, 1))
    assert asked["cores"] is None


def test_points_with_other_cores_have_other_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Pool", lambda ranks, **about: type("Fake", (), {"is_open": True, "ranks": ranks})())
    monkeypatch.setattr(runner.machine, "cores_usable", lambda: 4)
    found = trial(folders.begin(tmp_path / "study", POINTS))
    part, whole = (grid.Point("ddp", 2, "fp32", "cpu", 1, cores) for cores in (2, 4))
    assert found._pool(part) is found._pool(part) and found._pool(part) is not found._pool(whole)


def test_ranks_are_kept_as_far_as_there_is_room_for_them(tmp_path, monkeypatch):
    class Fake:
        def __init__(self, ranks, **_):
            self.ranks, self.is_open = ranks, True

        def close(self):
            self.is_open = False

    monkeypatch.setattr(runner, "Pool", Fake)
    monkeypatch.setattr(runner.machine, "cores_usable", lambda: 16)
    monkeypatch.setattr(runner.machine, "memory_available", lambda: 1 << 40)
    counts = (1, 2, 4, 8, 16)
    points = [grid.Point("ddp", count, "fp32", "cpu", 16 // count, 16) for count in counts]
    found = trial(folders.begin(tmp_path / "study", POINTS))
    kept = [found._pool(point) for point in points]
    assert all(pool.is_open for pool in kept) and [found._pool(point) for point in points] == kept, "in every round"
    monkeypatch.setattr(
        runner.machine, "memory_available", lambda: 80 * runner.RANK_BYTES
    )  # a quarter of it is 20 ranks
    found._pool(grid.Point("ddp", 3, "fp32", "cpu", 5, 15))
    assert [pool.is_open for pool in kept] == [False, False, False, False, True]


def test_killed_twice_it_ends_with_the_same_points(tmp_path):
    whole = folders.begin(tmp_path / "whole", POINTS)
    trial(whole).rounds(3)
    study = folders.begin(tmp_path / "killed", POINTS)
    for stop_at in (2, 5):
        found = trial(study)
        found.stop_at = stop_at
        with pytest.raises(Killed):
            found.rounds(3)
    found = trial(study)
    found.rounds(3)
    assert runs(study) == runs(whole)
    first, second = (result.write(place) for place in (whole, study))
    for key in ("name", "status", "reason", "n", "images_per_s", "shares"):
        assert [point[key] for point in first["points"]] == [point[key] for point in second["points"]]
    again = trial(study)
    again.rounds(3)
    assert again.seen == []


def test_a_link_that_cannot_be_measured_costs_no_point(tmp_path):
    """Why it could not be is kept; it is tried again in the next round, and measured once."""
    study = folders.begin(tmp_path / "study", POINTS)
    found, ddp = trial(study), POINTS[NAMES.index("ddp-2-fp32")]
    pool = OfRanks(TrainingError("rank 1 was lost"), folders.link())
    assert found._link(ddp, pool, tmp_path) == {"link": None, "link_reason": "rank 1 was lost"}  # type: ignore[arg-type]
    folders.run(study, ddp, 0)
    told_of = found._link(ddp, pool, tmp_path)  # type: ignore[arg-type]
    assert told_of == {"link": folders.link(), "link_reason": ""}
    nothing = {"link": None, "link_reason": ""}
    assert found._link(POINTS[0], pool, tmp_path) == nothing  # type: ignore[arg-type]
    folders.run(study, ddp, 1, link=told_of["link"])
    assert found._link(ddp, pool, tmp_path) == nothing and pool.answers == []  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        found._link(POINTS[-1], OfRanks(Stopped("stopped")), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [Stopped("stopped after step 3"), KeyboardInterrupt()])
def test_a_request_to_stop_says_how_to_go_on(tmp_path, monkeypatch, error):
    study = folders.begin(tmp_path / "study", POINTS)
    found = trial(study)
    found.basis = type("Basis", (), {"data": "photos"})()  # type: ignore[assignment]

    def stopped(point, number, run):
        run.mkdir(parents=True)
        raise error

    monkeypatch.setattr(found, "_train_and_probe", stopped)
    with pytest.raises(Stopped, match=f"continue with: fanlight study photos --resume {study}"):
        found.rounds(1)
    assert runs(study) == set()


def test_rounds_go_on_until_they_agree(tmp_path):
    calm = trial(folders.begin(tmp_path / "calm", POINTS))
    calm.rounds(None)
    assert max(number for _, number in calm.seen) + 1 == intervals.ROUNDS_LEAST
    drifting = trial(folders.begin(tmp_path / "drifting", POINTS))
    drifting.drift = 0.5  # which slows all points of a round alike: ratios agree
    drifting.rounds(None)
    assert max(number for _, number in drifting.seen) + 1 == intervals.ROUNDS_LEAST
    wild = trial(folders.begin(tmp_path / "wild", POINTS))
    wild.spread = 0.5
    wild.rounds(None)
    assert max(number for _, number in wild.seen) + 1 == intervals.ROUNDS_MOST


def test_a_round_that_was_cut_off_does_not_count_for_narrowness(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    found = trial(study)
    found.stop_at = 8  # in the third round
    with pytest.raises(Killed):
        found.rounds(None)
    again = trial(study)
    again.rounds(None)
    assert max(number for _, number in again.seen) + 1 == intervals.ROUNDS_LEAST
    assert not intervals.enough([[[1.0, 1.0], []]]) and not intervals.enough([])


def test_rounds_end_where_no_point_is_left(tmp_path):
    """Also where nobody said how many rounds: no interval gets narrow any more."""

    class Broken(Trial):
        def _train_and_probe(self, point, number, run):
            self.seen.append((point.name, number))
            raise TrainingError("the loss is not finite")

    study = folders.begin(tmp_path / "study", POINTS)
    found = Broken(study, None, POINTS, block_s=1.0, repeats=1, begun=time.monotonic())  # type: ignore[arg-type]
    found.seen = []
    assert found.rounds(None) == "" and found.seen == [(name, 0) for name in NAMES]
    document = result.write(study)
    assert {each["status"] for each in document["points"]} == {"failed"}


def test_a_baseline_that_fails_in_a_later_round_keeps_what_was_measured(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    for point in POINTS:
        folders.run(study, point, 0, compute=0.1)
    folder.fail(folder.run_of(study, POINTS[1], 1), "out of memory")
    document = result.write(study)
    told_of = next(each for each in document["points"] if each["name"] == POINTS[1].name)
    assert (told_of["status"], told_of["reason"], told_of["n"]) == ("measured", "out of memory", 1)
    assert "failed later" in told_of["flags"] and "Failed later: serial-2cores-fp32" in document["verdict"]


@pytest.mark.parametrize(("noise", "adds_up"), [(0.01, True), (0.2, False)])
def test_probes_end_once_it_is_known_how_far_shares_add_up(tmp_path, noise, adds_up):
    study = folders.begin(tmp_path / "study", POINTS)
    point = POINTS[0]
    for number in range(3):
        folders.run(study, point, number, compute=0.1, wall_s=0.1 * (1 + noise * (number - 1)))
    assert trial(study)._adds_up(point) == adds_up


def test_rounds_without_a_probe_count_for_rates_alone(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    point = POINTS[0]
    for number in range(5):
        folders.run(study, point, number, compute=0.1, is_probed=number < 3)
    row = result.write(study)["points"][0]
    assert (row["n"], row["shares_n"]) == (5, 3) and row["shares"]["compute"] > 0.5 and row["queued"] is not None
    assert trial(study)._adds_up(point)


def test_a_result_is_there_after_every_round(tmp_path):
    """A study that is killed in its third round has the points of two, which `fanlight report` can tell."""
    study = folders.begin(tmp_path / "study", POINTS)
    found = trial(study, finished=lambda rounds: result.write(study, ended=f"it was stopped after {rounds} rounds"))
    found.stop_at = 8
    with pytest.raises(Killed):
        found.rounds(4)
    document = told.read(study).study
    assert {point["n"] for point in document["points"] if point["status"] == "measured"} == {2}
    assert "Not complete: it was stopped after 2 rounds." in document["verdict"]


def test_rounds_that_were_done_before_are_not_told_again(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    seen: list[int] = []
    trial(study, finished=seen.append).rounds(2)
    trial(study, finished=seen.append).rounds(3)
    assert seen == [1, 2, 3]


def test_points_that_lack_for_one_reason_share_a_sentence(tmp_path):
    points = [replace(point, reason="no room" if point.ranks > 1 else "") for point in POINTS]
    study = folders.begin(tmp_path / "study", points)
    folders.run(study, points[0], 0, compute=0.1)
    said = result.write(study)["verdict"].splitlines()
    names = ", ".join(point.name for point in points if point.ranks > 1)
    assert names.count(",") >= 1 and [line for line in said if "no room" in line] == [f"{names}: cannot run: no room."]
