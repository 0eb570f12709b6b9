"""Ranks that make no progress: who is named, when, and when nobody is."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fanlight import errors
from fanlight.parallel import heartbeat, stall
from fanlight.parallel.heartbeat import Beat, Heartbeat
from fanlight.parallel.launch import Pool
from fanlight.parallel.stall import Watch
from fanlight.train import evaluate, job
from fanlight.train.clock import StepClock
from train import colours as tiny

pytest_plugins = ["train.fixtures"]

DEATH_S = 30.0  # bounded, not fast: machines are shared
LIGHT = ("torch",)


class Watched:
    """Ranks that beat by hand, under a clock that is set by hand."""

    def __init__(self, monkeypatch, *, ranks=2, stall_s=None):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        memory = bytearray(ranks * heartbeat.SLOT.size)
        self.ranks = [Heartbeat(memory, rank=rank) for rank in range(ranks)]
        self.watch = Watch(memory, ranks=ranks, stall_s=stall_s)

    def stalls_within(self, seconds, **options):
        """Whether a look at each second of them finds a stall."""
        for _ in range(int(seconds)):
            self.now += 1.0
            if self.watch.is_stalled(**options):
                return True
        return False


@pytest.fixture
def watched(monkeypatch):
    return lambda **options: Watched(monkeypatch, **options)


@given(st.integers(0, 2**40), st.text(max_size=60), st.booleans())
def test_a_slot_says_what_was_beaten(step, phase, announced):
    own = Heartbeat()
    own.beat("before", step=step)
    (own.announce if announced else own.enter)(phase.replace("\0", ""))
    beat = heartbeat.read(own.memory)
    assert (beat.step, beat.beats, beat.announced) == (step, 2, announced)
    cut = phase.replace("\0", "").encode()[:31].decode(errors="replace")
    assert beat.phase == cut
    own.rest()
    assert heartbeat.read(own.memory) == Beat(0, 0.0, 0.0, 0, False, "")


def test_slots_are_shared_through_a_file(tmp_path):
    memory = heartbeat.create(str(tmp_path), 3)
    Heartbeat(heartbeat.attach(str(tmp_path)), rank=2).beat("input", step=7)
    assert [heartbeat.read(memory, rank=rank).step for rank in range(3)] == [0, 0, 7]


def test_the_longest_interval_leaves_announced_phases_out(watched):
    case = watched(ranks=1)
    for name, seconds in (("beat", 3), ("announce", 50), ("enter", 70), ("beat", 2), ("enter", 4), ("beat", 1)):
        getattr(case.ranks[0], name)("phase", **({"step": 1} if name == "beat" else {}))
        case.now += seconds
    case.ranks[0].beat("phase", step=2)
    assert case.watch.beats()[0].longest_s == 4


def test_ranks_that_stand_still_are_found_after_the_limit(watched):
    case = watched(stall_s=10)
    for rank in case.ranks:
        rank.beat("input", step=1)
    assert not case.stalls_within(9)
    assert case.stalls_within(3)


def test_by_default_the_limit_grows_with_the_longest_interval(watched):
    assert stall.limit_s([Beat(0, 0.0, 3.0, 1, False, "")], chosen_s=None) == stall.FLOOR_S
    slow = Beat(0, 0.0, 100.0, 1, False, "")
    assert stall.limit_s([slow], chosen_s=None) == 100 * stall.INTERVALS
    assert stall.limit_s([slow], chosen_s=5.0) == 5.0


def test_nobody_stalls_who_has_not_begun_or_has_answered(watched):
    case = watched(stall_s=10)
    case.ranks[0].beat("input", step=1)
    assert not case.stalls_within(60)  # the other builds its model
    case.ranks[1].beat("input", step=1)
    case.ranks[0].rest()
    assert not case.stalls_within(60)  # one has ended
    assert case.stalls_within(1, answered={0})


def test_a_phase_that_may_take_any_time_excuses_everyone(watched):
    case = watched(stall_s=10)
    case.ranks[0].announce("evaluate")
    case.ranks[1].beat("exchange", step=1)  # and waits for rank 0
    assert not case.stalls_within(100)
    case.ranks[0].enter("gather")  # inside
    assert not case.stalls_within(100)
    case.ranks[0].beat("input", step=1)
    assert not case.stalls_within(9)
    assert case.stalls_within(3)


def test_even_a_phase_that_may_take_any_time_ends_without_a_sign(watched, monkeypatch):
    monkeypatch.setattr(stall, "ANNOUNCED_S", 200.0)
    case = watched(stall_s=10)
    case.ranks[0].announce("evaluate")
    case.ranks[1].beat("exchange", step=1)
    for _ in range(5):
        assert not case.stalls_within(150)
        case.ranks[0].enter("evaluate")  # another batch
    assert not case.stalls_within(190)
    assert case.stalls_within(20)


def test_a_rank_that_waits_for_a_slow_one_does_not_stall(watched):
    case = watched(stall_s=10)
    case.ranks[1].beat("exchange", step=1)
    for step in range(30):
        case.ranks[0].beat("input", step=step)
        assert not case.stalls_within(5)


def test_seconds_in_which_the_watcher_slept_too_do_not_count(watched):
    case = watched(stall_s=60)
    for rank in case.ranks:
        rank.beat("input", step=1)
    case.stalls_within(2)
    case.now += 5000.0  # a closed lid, a paused container
    assert not case.stalls_within(20)


def test_another_job_begins_anew(watched):
    case = watched(stall_s=10)
    for rank in case.ranks:
        rank.beat("input", step=1)
    case.stalls_within(8)
    case.watch.begin()
    assert not case.stalls_within(8)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("FANLIGHT_STALL_S", text)
    with pytest.raises(errors.ConfigError, match=f"FANLIGHT_STALL_S is '{text}'; use seconds above 0, or inf to wait"):
        Pool(1)
    with pytest.raises(errors.ConfigError, match=r"stall_s is '-1'; use seconds"):
        Pool(1, stall_s=-1)


def test_the_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("FANLIGHT_STALL_S", "inf")
    assert stall.chosen(None) == float("inf") and stall.chosen(7) == 7
    monkeypatch.delenv("FANLIGHT_STALL_S")
    assert stall.chosen(None) is None


@pytest.mark.parametrize(
    ("newest", "surely"),
    [
        ("/site-packages/torch/distributed/distributed_c10d.py", 2), ("/src/fanlight/parallel/pipeline.py", 2),
        ("/site-packages/torch/autograd/graph.py", 1), ("/site-packages/torch/nn/modules/conv.py", 0),
    ],
)  # fmt: skip
def test_who_waits_is_seen_in_the_main_threads_newest_frame(newest, surely):
    stack = (
        'Thread 0x01 (most recent call first):\n  File "/lib/threading.py", line 3 in wait\n\n'
        f'Current thread 0x02 (most recent call first):\n  File "{newest}", line 3 in f\n  File "/job.py", line 9 in g\n'
    )
    assert stall.waits(stack) == surely
    assert stall.waits("") == 0


@pytest.fixture(scope="module")
def brief_pools() -> Iterator[list[Pool]]:
    pools: list[Pool] = []
    yield pools
    for each in pools:
        each.close()


@pytest.fixture
def brief_pool(brief_pools) -> Pool:
    """Two ranks of little patience that the test may lose; who does not leaves them to the next."""
    if not brief_pools or not brief_pools[-1].is_open:
        brief_pools.append(Pool(2, threads=1, preload=LIGHT, stall_s=2))
        brief_pools[-1].run("parallel.jobs:who")
    return brief_pools[-1]


def test_a_job_that_works_unseen_is_left_alone(brief_pool):
    assert brief_pool.run("parallel.stall_jobs:work_unseen", seconds=2.5) == ["done", "done"]


def test_a_rank_that_a_signal_stopped_is_named(brief_pool, tmp_path, capfd):
    def stop() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(brief_pool.pids[1], signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(
        errors.TrainingError,
        match=r"^rank 1 made no progress for \d+ s, after \d+ steps \((input|exchange)\): it is stopped by a signal, such as "
        r"SIGSTOP\. All ranks were ended; the run can be resumed from its newest checkpoint",
    ):
        brief_pool.run("parallel.stall_jobs:step_for_ever", started=str(tmp_path))
    thread.join()
    assert time.monotonic() - begin < DEATH_S
    assert not brief_pool.is_open and not any(map(os.path.exists, (f"/proc/{pid}" for pid in brief_pool.pids)))
    said = capfd.readouterr().err
    assert "stacks of its threads:\nit is stopped by a signal and cannot tell" in said
    assert "rank 0, after" in said and "in step_for_ever" in said


def test_a_rank_that_does_not_come_to_a_collective_is_named(brief_pool, capfd):
    begin = time.monotonic()
    with pytest.raises(
        errors.TrainingError, match=r"^rank 0 made no progress for \d+ s, after 2 steps \(input\): see its"
    ):
        brief_pool.run("parallel.stall_jobs:never_join", rank=0)
    assert time.monotonic() - begin < DEATH_S
    assert capfd.readouterr().err.count("in never_join") == 2


def test_a_launched_rank_that_stands_still_ends_itself():
    script = (
        "import threading, time\n"
        "from fanlight.parallel import stall\n"
        "from fanlight.parallel.heartbeat import Heartbeat\n"
        "own = Heartbeat()\n"
        "stall.guard(own, rank=3)\n"
        "own.announce('build'); time.sleep(1.5)\n"
        "print('built', flush=True)\n"
        "own.beat('input', step=8)\n"
        "def stand_still(): threading.Event().wait()\n"
        "stand_still()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "FANLIGHT_STALL_S": "0.5"}, capture_output=True, text=True,
        timeout=DEATH_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "built\n")
    assert "Error: rank 3 made no progress for" in done.stderr and "after 8 steps (input)" in done.stderr
    assert "in stand_still" in done.stderr


def test_marks_of_the_clock_are_beats():
    own = Heartbeat()
    clock = StepClock(torch.device("cpu"), heartbeat=own)
    own.beat("input", step=4)
    clock.begin()
    clock.arrived()
    clock.mark("forward")
    beat = heartbeat.read(own.memory)
    assert (beat.step, beat.beats, beat.phase) == (4, 3, "after forward")


def test_training_beats_and_announces_what_may_take_long(monkeypatch, colours, own_place):
    said, tell, outputs = [], Heartbeat._tell, evaluate.outputs

    def told(self, phase, *, announced):
        said.append((phase, self._step, announced))
        tell(self, phase, announced=announced)

    def evaluated(*arguments, **options):
        assert said[-1][2], said[-1]
        said.append(("evaluated", -1, True))
        return outputs(*arguments, **options)

    monkeypatch.setattr(Heartbeat, "_tell", told)
    monkeypatch.setattr(evaluate, "outputs", evaluated)
    tiny.train(colours, out=own_place / "run", epochs=2)
    order = [phase for phase, step, _ in said if step == 1]
    assert order.index("exchange") < len(order) - order[::-1].index("after optimizer") - 1  # then weights move
    assert any(phase == "evaluate" and announced for phase, _, announced in said)  # a sign of each batch
    assert said[0] == ("build", 0, True) and said[-1][2] and ("evaluated", -1, True) in said
    assert ("after forward", 0, True) in said  # the first step may compile
    for phase in ("input", "after input", "after forward", "after optimizer", "exchange"):
        assert (phase, 1, False) in said, phase
    assert {announced for phase, _, announced in said if phase == "journal"} == {True}


def test_a_run_whose_rank_was_stopped_is_resumed(monkeypatch, colours, own_place):
    monkeypatch.setenv("FANLIGHT_STALL_S", "2")
    pools = []

    def known_pool(*arguments, **options):
        pools.append(Pool(*arguments, **options))
        return pools[-1]

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not pools or pools[-1]._watch.beats()[1].step <= 12:
            assert time.monotonic() < deadline, "training did not start"
            time.sleep(0.005)
        os.kill(pools[-1].pids[1], signal.SIGSTOP)

    options = {"ranks": 2, "layout": "ddp", "execution__checkpoint_steps": 5}
    with monkeypatch.context() as patch:
        patch.setattr(job.launch, "Pool", known_pool)
        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(errors.TrainingError, match=r"rank 1 made no progress .* it is stopped by a signal"):
            tiny.train(colours, out=own_place / "run", epochs=15, **options)
        thread.join()
    summary = tiny.summary(own_place / "run")
    assert summary["status"] == "failed" and "rank 1 made no progress" in summary["notes"][-1]
    run = tiny.train(colours, resume=own_place / "run", ranks=1, layout="serial")  # starts sooner
    assert tiny.summary(run)["status"] == "finished"
    assert [record["epoch"] for record in tiny.metrics(run, "train")] == list(range(1, 16))
