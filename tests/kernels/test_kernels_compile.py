"""Every kernel compiles, by `compiler`, for GPUs that users have."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from fanlight.kernels import rows
from kernels.interpreter import ROOT

SHARED_MOST = {80: 163 << 10, 90: 227 << 10}  # bytes that a program may have of a multiprocessor: A100, H100


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the other tests compile them")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", SHARED_MOST)
def test_every_kernel_compiles_and_fits(capability, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]), "TRITON_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "kernels.compiler", str(capability)], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row.file for row in rows.KERNELS} | {"augment"} <= {each["kernel"].partition(".")[0] for each in found}
    assert not [each for each in found if each["shared"] > SHARED_MOST[capability]]
