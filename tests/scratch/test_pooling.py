"""Poolings against their definition, PyTorch and differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanlight.scratch.operators import LOOPS
from scratch.differences import BACKENDS, FAST, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, apart, error, numbers, slope


@st.composite
def poolings(draw, *, side=12):
    """(x, window, options)"""
    window = draw(st.tuples(*[st.integers(1, 4)] * 2))
    stride = draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 4)] * 2)))
    padding = [draw(st.integers(0, size // 2)) for size in window]
    image = [draw(st.integers(max(1, size - 2 * around), side)) for size, around in zip(window, padding)]
    x = numbers(draw(st.integers(1, 2)), draw(st.integers(1, 3)), *image)
    if draw(st.booleans()):
        x = np.round(x)  # with ties
    return x, window, {"stride": stride, "padding": padding}


def results(backend, x, window, options):
    """Of both kinds: result and gradient; and of the largest, where they are."""
    largest, index = backend.max_pool2d_index(x, window, **options)
    grad = numbers(*largest.shape, seed=3, dtype=x.dtype)
    assert np.array_equal(backend.max_pool2d(x, window, **options), largest)
    assert index.dtype == np.uint16
    return (
        largest,
        backend.max_pool2d_backward(grad, index, window, image=x.shape[2:], **options),
        backend.avg_pool2d(x, window, **options),
        backend.avg_pool2d_backward(grad, window, image=x.shape[2:], **options),
        index.astype(x.dtype),
    )


def torch_results(x, window, options):
    found = []
    for pool in (F.max_pool2d, F.avg_pool2d):
        given_ = torch.from_numpy(x.copy()).requires_grad_()
        y = pool(given_, window, **options)
        y.backward(torch.from_numpy(numbers(*y.shape, seed=3, dtype=x.dtype)))
        found += [y.detach().numpy(), given_.grad.numpy()]
    return found


@given(poolings(side=8))
@settings(max_examples=30)
def test_all_backends_give_what_the_definition_gives(case):
    wanted = results(LOOPS, *case)
    for backend in FAST:
        for found, want in zip(results(backend, *case), wanted, strict=True):
            assert error(found, want) < FP64_RTOL


@given(poolings(side=40))
@settings(max_examples=60)
def test_gradients_are_those_of_pytorch_in_double_precision(case):
    """Of equals, the first is the largest; as in PyTorch."""
    for backend in FAST:
        for found, want in zip(results(backend, *case), torch_results(*case)):
            assert error(found, want) < FP64_RTOL


ODD = {
    "one pixel": ((1, 1, 1, 1), 1, {}),
    "2 by 2": ((3, 5, 254, 62), 2, {}),
    "255 wide": ((2, 3, 9, 255), 2, {}),
    "257 high": ((1, 4, 257, 7), 2, {"stride": 1}),
    "primes": ((2, 7, 31, 37), 3, {"stride": 2, "padding": 1}),
    "wide": ((2, 3, 30, 33), (5, 2), {"stride": (1, 3), "padding": (2, 1)}),
    "whole image": ((2, 6, 29, 23), (29, 23), {}),
    "gaps": ((1, 2, 31, 33), 2, {"stride": 5}),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_odd_shapes_are_as_in_pytorch(backend, name):
    image, window, options = ODD[name]
    x = numbers(*image, dtype="float32")
    wanted = torch_results(x, window, options)
    found = results(backend, x, window, options)
    assert np.array_equal(found[0], wanted[0])
    for each, want in zip(found, wanted):
        assert error(each, want) < FP32_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("options", [{}, {"stride": (1, 2), "padding": (1, 1)}])
def test_gradients_are_slopes(backend, options):
    x = apart(2, 2, 6, 7)
    _, dlargest, _, dmean, _ = results(backend, x, (2, 3), options)
    along = numbers(*backend.max_pool2d(x, (2, 3), **options).shape, seed=3)
    assert error(dlargest, slope(lambda x: backend.max_pool2d(x, (2, 3), **options), x, along)) < SLOPE_RTOL
    assert error(dmean, slope(lambda x: backend.avg_pool2d(x, (2, 3), **options), x, along)) < SLOPE_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_number_is_the_largest_and_nothing_is_larger_than_less_than_all(backend, dtype):
    for place in range(4):
        x = numbers(1, 1, 4, 4, dtype=dtype)
        x[0, 0, place // 2, place % 2] = np.nan
        x[0, 0, 2:, 2:] = -np.inf
        y, index = backend.max_pool2d_index(x, 2)
        assert np.isnan(y[0, 0, 0, 0]) and index[0, 0, 0, 0] == place
        assert not np.isnan(y[0, 0].ravel()[1:]).any()
        assert y[0, 0, 1, 1] == -np.inf and index[0, 0, 1, 1] == 0
        assert np.array_equal(backend.max_pool2d(x, 2), y, equal_nan=True)
    around = backend.max_pool2d_index(np.full((1, 1, 2, 2), -np.inf, dtype), 2, padding=1)[1]
    assert np.array_equal(around[0, 0], [[3, 2], [1, 0]])  # never the padding


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to(backend):
    x, grad = numbers(1, 2, 6, 6), numbers(1, 2, 3, 3)
    out, index = np.empty((1, 2, 3, 3)), np.empty((1, 2, 3, 3), np.uint16)
    found = backend.max_pool2d_index(x, 2, out=out, index=index)
    assert found[0] is out and found[1] is index
    dx = np.full_like(x, np.nan)
    assert backend.max_pool2d_backward(grad, index, 2, image=(6, 6), out=dx) is dx
    assert np.count_nonzero(dx) == 18
    assert backend.avg_pool2d_backward(grad, 2, image=(6, 6), out=dx) is dx
    assert dx.sum() == pytest.approx(grad.sum())
    assert backend.max_pool2d(x, 2, out=out) is out and backend.avg_pool2d(x, 2, out=out) is out


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_shapes_that_do_not_fit_are_named(backend):
    x, grad, index = numbers(1, 2, 6, 7), numbers(1, 2, 3, 3), np.zeros((1, 2, 3, 2), np.uint16)
    with pytest.raises(
        ValueError, match=r"sees 8 × 8 pixels, images of \[1, 2, 6, 7\] with padding \[0, 0\] have 6 × 7"
    ):
        backend.max_pool2d(x, 8)
    with pytest.raises(ValueError, match=r"padding \[2, 0\] is more than half of a window of \[3, 3\]"):
        backend.avg_pool2d(x, 3, padding=(2, 0))
    with pytest.raises(ValueError, match=r"index of \[1, 2, 3, 2\] does not fit .*: \[1, 2, 3, 3\] is needed"):
        backend.max_pool2d_backward(grad, index, 2, image=(6, 7))
    with pytest.raises(ValueError, match=r"gradient of \[1, 2, 3, 3\] does not fit .*: \[1, 2, 2, 2\] is needed"):
        backend.avg_pool2d_backward(grad, 3, image=(6, 7))
    with pytest.raises(ValueError, match="more than 65,536 pixels"):
        backend.max_pool2d_index(np.zeros((1, 1, 300, 300)), 300)
