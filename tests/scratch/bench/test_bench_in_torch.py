"""What the bench has PyTorch compute is what NumPy's operators compute, in both layouts."""

import numpy as np
import pytest
import torch

from fanlight.kernels import rows
from fanlight.scratch.bench import clock, contestants, in_torch, measured, subjects
from fanlight.scratch.bench.subjects import Call, Subject

LEFT = {"dropout", "dropout_keyed", "cross_entropy_backward"}  # PyTorch has none that does just that
OPERATORS = {row.operator: row for row in rows.KERNELS}


def tensors(given: list[Call], layout: str) -> list[Call]:
    return [Call(*each) for each in contestants._tensors(given, torch.float64, "cpu", contestants.LAYOUTS[layout])]


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - LEFT))
@pytest.mark.parametrize("layout", contestants.LAYOUTS)
def test_pytorch_computes_the_same(operator, layout):
    for case in OPERATORS[operator].odd:
        if case.name in ("primes", "7 x 7 by 2", "2 by 2"):
            given = subjects.calls(Subject(operator, "alone", (operator,), case))
            work = in_torch.work(tensors(given, layout))
            wanted = clock.arrays(measured._exact(given, torch.float32)())
            off = clock.error(clock.arrays(work()), wanted)
            assert off < 1e-9


@pytest.mark.parametrize("op", ["convolution", "dense"])
@pytest.mark.parametrize("layout", contestants.LAYOUTS)
def test_a_whole_backward_is_that_of_its_operators(op, layout):
    subject = subjects.GROUPS[op][1].part()
    given = subjects.calls(subject)
    assert given[0].args[0] is given[1].args[0], "one gradient arrives, not a copy for each"
    found = clock.arrays(in_torch.work(tensors(given, layout))())
    wanted = clock.arrays(measured._exact(given, torch.float32)())
    assert len(found) == len(wanted) == 3 and clock.error(found, wanted) < 1e-9


@pytest.mark.parametrize("operator", sorted(in_torch.FORMULAS))
def test_what_is_compiled_of_an_optimizer_computes_the_same(operator):
    given = subjects.calls(Subject(operator, "update", (operator,), OPERATORS[operator].odd[1]))
    wanted = clock.arrays(measured._exact(given, torch.float64)())
    placed = tensors(given, "NCHW")
    assert clock.error(clock.arrays(in_torch.work(placed, is_compiled=True)()), wanted) < 1e-12
    fused = tensors(given, "NCHW")
    in_torch.work(fused)()
    for one, other in zip(placed[0].args, fused[0].args, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("operator", sorted(LEFT))
def test_the_others_are_left_to_us(operator):
    given = subjects.calls(Subject(operator, "alone", (operator,), OPERATORS[operator].odd[1]))
    assert in_torch.work(tensors(given, "NCHW")) is None


def test_every_kernel_has_a_question():
    asked = {(subject.operators[0], subject.case.name) for subject in subjects.GROUPS["kernels"]}
    assert asked == {(row.operator, case.name) for row in rows.KERNELS for case in row.bench}


def test_bytes_are_of_arguments_and_results_each_once():
    subject = Subject("convolution", "backward", subjects.BACKWARD["conv2d"], rows.Case("", (2, 3, 5, 5), 4, (3, 3)))
    given = subjects.calls(subject)
    answers = clock.arrays(measured._exact(given, torch.float32)())
    x, weight, grad, bias = 2 * 3 * 25, 4 * 27, 2 * 4 * 9, 4
    assert measured._bytes(given, answers, itemsize=4) == 4 * (grad + weight + x + x + weight + bias)
    step = subjects.calls(Subject("sgd", "update", ("sgd",), rows.Case("", (7, 3))))
    assert measured._bytes(step, [np.zeros((7, 3))], itemsize=4) == 4 * 21 * 5  # w, g, v are read; w and v are written


def test_a_part_of_the_work_is_scaled_by_its_share():
    convolution = subjects.GROUPS["convolution"]
    assert [subject.parts() for subject in convolution] == [32 * 32, 32 * 32]
    assert convolution[0].part().case.shape == (1, 16, 100, 100) and convolution[0].part().case.outputs == 1
    assert convolution[0].flop == 2 * 32 * 32 * 98 * 98 * 16 * 9
    pooling, dense = subjects.GROUPS["pooling"][0], subjects.GROUPS["dense"][0]
    assert pooling.parts() == 64 * 16 and dense.parts() == 4 * 100 * 16
    assert dense.shape == "256×10,000 → 1,024" and pooling.shape == "64×32×200×200, 2×2"
