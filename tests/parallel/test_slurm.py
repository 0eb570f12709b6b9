"""Ranks that Slurm's srun started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight import machine
from fanlight.errors import ConfigError
from fanlight.parallel import launch, slurm
from train import colours as tiny

pytest_plugins = ["train.fixtures"]

# As srun sets it for task 5 of `srun --nodes 3 --ntasks 11`, in an allocation of the same size.
TASK = {
    "SLURM_JOB_ID": "40123", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_NTASKS": "11", "SLURM_TASKS_PER_NODE": "4(x2),3", "SLURM_JOB_NODELIST": "gpu[01-03]",
}  # fmt: skip
WORDS = st.text("abcxyz.-_", min_size=1, max_size=4)


@st.composite
def brackets(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Slurm's writing of some numbers, and the numbers."""
    words, found = [], []
    for _ in range(draw(st.integers(1, 3))):
        first, width = draw(st.integers(0, 120)), draw(st.integers(1, 4))
        last = first + draw(st.integers(0, 9))
        low = str(first).zfill(width)
        words.append(low if first == last else f"{low}-{last}")
        found += [f"{number:0{len(low)}d}" for number in range(first, last + 1)]
    return f"[{','.join(words)}]", found


@st.composite
def nodelists(draw: st.DrawFn) -> tuple[str, list[str]]:
    items, found = [], []
    for _ in range(draw(st.integers(1, 4))):
        text, names = "", [""]
        for part in draw(st.lists(st.one_of(WORDS, brackets()), min_size=1, max_size=3)):
            written, ends = (part, [part]) if isinstance(part, str) else part
            text += written
            names = [name + end for name in names for end in ends]
        items.append(text)
        found += names
    return ",".join(items), found


@given(nodelists())
def test_node_lists_are_read_as_they_were_written(case):
    text, names = case
    assert slurm.hosts(text) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu[01-03,7],login2", ["gpu01", "gpu02", "gpu03", "gpu7", "login2"]),
        ("rack[1-2]n[09-10].site", ["rack1n09.site", "rack1n10.site", "rack2n09.site", "rack2n10.site"]),
        ("localhost", ["localhost"]),
    ],
)
def test_node_lists_in_slurms_writing(text, names):
    assert slurm.hosts(text) == names


@pytest.mark.parametrize(
    "text",
    ["", "a,", "a b", "gpu[1-", "gpu[]", "gpu[3-1]", "gpu[1-99999999]", "gpu]1[", "n[1-999]m[1-999]", "gpu[a-b]"],
)
def test_what_is_no_node_list_is_refused(text):
    with pytest.raises(ValueError, match=r"is no host|is no range|more than"):
        slurm.hosts(text)


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 20)), min_size=1, max_size=5))
def test_tasks_per_node_are_read_as_they_were_written(runs):
    text = ",".join(f"{tasks}(x{times})" if times > 1 else str(tasks) for tasks, times in runs)
    assert slurm.tasks_per_node(text) == [tasks for tasks, times in runs for _ in range(times)]


def test_a_task_of_a_step_is_a_rank():
    assert slurm.is_rank(TASK)
    port = str(slurm.FIRST_PORT + (40123 * slurm.STEPS + 2) % slurm.PORTS)
    assert slurm.variables(TASK) == {
        "RANK": "5", "WORLD_SIZE": "11", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu01", "MASTER_PORT": port,
    }  # fmt: skip


