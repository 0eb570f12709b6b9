import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fanlight import errors
from fanlight.parallel import launch, zygote
from fanlight.parallel.comm import alone
from fanlight.parallel.launch import Pool

DEATH_S = 50.0  # bounded, not fast: machines are shared; less than what jobs sleep where nobody ends them
LIGHT = ("torch",)


@pytest.fixture(scope="module")
def own_pools() -> Iterator[list[Pool]]:
    pools: list[Pool] = []
    yield pools
    for each in pools:
        each.close()


@pytest.fixture
def own_pool(own_pools) -> Pool:
    """Two ranks that the test may lose; who does not leaves them to the next."""
    if not own_pools or not own_pools[-1].is_open:
        own_pools.append(Pool(2, threads=1, preload=LIGHT, grace_s=20))
        own_pools[-1].run("parallel.jobs:who")
    return own_pools[-1]


def gone(pids: list[int], *, within_s: float = DEATH_S) -> bool:
    deadline = time.monotonic() + within_s
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(psutil.pid_exists(pid) for pid in pids)


def wait_for(folder: Path, *, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < deadline, "ranks did not start"
        time.sleep(0.02)


def call_soon(folder: Path, act) -> threading.Thread:
    """Calls `act` from another thread once two ranks have left a file in `folder`."""

    def when_started() -> None:
        wait_for(folder, count=2)
        act()

    thread = threading.Thread(target=when_started)
    thread.start()
    return thread


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_are_kept_over_many_jobs(pool, ranks):
    first = pool(ranks).run("parallel.jobs:who")
    assert [answer["rank"] for answer in first] == list(range(ranks))
    assert {(answer["ranks"], answer["threads"]) for answer in first} == {(ranks, 1)}
    assert all(pool(ranks).run("parallel.jobs:who") == first for _ in range(20))
    assert [answer["pid"] for answer in first] == pool(ranks).pids


def test_arguments_and_results_travel_as_json(pool):
    value = {"text": "ü", "nothing": None, "rows": [[1, 2.5]] * 100_000, "nan": float("inf")}
    assert pool(2).run("parallel.jobs:echo", value=value) == [value, value]


def test_ranks_work_where_their_owner_is(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {answer["folder"] for answer in pool(2).run("parallel.jobs:who")} == {os.getcwd()}


def test_a_job_runs_in_another_thread(pool):
    results = []
    thread = threading.Thread(target=lambda: results.append(pool(2).run("parallel.jobs:echo", value=3)))
    thread.start()
    thread.join()
    assert results == [[3, 3]]


def test_a_pool_works_beside_an_event_loop_and_its_threads():
    """As in a notebook, where a cell runs inside the loop of the main thread."""

    async def cell() -> tuple[list, list, int]:
        await asyncio.to_thread(time.sleep, 0)  # the loop has a thread of its own from here on
        ticks = 0
        with Pool(2, threads=1, preload=LIGHT) as pool:
            inside = pool.run("parallel.jobs:rank_sum")
            beside = asyncio.create_task(asyncio.to_thread(pool.run, "parallel.jobs:device_sum"))
            while not beside.done():
                ticks += 1
                await asyncio.sleep(0.001)
            return inside, await beside, ticks

    inside, beside, ticks = asyncio.run(cell())
    assert inside == [[2, 1]] * 2 and len(beside) == 2 and ticks > 0


def test_run_here_is_what_a_rank_does():
    assert launch.run_here("parallel.jobs:echo", alone(), value=(1,)) == (1,)


def test_threads_share_the_usable_cores(monkeypatch):
    monkeypatch.setattr(launch.machine, "cores_usable", lambda: 7)
    for ranks, threads in ((1, 7), (2, 3), (8, 1)):
        with Pool(ranks, preload=()) as pool:
            assert pool.threads == threads


def test_a_pool_of_no_ranks_is_refused():
    with pytest.raises(errors.ConfigError, match="ranks: 0 processes"):
        Pool(0)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("parallel.jobs:nothing", "job 'parallel.jobs:nothing': no function 'nothing' in 'parallel.jobs'"),
        ("parallel.nowhere:who", "job 'parallel.nowhere:who': no module 'parallel.nowhere'"),
        ("parallel.jobs", "job 'parallel.jobs': no function '' in 'parallel.jobs'; write package.module:function"),
        ("", "job '': no function '' in ''"),
    ],
)
def test_a_job_that_does_not_exist_is_refused_and_the_ranks_are_kept(pool, job, message):
    kept = pool(2)
    with pytest.raises(errors.ConfigError) as caught:
        kept.run(job)
    assert str(caught.value).startswith(message)
    assert kept.is_open and pool(2) is kept


