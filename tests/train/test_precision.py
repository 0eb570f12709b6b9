"""Number formats: what is refused, what a forward computes in, and when a short one is chosen."""

import pytest
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.train import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "device"), [("fp32", CPU), ("bf16", CPU), ("fp32", GPU), ("bf16", GPU), ("fp16", GPU)]
)
def test_formats_that_a_device_trains_in(name, device):
    precision.check(name, device.type)


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("fp8", CPU, r"train.precision is 'fp8'; use one of fp32, bf16, fp16"),
        ("tf32", GPU, r"train.precision is 'tf32'; use one of fp32, bf16, fp16"),
        ("fp16", CPU, r"'fp16', which CPUs do not train in; use bf16 or fp32, or --device cuda"),
    ],
)
def test_formats_that_are_refused(name, device, message):
    with pytest.raises(ConfigError, match=message):
        precision.check(name, device.type)


@pytest.mark.parametrize(("name", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_computes_in_the_format_and_weights_stay_in_fp32(name, expected):
    model, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    with precision.autocast(name, CPU):
        product = model(torch.randn(3, 4))
        output = norm(product)
    assert product.dtype == expected
    output.float().sum().backward()
    assert {p.dtype for p in [*model.parameters(), *norm.parameters(), norm.running_mean]} == {torch.float32}
    assert {p.grad.dtype for p in [*model.parameters(), *norm.parameters()]} == {torch.float32}


def test_fp32_leaves_fp64_alone():
    """Proofs of equality run the whole step in fp64."""
    with precision.autocast("fp32", CPU):
        assert nn.Linear(4, 4).double()(torch.randn(3, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("seconds", "name", "words"),
    [
        ({torch.float32: 3.0, torch.bfloat16: 1.0}, "bf16", "takes 1/3.0 of fp32's time here; measured"),
        ({torch.float32: 1.1, torch.bfloat16: 1.0}, "fp32", "takes 1/1.1 of fp32's time here; measured"),
        ({torch.float32: 1.0, torch.bfloat16: 4.0}, "fp32", "takes 4.0× fp32's time here; measured"),
    ],
)
def test_a_cpu_is_measured(monkeypatch, seconds, name, words):
    monkeypatch.setattr(precision, "_seconds", seconds.get)
    chosen, reason = precision.fastest(CPU)
    assert chosen == name and reason.endswith(words)


def test_this_machine_can_be_measured():
    chosen, reason = precision.fastest(CPU)
    assert chosen in ("fp32", "bf16") and "measured" in reason


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
)
def test_a_gpu_is_asked(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    chosen, reason = precision.fastest(GPU)
    assert chosen == expected and reason.startswith("Some GPU ")