@given(st.integers(0, 10**9), st.integers(0, slurm.STEPS - 1))
def test_ports_are_private_and_apart_for_the_steps_of_neighbouring_jobs(job, step):
    def port(job: int, step: int) -> int:
        return int(slurm.variables(TASK | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"])

    assert 49152 <= port(job, step) < 1 << 16
    neighbours = {port(job + near, each) for near in (0, 1) for each in (0, step)}
    assert len(neighbours) == (4 if step else 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"SLURM_NODEID": "2", "SLURM_PROCID": "8"}, {"RANK": "8", "LOCAL_WORLD_SIZE": "3"}),
        ({"SLURM_STEP_NODELIST": "gpu03,gpu01"}, {"MASTER_ADDR": "gpu03"}),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, {"WORLD_SIZE": "8"}),
        ({"SLURM_TASKS_PER_NODE": None, "SLURM_NTASKS_PER_NODE": "4"}, {"LOCAL_WORLD_SIZE": "4"}),
        ({"SLURM_NODEID": None}, {"LOCAL_WORLD_SIZE": "4"}),
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}),
    ],
)
def test_where_tasks_learn_what_differs(change, expected):
    found = slurm.variables(changed(change))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_PROCID": None, "SLURM_STEP_ID": None},  # a shell of salloc
        {"SLURM_PROCID": "0", "SLURM_STEP_ID": None},  # the body of a batch script
        {"SLURM_PROCID": "0", "SLURM_STEP_ID": str(0xFFFFFFFA)},  # a shell that salloc opened as a step of its own
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},  # srun --pty bash
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # one task in an allocation for more
    ],
)
def test_what_nobody_is_beside_is_no_rank(change):
    assert not slurm.is_rank(changed(change))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SLURM_NTASKS", "many", "it must be a number from 1 to more"),
        ("SLURM_PROCID", "11", "it must be a number from 0 to 10"),
        ("SLURM_LOCALID", "4", "it must be a number from 0 to 3"),
        ("SLURM_NODEID", "3", "it must be a number from 0 to 2"),
        ("SLURM_TASKS_PER_NODE", "4(x3)", "these are 12 tasks, and the step has 11"),
        ("SLURM_TASKS_PER_NODE", "4*2", "'4*2' is no number of tasks"),
        ("SLURM_JOB_NODELIST", "gpu[1-", "'gpu[1-' is no host; or set MASTER_ADDR to the host of task 0"),
        ("SLURM_JOB_ID", None, "it must be a number from 0 to more"),
    ],
)
def test_wrong_variables_of_slurm_are_named(name, value, why):
    with pytest.raises(ConfigError) as caught:
        slurm.variables(changed({name: value}))
    assert str(caught.value).startswith(f"the environment variable {name} is {value or ''!r}: {why}")
    assert str(caught.value).endswith("start the ranks with srun, or unset SLURM_PROCID and use --ranks")


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 4),  # a share of the node
        ({"SLURM_CPUS_ON_NODE": "16"}, 4),
        ({"SLURM_CPUS_ON_NODE": "64"}, 16),  # bound to its own
        ({"SLURM_CPUS_PER_TASK": "6"}, 6),
        ({"SLURM_CPUS_PER_TASK": "32"}, 16),
    ],
)
def test_threads_of_a_task(environment, threads):
    assert slurm.threads(environment, cores=16, local_ranks=4) == threads


def test_a_rank_is_joined_by_either_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", *slurm.OF_A_STEP):
        monkeypatch.delenv(name, raising=False)
    assert not launch.joined()
    with monkeypatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
            patch.setenv(name, "1")
        assert launch.joined()
    for name, text in TASK.items():
        monkeypatch.setenv(name, text)
    assert launch.joined() and not launch.under_torchrun()


def test_ranks_that_srun_started_join_and_end_together_when_one_stands_still(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fanlight.parallel import launch\n"
        "world = launch.from_environment('cpu', threads=1)\n"
        "assert launch.under_torchrun()\n"  # for whoever asks later how this process has to end
        "print(world.rank, world.local_ranks, launch.run_here('parallel.jobs:rank_sum', world), flush=True)\n"
        "launch.run_here('parallel.stall_jobs:never_join', world, rank=1)\n"
    )
    tasks, said = started([script], FANLIGHT_STALL_S="1.5")
    for rank, (out, err) in enumerate(said):
        assert out == f"{rank} 2 [2.0, 1.0]\n", err
    assert tasks[1].returncode == 1
    assert "rank 1 made no progress for" in said[1][1] and "after 2 steps (input)" in said[1][1]
    assert "in never_join" in said[1][1]
    assert tasks[0].returncode == 1  # by its own guard, or by an error of the collective that lost its partner


@pytest.mark.slow
def test_a_run_under_srun_takes_the_threads_that_slurm_gave(colours, own_place):
    options = {name: value for name, value in tiny.OPTIONS.items() if name != "threads"}
    words = ["-m", "fanlight", "train", str(colours), "--out", str(own_place / "run"), "--json", *tiny.flags(options)]
    tasks, said = started(words, SLURM_CPUS_PER_TASK=str(machine.cores_usable()))
    assert [task.returncode for task in tasks] == [0, 0], said
    assert json.loads(said[0][0])["ranks"] == 2 and said[1][0] == ""
    assert tiny.summary(own_place / "run")["status"] == "finished"
    assert tiny.resolved(own_place / "run")["execution"]["threads"] == machine.cores_usable()


def started(words: list, **more: str) -> tuple[list[subprocess.Popen], list[tuple[str, str]]]:
    """Python with these words as two tasks of one step on this machine: how they ended, and what they printed."""
    tasks = []
    for rank in range(2):
        task = {
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "localhost",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }  # fmt: skip
        environment = {**os.environ, **task, **more}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        tasks.append(subprocess.Popen([sys.executable, *words], env=environment, text=True, **pipes))
    try:
        return tasks, [task.communicate(timeout=100) for task in tasks]
    finally:
        for task in tasks:
            task.kill()


def changed(change: dict[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in (TASK | change).items() if text is not None}
