"""Pools of ranks that are kept over the whole session: starting one costs seconds, a job on it milliseconds. And as many
threads for each process of tests as it has cores."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from fanlight import machine
from fanlight.parallel.launch import Pool

# A shell hands SIGINT down ignored to what it starts in the background; tests of Ctrl-C need it as a terminal gives it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of one process would spin while they wait for one whose core another process has; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Hypothesis would fail an example that takes .2 s: a busy machine is no error. All have 100 examples in `make test-all`.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("all", deadline=None)
settings.load_profile("quick")

PRELOAD = ("torch", "timm", "cv2", "fanlight.train.job")  # before ranks are forked: else each of them imports it
OF_MANY_RANKS = {"parallel", "test_ledger.py", "test_state.py"}  # folders and files


def pytest_configure(config: pytest.Config) -> None:
    """Before test files are imported, whose `@settings` begin with the profile of that time."""
    if config.getoption("markexpr") != "not slow":
        settings.load_profile("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of many ranks come first: of processes that share the tests (-n, --dist worksteal) one has them and the pools."""
    items.sort(key=lambda item: not OF_MANY_RANKS & {*item.path.parts})


@pytest.fixture(scope="session", autouse=True)
def own_cores() -> None:
    """Processes that share the tests (-n) share the cores: threads that wait for one that another process has spin."""
    if "torch" not in sys.modules:  # nobody computes
        return
    import threadpoolctl
    import torch

    threads = max(1, machine.cores_usable() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


@pytest.fixture(scope="session")
def pool() -> Iterator[Callable[[int], Pool]]:
    """pool(ranks): a Pool of one-thread CPU ranks, shared; a new one where a test has lost the last."""
    kept: dict[int, Pool] = {}

    def of(ranks: int) -> Pool:
        if ranks not in kept or not kept[ranks].is_open:
            kept[ranks] = Pool(ranks, threads=1, preload=PRELOAD)
        return kept[ranks]

    yield of
    for each in kept.values():
        each.close()
