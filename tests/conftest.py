"""Pools of ranks that are kept over the whole session: starting one costs seconds, a job on it milliseconds."""

import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from fanlight.parallel.launch import Pool

# A shell hands SIGINT down ignored to what it starts in the background; tests of Ctrl-C need it as a terminal gives it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis would fail an example that takes .2 s: a busy machine is no error.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


@pytest.fixture(scope="session")
def pool() -> Iterator[Callable[[int], Pool]]:
    """pool(ranks): a Pool of one-thread CPU ranks, shared; a new one where a test has lost the last."""
    kept: dict[int, Pool] = {}

    def of(ranks: int) -> Pool:
        if ranks not in kept or not kept[ranks].is_open:
            kept[ranks] = Pool(ranks, threads=1, preload=("torch", "cv2"))
        return kept[ranks]

    yield of
    for each in kept.values():
        each.close()