def test_errors_of_ours_keep_their_class_and_carry_the_ranks_traceback(pool):
    with pytest.raises(errors.DataError, match=r"^photos/cat\.jpg is empty$") as caught:
        pool(2).run("parallel.jobs:refuse")
    assert "in refuse" in caught.value.rank_traceback
    with pytest.raises(errors.ConfigError, match=r"^lr: -1$"):
        pool(2).run("parallel.jobs:refuse_narrowly")
    assert pool(2).run("parallel.jobs:rank_sum") == [[2, 1]] * 2


def test_an_argument_that_json_cannot_say_is_the_callers_error(pool):
    with pytest.raises(TypeError, match="not JSON serializable"):
        pool(2).run("parallel.jobs:echo", value=b"bytes")
    assert pool(2).run("parallel.jobs:echo", value="text") == ["text", "text"]


def test_a_result_that_json_cannot_say_names_its_rank(own_pool):
    with pytest.raises(
        errors.TrainingError, match=r"rank [01] failed: TypeError: Object of type dict_keys is not JSON"
    ):
        own_pool.run("parallel.jobs:not_json")


@pytest.mark.parametrize("wait", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_rank_that_raises_does_not_leave_the_others_waiting(own_pool, wait):
    start = time.monotonic()
    with pytest.raises(errors.TrainingError, match=r"^rank 1 failed: ValueError: no such thing$") as caught:
        own_pool.run("parallel.jobs:fail_on", rank=1, wait=wait)
    assert time.monotonic() - start < launch.SETTLE_S + DEATH_S
    assert "in fail_on" in caught.value.rank_traceback
    assert not own_pool.is_open and gone(own_pool.pids)
    with pytest.raises(errors.TrainingError, match="was closed; open a new one"):
        own_pool.run("parallel.jobs:who")


def test_the_rank_that_failed_first_is_named(own_pool, tmp_path):
    with pytest.raises(errors.TrainingError, match="rank 1 failed: ValueError: from 1"):
        own_pool.run("parallel.jobs:fail_one_after_another", failing=str(tmp_path / "failing"))


ENDS = {
    "SIGKILL": (-9, "rank 1 was killed by SIGKILL (out of memory? try a smaller batch_size, or fewer ranks)"),
    "SIGSEGV": (-11, "rank 1 was killed by SIGSEGV (a crash in compiled code; its stack is on standard error)"),
    "exit": (7, "rank 1 exited with code 7 in the middle of a job"),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_a_rank_ended_is_said_in_words(how):
    code, message = ENDS[how]
    assert str(zygote.verdict({}, {1: code}, ranks=2)) == message


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow] * (how != "SIGKILL")) for how in ENDS])
def test_a_rank_that_ends_is_noticed_at_once(own_pool, how):
    start = time.monotonic()
    with pytest.raises(errors.TrainingError) as caught:
        own_pool.run("parallel.jobs:end_on", rank=1, how=how)
    assert str(caught.value) == ENDS[how][1]
    assert time.monotonic() - start < DEATH_S
    assert gone(own_pool.pids)


def test_a_rank_that_ended_between_jobs_is_noticed_by_the_next(own_pool):
    os.kill(own_pool.pids[0], signal.SIGKILL)
    with pytest.raises(errors.TrainingError, match="rank 0 was killed by SIGKILL"):
        own_pool.run("parallel.jobs:rank_sum")


def test_a_module_that_cannot_be_imported_ends_the_pool(capfd):
    with Pool(2, preload=("fanlight.nowhere",)) as pool, pytest.raises(errors.TrainingError, match="could not start"):
        pool.run("parallel.jobs:who")
    assert "No module named 'fanlight.nowhere'" in capfd.readouterr().err


