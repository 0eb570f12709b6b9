"""Whole networks on the tables of operators: gradients, evaluation, memory, and fifty steps, beside torch's modules."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fanlight import config as configuration
from fanlight.scratch import operators
from fanlight.scratch.backends import Arrays, Memory, threads
from fanlight.scratch.step import Mover
from scratch.differences import FP64_RTOL, SLOPE_RTOL, error
from scratch.steps import Sample, curve, gradients

EVERYTHING = (
    "conv4k3p1 bn relu [ conv4k3p1g2 bn tanh ] pool2 [ gelu [ relu ] dropout.25 ] dropout.375 tanh conv6k2 gelu avgpool2s1p1 "
    "bn relu dropout.5 dense7 relu dropout.125 dense6 bn tanh dense"
)
TINY = "conv2k3 relu pool2 dense4 tanh dense"
OTHERS = ["pool2 conv3k3s2p1 relu pool dense", "dropout.5 relu [ conv3k1 relu ] avgpool dense", "tanh dense"]
CURVE_RTOL = 1e-8  # over 50 steps in double precision; 3e-12 at worst: sums run in another order
FP32_CURVE_RTOL = 2e-3  # 2e-5 at worst over 50 steps


@pytest.fixture(autouse=True)
def one_thread():
    """Of every library: several would wait for each other on a machine that does other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threads("numba", 1):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "backend", "sizes"),
    [(EVERYTHING, "numpy", [5]), (EVERYTHING, "numba", [3, 4]), (TINY, "loops", [2, 1]), (TINY, "numpy", [1]),
     *((text, "numpy", [2, 3]) for text in OTHERS)],
)  # fmt: skip
def test_gradients_sums_and_statistics_are_torch_s(text, backend, sizes):
    sample = Sample(text, px=6 if text == TINY else 9, weights=(1.0, 0.5, 2.0))
    step, wanted = sample.step(backend), sample.step("torch")
    for number in (0, 1):  # the second step uses the first one's rooms
        batch = sample.batch(sizes, number=number)
        (found_sums, found), (wanted_sums, right) = gradients(step, batch), gradients(wanted, batch)
        assert found_sums == pytest.approx(wanted_sums, rel=FP64_RTOL)
        assert max(error(found[name], right[name]) for name in right if np.abs(right[name]).max() > 1e-12) < 1e-10
    for (name, one), other in zip(step.parts[0].named_buffers(), wanted.parts[0].buffers(), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=FP64_RTOL, atol=1e-14), name
    rows = sample.batch([4], number=2).parts[0]
    with step.evaluating(), wanted.evaluating():
        assert error(step.forward(rows).numpy(), wanted.forward(rows).numpy()) < FP64_RTOL


def test_a_rate_that_is_no_short_fraction_drops_the_same_numbers():
    """Values that are kept grow by 1/(1 − rate), where the rate is rounded to the 24 bits that torch's hash has."""
    sample = Sample("dropout.3 dense", px=30)
    found, wanted = (gradients(sample.step(name), sample.batch([40]))[1]["1.weight"] for name in ("numpy", "torch"))
    assert 1e-12 < error(found, wanted) < 2e-7


def test_gradients_are_differences():
    """Of the summed loss, weight by weight, from values on both sides; formulas of neither torch nor ours go into it."""
    sample = Sample("conv3k3p1 bn tanh [ conv3k3p1 gelu ] avgpool2 dropout.2 dense5 tanh dense", px=6)
    step, batch = sample.step("numpy"), sample.batch([4])
    found = {name: value * batch.denominator for name, value in gradients(step, batch)[1].items()}
    for name, parameter in step.parts[0].named_parameters():
        flat = parameter.detach().view(-1)
        slopes = []
        for place in range(len(flat)):
            before, values = flat[place].item(), []
            for sign in (1, -1):
                flat[place] = before + sign * 1e-5
                values.append(gradients(step, batch)[0][0])
            flat[place] = before
            slopes.append((values[0] - values[1]) / 2e-5)
        assert error(np.array(slopes), found[name].reshape(-1)) < SLOPE_RTOL, name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fifty_steps_are_torch_s(optimizer):
    sample = Sample("conv4k3p1 bn relu [ conv4k3p1 gelu ] pool2 dropout.25 dense8 relu dense", px=8)
    wanted = curve(sample, "torch", optimizer=optimizer, steps=50, sizes=[5, 4])
    for backend in ("numpy", "numba"):
        found = curve(sample, backend, optimizer=optimizer, steps=50, sizes=[5, 4])
        assert found == pytest.approx(wanted, rel=CURVE_RTOL)
    assert wanted[-1] < 0.5 * wanted[0]


