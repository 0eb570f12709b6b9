"""The trainer with kernels of our own: interpreted, in a process of its own, they train what NumPy trains."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scratch.test_scratch_train import WEIGHTS_RTOL, distance, weights
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = [
    pytest.mark.usefixtures("own_place"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux only"),
]
ROOT = Path(__file__).resolve().parents[2]
NET = "conv4k3s2 relu pool2 dense"  # a convolution with its ReLU and pooling is one kernel
TINY = [
    "--net",
    NET,
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--limit",
    "12",
    "--image-size",
    "8",
    "--threads",
    "1",
    "--no-report",
    "--json",
]


def test_interpreted_kernels_train_numpy_s_run(fanlight, colours, own_place):
    answer = fanlight("scratch", "train", colours, *TINY, "--backend", "numpy", "--out", "numpy")
    assert answer.code == 0, answer.err
    done = subprocess.run(
        [sys.executable, "-m", "fanlight", "scratch", "train", str(colours), *TINY, "--backend", "triton", "--out", "triton"],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backend"] == "triton"
    assert distance(weights(own_place / "triton"), weights(own_place / "numpy")) < WEIGHTS_RTOL
    losses = [[record["loss"] for record in tiny.metrics(own_place / name)] for name in ("triton", "numpy")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
def test_compiled_kernels_train_numpy_s_run(fanlight, colours, own_place):
    for backend in ("numpy", "triton"):
        answer = fanlight("scratch", "train", colours, *TINY, "--backend", backend, "--out", backend)
        assert answer.code == 0, answer.err
    assert distance(weights(own_place / "triton"), weights(own_place / "numpy")) < WEIGHTS_RTOL