def test_close_leaves_no_process_and_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    children = set(psutil.Process().children(recursive=True))
    pool = Pool(3, threads=1, preload=LIGHT)
    started = pool.run("parallel.jobs:start_a_child")
    mine = set(psutil.Process().children(recursive=True)) - children
    assert len(mine) == 1 + 3 + 3  # the zygote, its ranks, and what they started
    assert psutil.Process(pool.pids[0]).parent().num_threads() == 1
    pool.close()
    pool.close()
    assert not any(process.is_running() for process in mine if process.pid not in started)
    assert gone(started)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_was_never_used_waits_for_nothing(tmp_path, monkeypatch):
    """Neither the constructor nor `close` for an import that never ends."""
    (tmp_path / "endless.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.syspath_prepend(tmp_path)
    pool = Pool(2, preload=("endless",))
    assert pool.is_open and pool.pids == []
    pool.close()
    assert not pool.is_open


def test_a_pool_is_closed_from_another_thread_while_a_job_runs(own_pool, tmp_path):
    thread = call_soon(tmp_path, own_pool.close)
    with pytest.raises(errors.TrainingError, match="the process that holds the ranks ended"):
        own_pool.run("parallel.jobs:wait_in_collective", started=str(tmp_path))
    thread.join()
    assert gone(own_pool.pids)


def test_ranks_end_with_an_owner_that_was_killed(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from fanlight.parallel.launch import Pool\n"
        "Pool(2, threads=1, preload=('torch',)).run('parallel.jobs:wait_in_collective', started=sys.argv[2])\n"
    )
    started, temporary = tmp_path / "started", tmp_path / "temporary"
    started.mkdir()
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script, Path(__file__).parents[1], started], env={**os.environ, "TMPDIR": str(temporary)}
    ) as owner:
        wait_for(started, count=2)
        family = [process.pid for process in psutil.Process(owner.pid).children(recursive=True)]
        assert len(family) == 3
        owner.kill()
    assert gone(family)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_forwarded_once_and_ranks_stop_in_their_own_way(own_pool, tmp_path, number):
    before = signal.getsignal(number)
    thread = call_soon(tmp_path, lambda: os.kill(os.getpid(), number))
    with pytest.raises(errors.Stopped, match=r"^saved after 1 request$"):
        own_pool.run("parallel.jobs:until_asked", started=str(tmp_path), heed=True)
    thread.join()
    assert signal.getsignal(number) is before
    assert own_pool.run("parallel.jobs:rank_sum") == [[2, 1]] * 2


def test_stop_does_from_any_thread_what_a_signal_does(own_pool, tmp_path):
    thread = call_soon(tmp_path, own_pool.stop)
    with pytest.raises(errors.Stopped):
        own_pool.run("parallel.jobs:until_asked", started=str(tmp_path), heed=True)
    thread.join()


@pytest.mark.parametrize(
    ("job", "arguments"), [("until_asked", {"heed": False}), ("wait_in_collective", {})], ids=["returns", "no handler"]
)
def test_a_signal_that_ranks_do_not_heed_goes_its_usual_way(own_pool, tmp_path, job, arguments):
    thread = call_soon(tmp_path, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        own_pool.run(f"parallel.jobs:{job}", started=str(tmp_path), **arguments)
    thread.join()
    assert not own_pool.is_open and gone(own_pool.pids)


def test_a_second_signal_kills_at_once(own_pool, tmp_path):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = call_soon(tmp_path, twice)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        own_pool.run("parallel.jobs:deaf", started=str(tmp_path))
    thread.join()
    assert time.monotonic() - start < 0.5 + DEATH_S
    assert gone(own_pool.pids)


def test_ranks_that_do_not_stop_in_time_are_killed(tmp_path):
    with Pool(2, threads=1, preload=LIGHT, grace_s=0.3) as pool:
        thread = call_soon(tmp_path, pool.stop)
        with pytest.raises(errors.TrainingError, match="was asked to stop"):
            pool.run("parallel.jobs:deaf", started=str(tmp_path))
        thread.join()
