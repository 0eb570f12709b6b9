"""That a real GPU's energy is counted, and of the GPU that the process sees."""

import time

import pytest
import torch

from fanlight.energy import Counters, Reading, Spent, between

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]
WATTS = (5.0, 1500.0)  # between them lies what any GPU takes while it computes


def test_a_gpu_that_computes_takes_what_gpus_take():
    counters = Counters(gpus=[f"GPU-{torch.cuda.get_device_properties(0).uuid}"])
    first = counters.read()
    if not isinstance(first, Reading) or "gpu" in first.lacking:
        pytest.skip(f"this GPU has no counter that can be read: {first}")
    x = torch.randn(4096, 4096, device="cuda")
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2:
        x = torch.nn.functional.normalize(x @ x)
        torch.cuda.synchronize()
    second = counters.read()
    assert isinstance(second, Reading)
    spent = between(first, second)
    assert isinstance(spent, Spent), spent
    assert WATTS[0] < spent.joules["gpu-0"] / spent.seconds < WATTS[1]
