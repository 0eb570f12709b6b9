"""Which runs a time limit still lets begin, and what it ends."""

import threading
import time

from fanlight.errors import TrainingError
from fanlight.study.layouts import intervals, recipe, result, runner
from fanlight.study.layouts.runner import Runner
from study.layouts import folders
from study.layouts.trials import NAMES, POINTS, OfRanks, Trial, runs, trial


def test_no_run_is_begun_that_would_end_too_late(tmp_path):
    study = folders.begin(tmp_path / "study", POINTS)
    found = trial(study, time_limit_s=1e6, guess_s=dict.fromkeys(NAMES, 1.0) | {NAMES[1]: 1e9})
    ended = found.rounds(3)
    assert ended == f"the time limit left out {NAMES[1]} from round 1 on"
    assert NAMES[1] not in {name for name, _ in found.seen}
    short = {NAMES[0], "ddp-2-fp32"}  # fsdp fails
    assert {each for each in found.seen if each[0] in short} == {
        (name, number) for name in short for number in range(3)
    }
    row = next(each for each in result.write(study, ended=ended)["points"] if each["name"] == NAMES[1])
    assert (row["status"], row["reason"]) == ("not measured", ended)


def test_rounds_that_one_point_is_left_out_of_still_end(tmp_path):
    """Nobody said how many: who is left out gets no more rounds, and no interval waits for them."""
    late = dict.fromkeys(NAMES, 1.0) | {NAMES[1]: 1e9}
    found = trial(folders.begin(tmp_path / "study", POINTS), time_limit_s=1e6, guess_s=late)
    assert found.rounds(None) == f"the time limit left out {NAMES[1]} from round 1 on"
    assert max(number for _, number in found.seen) + 1 == intervals.ROUNDS_LEAST


def test_the_longest_points_are_left_out_first(tmp_path):
    costs_s = {NAMES[0]: 30e4, NAMES[1]: 10e4, "ddp-2-fp32": 10e4}

    class Slow(Trial):
        def _one(self, point, number, run):
            super()._one(point, number, run)
            self.took_s[point.name] = costs_s[point.name]
            self.begun -= costs_s[point.name]  # so much of the time is over

    points = [point for point in POINTS if point.name in costs_s]
    study = folders.begin(tmp_path / "study", points)
    found = Slow(study, None, points, block_s=1.0, repeats=1, begun=time.monotonic(), time_limit_s=125e4)  # type: ignore[arg-type]
    found.seen = []
    assert found.rounds(9) == f"the time limit ended it in round 4; it left out {NAMES[0]} from round 3 on"
    assert {name: [number for each, number in found.seen if each == name] for name in costs_s} == {
        NAMES[0]: [0, 1], NAMES[1]: [0, 1, 2], "ddp-2-fp32": [0, 1, 2]
    }  # fmt: skip


class Endless:
    """A pool whose job ends only when somebody closes it."""

    is_open, ranks = True, 1

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.closed = threading.Event()

    def run(self, job, **_):
        assert self.closed.wait(60), "nobody ended it"
        raise TrainingError("this pool of ranks was closed")

    def close(self) -> None:
        self.closed.set()


def test_the_time_limit_ends_a_run_that_takes_longer_than_it_was_thought(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "BUSY_S", 0.0)
    monkeypatch.setattr(recipe, "config_of", lambda *_, **__: None)
    study = folders.begin(tmp_path / "study", POINTS)
    found = Runner(study, None, POINTS, block_s=1.0, repeats=1, begun=time.monotonic(), time_limit_s=0.2)  # type: ignore[arg-type]
    pool = Endless()
    monkeypatch.setattr(found, "_pool", lambda point: pool)
    monkeypatch.setattr(found, "_cut", lambda point, pool: None)
    monkeypatch.setattr(found, "_prepare", lambda config, run: run.mkdir())
    ended = found.rounds(1)
    assert ended == "the time limit ended it in round 1, in the middle of serial-1core-fp32"
    assert runs(study) == set(), "it is as if it had not been begun, and --resume begins it again"
    row = result.write(study, ended=ended)["points"][0]
    assert (row["status"], row["reason"]) == ("not measured", ended)


def test_a_link_that_the_time_limit_cut_off_says_so(tmp_path):
    """The ranks are closed then: that this is so is no reason that helps anybody."""
    ddp = POINTS[NAMES.index("ddp-2-fp32")]
    found = trial(folders.begin(tmp_path / "study", POINTS), time_limit_s=0.0)
    pool = OfRanks(TrainingError("cannot run job: this pool of ranks was closed; open a new one"))
    told_of = found._link(ddp, pool, tmp_path)  # type: ignore[arg-type]
    assert told_of == {"link": None, "link_reason": "the time limit came before it was measured"}
