"""Activations against PyTorch and differences, far from zero too."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scratch.differences import BACKENDS, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, apart, error, numbers, slope

NAMED = {"relu": (F.relu, "y"), "tanh": (torch.tanh, "y"), "gelu": (F.gelu, "x")}  # what the gradient is a formula of
FAR = np.array([-np.inf, -40.0, -9.0, -5.5, -1e-3, -1e-9, -0.0, 0.0, 1e-9, 1e-3, 0.6, 5.5, 9.0, 40.0, np.inf])


def backward(backend, name, grad, x):
    of = x if NAMED[name][1] == "x" else getattr(backend, name)(x)
    return getattr(backend, f"{name}_backward")(grad, of)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_as_in_pytorch(backend, name, dtype):
    rtol = FP32_RTOL if dtype == "float32" else FP64_RTOL
    for x in (2 * numbers(1, dtype=dtype), 2 * numbers(3, 5, 17, dtype=dtype), 2 * numbers(257, dtype=dtype)):
        grad = numbers(*x.shape, seed=1, dtype=dtype)
        given = torch.from_numpy(x.copy()).requires_grad_()
        y = NAMED[name][0](given)
        y.backward(torch.from_numpy(grad))
        assert error(getattr(backend, name)(x), y.detach().numpy()) < rtol
        assert error(backward(backend, name, grad, x), given.grad.numpy()) < rtol


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_values_keep_their_digits(backend, name, dtype):
    x = FAR[1:-1].astype(dtype)
    wanted = NAMED[name][0](torch.from_numpy(x.astype(np.float64))).numpy()
    limits = {"rtol": 2e-6 if dtype == "float32" else 1e-12, "atol": 1e-37}
    if name == "gelu":  # PyTorch's own takes 1 − Φ from 1
        limits["atol"] = 1e-14
    np.testing.assert_allclose(getattr(backend, name)(x), wanted, **limits)
    with np.errstate(invalid="ignore"):
        ends = getattr(backend, name)(FAR[[0, -1]].astype(dtype))
    assert ends[1] == (1 if name == "tanh" else np.inf)
    assert ends[0] == -1 if name == "tanh" else not ends[0] < 0  # −∞ · 0 of a GELU is no number, as in PyTorch
    assert np.isnan(getattr(backend, name)(np.array([np.nan], dtype)))[0]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_gradients_are_slopes(backend, name):
    x, along = 4 * apart(3, 17), numbers(3, 17, seed=1)
    assert error(backward(backend, name, along, x), slope(getattr(backend, name), x, along)) < SLOPE_RTOL


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to_also_over_what_they_came_from(backend, name):
    x, grad = numbers(4, 5), numbers(4, 5, seed=1)
    wanted, slopes = getattr(backend, name)(x), backward(backend, name, grad, x)
    of = (x if NAMED[name][1] == "x" else wanted).copy()
    own = x.copy()
    assert getattr(backend, name)(own, out=own) is own and np.array_equal(own, wanted)
    assert getattr(backend, f"{name}_backward")(grad, of, out=grad) is grad and np.array_equal(grad, slopes)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_shapes_that_do_not_fit_are_named(backend, name):
    with pytest.raises(ValueError, match=r"\[3, 1\] beside \[3, 4\]"):
        getattr(backend, f"{name}_backward")(numbers(3, 4), numbers(3, 1))
    with pytest.raises(ValueError, match=r"out of \[2\] float64 cannot take a result of \[3\] float64"):
        getattr(backend, name)(numbers(3), out=np.empty(2))
