"""Processes that torchrun started: recognised, joined, and what is wrong with their variables named."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fanlight import errors
from fanlight.parallel import comm, launch


def test_torchrun_is_recognised_by_its_variables(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        assert not launch.under_torchrun()
        monkeypatch.setenv(name, "1")
    assert launch.under_torchrun()


def test_ranks_that_torchrun_started_join(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fanlight.parallel import launch\n"
        "assert launch.under_torchrun()\n"
        "world = launch.from_environment('cpu', threads=1)\n"
        "who, total = (launch.run_here(f'parallel.jobs:{job}', world) for job in ('who', 'rank_sum'))\n"
        'print(f\'{who["rank"]} of {who["ranks"]}, threads {who["threads"]}, {total}\\n\', end=\'\', flush=True)\n'
        "launch.end_rank(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{rank} of 2, threads 1, [2.0, 1.0]" for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("RANK", "x", "from 0 to 1"), ("RANK", "2", "from 0 to 1"), ("LOCAL_RANK", "", "from 0 to 1"),
        ("WORLD_SIZE", "0", "from 1 to more"), ("LOCAL_WORLD_SIZE", "3", "from 1 to 2"), ("MASTER_PORT", None, "from 0 to"),
    ],
)  # fmt: skip
def test_wrong_variables_of_torchrun_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, range_: str
) -> None:
    right = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for key, text in (right | {name: value}).items():
        monkeypatch.setenv(key, text) if text is not None else monkeypatch.delenv(key, raising=False)
    with pytest.raises(
        errors.ConfigError, match=f"the environment variable {name} is '{value or ''}'; torchrun sets it {range_}"
    ):
        launch.from_environment("cpu")


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        place = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for name, text in place.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(
            errors.ConfigError,
            match=f"^MASTER_PORT {port}: another program on 127.0.0.1 listens there; set MASTER_PORT to a free port",
        ):
            launch.from_environment("cpu", threads=torch.get_num_threads())


def test_ranks_that_do_not_meet_name_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("timed out after 600 s\nat frame 1")

    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "nowhere", "MASTER_PORT": "29500"}
    for name, text in place.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(comm, "join", fail)
    with pytest.raises(
        errors.TrainingError,
        match=r"^rank 1 could not meet the others at nowhere, port 29500 \(MASTER_ADDR, MASTER_PORT\): timed out after 600 s;",
    ):
        launch.from_environment("cpu", threads=torch.get_num_threads())
