"""`kernels`: interpreted on the CPU, and compiled where there is a GPU. One interpreter for a session."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from kernels.interpreter import Compiled, Interpreted, Table

if importlib.util.find_spec("triton") is None:  # torch brings it on Linux only
    collect_ignore_glob = ["test_*.py"]

MODES = [
    "interpreted",
    pytest.param(
        "compiled",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")],
    ),
]


@pytest.fixture(scope="session", params=MODES)
def kernels(request: pytest.FixtureRequest) -> Iterator[Interpreted | Compiled]:
    found = Interpreted() if request.param == "interpreted" else Compiled()
    yield found
    found.close()


@pytest.fixture(scope="session")
def table(kernels: Interpreted | Compiled) -> Table:
    return Table(kernels)