def test_fifty_steps_of_loops_are_torch_s():
    sample = Sample(TINY, px=6)
    wanted = curve(sample, "torch", optimizer="adamw", steps=50, sizes=[3])
    assert curve(sample, "loops", optimizer="adamw", steps=50, sizes=[3]) == pytest.approx(wanted, rel=CURVE_RTOL)


def test_fifty_steps_in_single_precision():
    sample = Sample("conv8k3 relu pool2 conv8k3 relu dense16 relu dense", px=12, dtype=torch.float32)
    wanted = curve(sample, "torch", optimizer="sgd", steps=50, sizes=[16])
    for backend in ("numpy", "numba"):
        found = curve(sample, backend, optimizer="sgd", steps=50, sizes=[16])
        assert found == pytest.approx(wanted, rel=FP32_CURVE_RTOL)


def test_rooms_are_made_once():
    sample = Sample("conv4k3 relu pool2 bn dense8 relu dense", px=10)
    step = sample.step("numpy")
    gradients(step, sample.batch([6]))
    rooms, bytes_first = step.memory.rooms(), step.memory.bytes
    arrays = {name: flat.ctypes.data for name, flat in step.memory._flat.items()}
    for sizes in ([6], [4], [1]):
        gradients(step, sample.batch(sizes))
        step.forward(sample.batch([5]).parts[0])
    assert step.memory.rooms() == rooms and step.memory.bytes == bytes_first
    assert {name: flat.ctypes.data for name, flat in step.memory._flat.items()} == arrays
    assert rooms["0 result"] == 6 * 4 * 8 * 8 * 8 and rooms["2 index"] == 6 * 4 * 4 * 4 * 2
    gradients(step, sample.batch([7]))
    assert step.memory.bytes > bytes_first


def test_a_gradient_that_is_not_finite_moves_nothing():
    sample = Sample(TINY, px=6)
    step = sample.step("numpy")
    before = copy.deepcopy(step.parts[0].state_dict())
    mover = Mover(
        [{"params": list(step.parts[0].parameters()), "weight_decay": 0.0}], configuration.Optim(name="sgd", lr=0.1),
        backend="numpy", arrays=step.arrays,
    )  # fmt: skip
    gradients(step, sample.batch([2]))
    mover.found_inf = torch.tensor(1.0)
    mover.step()
    assert all(
        torch.equal(value, before[name]) for name, value in step.parts[0].state_dict().items() if "num" not in name
    )
    mover.found_inf = torch.tensor(0.0)
    mover.step()
    assert not torch.equal(step.parts[0].state_dict()["0.weight"], before["0.weight"])


def test_a_table_with_convolution_and_pooling_in_one_is_asked_for_both(monkeypatch):
    sample = Sample("conv4k3 relu pool2 [ conv4k3p1 relu pool3s1p1 ] conv3k2 relu pool2 tanh dense", px=9)
    wanted = gradients(sample.step("torch"), sample.batch([3, 2]))
    apart = sample.step("numpy")
    fused = SimpleNamespace(**vars(operators.NUMPY))
    calls = []

    def conv2d_pooled(x, weight, bias=None, *, activation, out, index, **how):
        calls.append(activation)
        y = operators.NUMPY.conv2d(x, weight, bias, relu=True, **how)
        return operators.NUMPY.max_pool2d_index(y, 2, out=out, index=index)

    fused.conv2d_pooled = conv2d_pooled
    monkeypatch.setattr(operators, "NUMPY", fused)
    step = sample.step("numpy")
    for found in (gradients(step, sample.batch([3, 2])), gradients(apart, sample.batch([3, 2]))):
        assert found[0] == pytest.approx(wanted[0], rel=FP64_RTOL)
        assert max(error(found[1][name], right) for name, right in wanted[1].items()) < 1e-10
    assert calls == ["relu"] * 4  # two such places, two microbatches
    assert step.memory.bytes < apart.memory.bytes


def test_rooms_of_a_gpu_s_table_are_tensors_channels_last():
    arrays = Arrays(SimpleNamespace(name="triton"), device=torch.device("cpu"))
    memory = Memory(arrays)
    like = torch.zeros(1, dtype=torch.float32)
    found = memory.room("a", (2, 3, 4, 5), like)
    assert found.shape == (2, 3, 4, 5) and found.is_contiguous(memory_format=torch.channels_last)
    assert memory.room("a", (1, 60), like).data_ptr() == found.data_ptr() and memory.bytes == 120 * 4
    assert memory.room("places", (2, 3), np.dtype(np.uint16)).dtype == torch.uint16
    keys = torch.tensor([-1, 5])
    assert arrays.keys(keys).dtype == torch.uint64 and arrays.tensor(found) is found
    assert arrays.of(torch.nn.Parameter(like)).data_ptr() == like.data_ptr()
