"""Dense layers against their definition, PyTorch and differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanlight.scratch.operators import LOOPS
from scratch.differences import BACKENDS, FAST, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, error, numbers, slope


def results(backend, x, weight, bias, *, relu=False):
    y = backend.linear(x, weight, bias, relu=relu)
    grad = numbers(*y.shape, seed=3, dtype=x.dtype)
    return (
        y, backend.linear_input(grad, weight), backend.linear_weight(grad, x), backend.linear_bias(grad),
    )  # fmt: skip


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_all_backends_give_what_the_definition_gives(rows, inputs, outputs, has_bias, relu):
    case = numbers(rows, inputs), numbers(outputs, inputs, seed=1), numbers(outputs, seed=2) if has_bias else None
    wanted = results(LOOPS, *case, relu=relu)
    for backend in FAST:
        for found, want in zip(results(backend, *case, relu=relu), wanted, strict=True):
            assert error(found, want) < FP64_RTOL


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (255, 257, 31), (37, 1021, 10), (1, 4096, 257)])
@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_odd_shapes_are_as_in_pytorch(backend, rows, inputs, outputs):
    arrays = [
        numbers(*shape, seed=seed, dtype="float32")
        for seed, shape in enumerate([(rows, inputs), (outputs, inputs), (outputs,)])
    ]
    given_ = [torch.from_numpy(each.copy()).requires_grad_() for each in arrays]
    y = F.linear(*given_)
    y.backward(torch.from_numpy(numbers(rows, outputs, seed=3, dtype="float32")))
    for found, want in zip(results(backend, *arrays), (y, *(each.grad for each in given_)), strict=True):
        assert error(found, want.detach().numpy()) < FP32_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_gradients_are_slopes(backend):
    x, weight, bias = numbers(3, 5), numbers(4, 5, seed=1), numbers(4, seed=2)
    _, dx, dweight, dbias = results(backend, x, weight, bias)
    along = numbers(3, 4, seed=3)
    assert error(dx, slope(lambda x: backend.linear(x, weight, bias), x, along)) < SLOPE_RTOL
    assert error(dweight, slope(lambda weight: backend.linear(x, weight, bias), weight, along)) < SLOPE_RTOL
    assert error(dbias, slope(lambda bias: backend.linear(x, weight, bias), bias, along)) < SLOPE_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to_and_nan_stays(backend):
    x, weight, grad = numbers(3, 5), numbers(4, 5, seed=1), numbers(3, 4)
    x[0, 0] = np.nan
    out = np.empty((3, 4))
    assert backend.linear(x, weight, relu=True, out=out) is out
    assert np.isnan(out[0]).all() and (out[1:] >= 0).all()
    for call, shape in (
        (lambda out: backend.linear_input(grad, weight, out=out), (3, 5)),
        (lambda out: backend.linear_weight(grad, x, out=out), (4, 5)),
        (lambda out: backend.linear_bias(grad, out=out), (4,)),
    ):
        out = np.empty(shape)
        assert call(out) is out


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_shapes_that_do_not_fit_are_named(backend):
    with pytest.raises(ValueError, match=r"weights of \[4, 6\] do not fit rows of \[3, 5\]"):
        backend.linear(numbers(3, 5), numbers(4, 6))
    with pytest.raises(ValueError, match=r"bias of \[1\] does not fit weights of \[4, 5\]: \[4\] is needed"):
        backend.linear(numbers(3, 5), numbers(4, 5), numbers(1))
    with pytest.raises(ValueError, match=r"gradient of \[2, 4\] does not fit rows of \[3, 5\] .*: \[3, 4\] is needed"):
        backend.linear_weight(numbers(2, 4), numbers(3, 5))
    with pytest.raises(ValueError, match=r"gradient of \[2, 3\] does not fit .*: \[2, 4\] is needed"):
        backend.linear_input(numbers(2, 3), numbers(4, 5))
    with pytest.raises(ValueError, match=r"gradient of a dense layer has the shape \[N, O\], got \[2, 3, 1\]"):
        backend.linear_bias(numbers(2, 3, 1))
