"""Batch norms against their definition, PyTorch and differences, in training and with fixed statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanlight.scratch.operators import LOOPS
from scratch.differences import BACKENDS, FAST, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, error, numbers, slope


def results(backend, x, weight, bias):
    grad = numbers(*x.shape, seed=3, dtype=x.dtype)
    y, mean, var = backend.batch_norm(x, weight, bias)
    given_mean, given_var = mean + 1, 2 * var + 1
    return (
        y, mean, var, *backend.batch_norm_backward(grad, x, weight, mean, var),
        backend.batch_norm_fixed(x, weight, bias, given_mean, given_var),
        *backend.batch_norm_fixed_backward(grad, x, weight, given_mean, given_var),
    )  # fmt: skip


def torch_results(x, weight, bias):
    flat = x.astype(np.float64).swapaxes(0, 1).reshape(x.shape[1], -1)
    mean, var = flat.mean(axis=1).astype(x.dtype), flat.var(axis=1).astype(x.dtype)
    found = []
    for training in (True, False):
        given_ = [torch.from_numpy(each.copy()).requires_grad_() for each in (x, weight, bias)]
        statistics = [torch.from_numpy(each) for each in (mean + 1, 2 * var + 1)]
        y = F.batch_norm(given_[0], *(each.clone() for each in statistics), *given_[1:], training=training)
        y.backward(torch.from_numpy(numbers(*x.shape, seed=3, dtype=x.dtype)))
        found += [y.detach().numpy(), *([mean, var] if training else []), *(each.grad.numpy() for each in given_)]
    return found


def case(*shape, dtype="float64"):
    return (
        3 * numbers(*shape, dtype=dtype) + 2,
        numbers(shape[1], seed=1, dtype=dtype),
        numbers(shape[1], seed=2, dtype=dtype),
    )


@given(st.integers(2, 4), st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2))
@settings(max_examples=30)
def test_all_backends_give_what_the_definition_gives(rows, channels, image):
    wanted = results(LOOPS, *case(rows, channels, *image))
    for backend in FAST:
        for found, want in zip(results(backend, *case(rows, channels, *image)), wanted, strict=True):
            assert (
                np.linalg.norm(found - want) <= FP64_RTOL * np.linalg.norm(want) + 1e-12
            )  # two rows: gradients near 0


@pytest.mark.parametrize("shape", [(5, 1), (255, 3), (7, 13, 31, 37), (2, 5, 257, 3), (3, 64, 1, 1)])
@pytest.mark.parametrize("backend", FAST, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_as_in_pytorch(backend, shape, dtype):
    for found, want in zip(results(backend, *case(*shape, dtype=dtype)), torch_results(*case(*shape, dtype=dtype))):
        assert error(found, want) < (FP32_RTOL if dtype == "float32" else FP64_RTOL)


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("is_fixed", [False, True])
def test_gradients_are_slopes(backend, is_fixed):
    x, weight, bias = case(3, 2, 2, 3)
    _, mean, var = backend.batch_norm(x, weight, bias)
    along = numbers(*x.shape, seed=3)

    def forward(x=x, weight=weight, bias=bias):
        if is_fixed:
            return backend.batch_norm_fixed(x, weight, bias, mean, var)
        return backend.batch_norm(x, weight, bias)[0]

    backward = backend.batch_norm_fixed_backward if is_fixed else backend.batch_norm_backward
    dx, dweight, dbias = backward(along, x, weight, mean, var)
    assert error(dx, slope(lambda x: forward(x=x), x, along)) < SLOPE_RTOL
    assert error(dweight, slope(lambda weight: forward(weight=weight), weight, along)) < SLOPE_RTOL
    assert error(dbias, slope(lambda bias: forward(bias=bias), bias, along)) < SLOPE_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_are_pytorch_s(backend, momentum):
    x, weight, bias = case(4, 3, 5)
    running = [np.zeros(3), np.ones(3)]
    given_ = [torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    for _ in range(2):
        _, mean, var = backend.batch_norm(x, weight, bias)
        backend.batch_norm_running(*running, mean, var, count=20, momentum=momentum)
        F.batch_norm(torch.from_numpy(x), *given_, training=True, momentum=momentum)
    for found, want in zip(running, given_):
        assert error(found, want.numpy()) < FP64_RTOL


@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_a_large_mean_leaves_the_variance_its_digits(backend):
    x = numbers(64, 2, 9, 9, dtype="float32") + np.float32(1000)
    _, mean, var = backend.batch_norm(x, np.ones(2, "f"), np.zeros(2, "f"))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(var, exact.var(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to_and_misfits_are_named(backend):
    x, weight, bias = case(2, 3, 4)
    out = np.empty_like(x)
    _, mean, var = backend.batch_norm(x, weight, bias, out=out)
    assert error(out, backend.batch_norm(x, weight, bias)[0]) == 0
    assert backend.batch_norm_fixed(x, weight, bias, mean, var, out=out) is out
    assert backend.batch_norm_backward(x, x, weight, mean, var, out=out)[0] is out
    with pytest.raises(ValueError, match=r"weight of \[2\] does not fit values of \[2, 3, 4\]: \[3\] is needed"):
        backend.batch_norm(x, weight[:2], bias)
    with pytest.raises(ValueError, match=r"var of \[2\] does not fit values of \[2, 3, 4\]: \[3\] is needed"):
        backend.batch_norm_fixed(x, weight, bias, mean, var[:2])
    with pytest.raises(ValueError, match=r"\[2, 3, 4\] beside \[2, 3, 3\]"):
        backend.batch_norm_backward(x[:, :, :3], x, weight, mean, var)
    with pytest.raises(ValueError, match=r"\[N, C, …\], got \[3\]"):
        backend.batch_norm(weight, weight, bias)
    with pytest.raises(ValueError, match=r"\[2\] beside \[3\]: both are of one shape"):
        backend.batch_norm_running(mean.copy(), var.copy(), mean, var[:2], count=8)
    with pytest.raises(ValueError, match=r"running statistics have the shape \[C\], got \[3, 1\]"):
        backend.batch_norm_running(mean[:, None].copy(), var, mean, var, count=8)
    with pytest.raises(ValueError, match="of one value or more, got 0"):
        backend.batch_norm_running(mean.copy(), var.copy(), mean, var, count=0)
