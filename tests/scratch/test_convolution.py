"""Convolutions against their definition, PyTorch and differences: strides, paddings, dilations, groups, odd sizes."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanlight.scratch.cpu import threads
from fanlight.scratch.operators import LOOPS, NUMBA, NUMPY
from scratch.differences import BACKENDS, FAST, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, error, numbers, slope


@st.composite
def convolutions(draw, *, side=9, channels=3):
    """(x, weight, bias, options): shapes that fit, and hardly more."""
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    image = [draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), side)) for k, d, p in zip(kernel, dilation, padding)]
    x = numbers(draw(st.integers(1, 2)), groups * draw(st.integers(1, channels)), *image)
    weight = numbers(groups * draw(st.integers(1, channels)), x.shape[1] // groups, *kernel, seed=1)
    bias = draw(st.sampled_from([None, numbers(len(weight), seed=2)]))
    return x, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def results(backend, x, weight, bias, options, *, relu=False):
    """Result, and the three gradients of Σ grad · result."""
    y = backend.conv2d(x, weight, bias, relu=relu, **options)
    grad = numbers(*y.shape, seed=3, dtype=x.dtype)
    return (
        y,
        backend.conv2d_input(grad, weight, image=x.shape[2:], **options),
        backend.conv2d_weight(grad, x, kernel=weight.shape[2:], **options),
        backend.conv2d_bias(grad),
    )


def torch_results(x, weight, bias, options):
    given_ = [torch.from_numpy(each.copy()).requires_grad_() for each in (x, weight, bias)]
    y = F.conv2d(*given_, **options)
    y.backward(torch.from_numpy(numbers(*y.shape, seed=3, dtype=x.dtype)))
    return [each.detach().numpy() for each in (y, *(each.grad for each in given_))]


@given(convolutions(side=7, channels=2), st.booleans())
@settings(max_examples=25)
def test_all_backends_give_what_the_definition_gives(case, relu):
    wanted = results(LOOPS, *case, relu=relu)
    for backend in FAST:
        for found, want in zip(results(backend, *case, relu=relu), wanted, strict=True):
            assert error(found, want) < FP64_RTOL


@given(convolutions(side=24, channels=17))
@settings(max_examples=60)
def test_gradients_are_those_of_pytorch_in_double_precision(case):
    x, weight, _, options = case
    bias = numbers(len(weight), seed=2)
    for backend in FAST:
        for found, want in zip(results(backend, x, weight, bias, options), torch_results(x, weight, bias, options)):
            assert error(found, want) < FP64_RTOL


@given(
    st.tuples(st.integers(8, 20), st.integers(8, 20), st.integers(1, 2)),
    st.tuples(st.integers(3, 21), st.integers(4, 50)),
    st.integers(1, 4), st.integers(1, 3), st.tuples(st.integers(0, 3), st.integers(3, 5)), st.booleans(),
    st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=40)
def test_kernels_of_three_rows_take_fewer_products_to_the_same_end(
    sizes, image, columns, dilation, padding, relu, count
):
    """Those of `winograd.fits`: channels enough, stride 1."""
    inputs, outputs, groups = sizes
    x, bias = numbers(count, groups * inputs, *image), numbers(groups * outputs, seed=2)
    weight = numbers(len(bias), inputs, 3, columns, seed=1)
    options = {"padding": padding, "dilation": (1, dilation), "groups": groups}
    wanted = results(NUMPY, x, weight, bias, options, relu=relu)
    for found, want in zip(results(NUMBA, x, weight, bias, options, relu=relu), wanted, strict=True):
        assert error(found, want) < FP64_RTOL


ODD = {  # images, filters, kernel, options
    "one pixel": ((1, 1, 1, 1), 1, (1, 1), {}),
    "255 wide": ((1, 3, 7, 255), 8, (3, 3), {"padding": 1}),
    "257 high": ((2, 5, 257, 6), 9, (3, 5), {"padding": (1, 2)}),
    "primes": ((3, 7, 31, 37), 13, (3, 3), {"stride": (2, 3), "padding": 1}),
    "7 x 7 by 2": ((2, 3, 61, 67), 17, (7, 7), {"stride": 2, "padding": 3}),
    "stride beyond the kernel": ((2, 4, 23, 29), 5, (2, 2), {"stride": (5, 3)}),
    "dilated": ((2, 6, 37, 41), 11, (3, 3), {"dilation": (2, 5), "padding": 4}),
    "dilated and strided": ((1, 4, 43, 40), 6, (3, 2), {"dilation": (3, 2), "stride": (2, 4), "padding": 2}),
    "each channel alone": ((2, 19, 17, 33), 38, (3, 3), {"groups": 19, "padding": 1}),
    "one by one": ((2, 65, 13, 16), 33, (1, 1), {}),
    "one by one by 2": ((2, 9, 15, 16), 10, (1, 1), {"stride": 2}),
    "more padding than kernel": ((1, 2, 3, 4), 3, (1, 2), {"padding": 4, "stride": 3}),
    "many channels": ((1, 130, 11, 12), 70, (3, 3), {"padding": 1}),
    "rows that do not fit": ((1, 300, 5, 240), 8, (3, 3), {"padding": 1}),
    "the benchmark's": ((2, 16, 100, 100), 32, (3, 3), {}),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_odd_shapes_are_as_in_pytorch(backend, name):
    image, filters, kernel, options = ODD[name]
    groups = options.get("groups", 1)
    x, bias = numbers(*image, dtype="float32"), numbers(filters, seed=2, dtype="float32")
    weight = numbers(filters, image[1] // groups, *kernel, seed=1, dtype="float32")
    for found, want in zip(results(backend, x, weight, bias, options), torch_results(x, weight, bias, options)):
        assert error(found, want) < FP32_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 1), "padding": (1, 2)}, {"dilation": 2, "padding": 2, "groups": 2}]
)
def test_gradients_are_slopes(backend, options):
    x, weight = numbers(2, 4, 6, 5), numbers(4, 4 // options.get("groups", 1), 3, 2, seed=1)
    bias = numbers(4, seed=2)
    y, dx, dweight, dbias = results(backend, x, weight, bias, options)
    along = numbers(*y.shape, seed=3)
    forward = NUMPY if backend is LOOPS else backend
    assert error(dx, slope(lambda x: forward.conv2d(x, weight, bias, **options), x, along)) < SLOPE_RTOL
    assert error(dweight, slope(lambda weight: forward.conv2d(x, weight, bias, **options), weight, along)) < SLOPE_RTOL
    assert error(dbias, slope(lambda bias: forward.conv2d(x, weight, bias, **options), bias, along)) < SLOPE_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to(backend):
    x, weight = numbers(1, 2, 5, 6), numbers(3, 2, 3, 3, seed=1)
    for found, want in zip(results(backend, x, weight, None, {}), results(LOOPS, x, weight, None, {})):
        assert error(found, want) < FP64_RTOL
    grad = numbers(1, 3, 3, 4)
    for call, shape in (
        (lambda out: backend.conv2d(x, weight, out=out), grad.shape),
        (lambda out: backend.conv2d_input(grad, weight, image=(5, 6), out=out), x.shape),
        (lambda out: backend.conv2d_weight(grad, x, kernel=(3, 3), out=out), weight.shape),
        (lambda out: backend.conv2d_bias(grad, out=out), (3,)),
    ):
        out = np.full(shape, np.nan)
        assert call(out) is out and error(out, call(None)) == 0


@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_views_are_taken_as_they_are(backend):
    x = numbers(6, 5, 3, 2).transpose(3, 2, 1, 0)
    weight = numbers(3, 3, 3, 8).transpose(3, 2, 1, 0)[::2]
    for found, want in zip(results(backend, x, weight, None, {}), results(LOOPS, x.copy(), weight.copy(), None, {})):
        assert error(found, want) < FP64_RTOL


def test_any_number_of_threads_gives_the_same_bits():
    x, weight, bias = numbers(5, 8, 30, 31, dtype="float32"), numbers(9, 8, 3, 3, dtype="float32"), None
    before = numba.get_num_threads()
    found = []
    try:
        for count in (1, numba.config.NUMBA_NUM_THREADS):
            threads.set_threads(count)
            found.append(results(NUMBA, x, weight, bias, {"padding": 1}))
    finally:
        threads.set_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_a_pixel_that_is_no_number_is_seen_by_its_windows_and_not_hidden(backend, channels):
    x = numbers(1, channels, 13, 8)
    x[0, 0, 0, 0] = np.nan
    y = backend.conv2d(x, np.ones((channels, channels, 3, 3)), relu=True, padding=1)
    assert np.isnan(y[0, :, :2, :2]).all() and not np.isnan(y[0, :, 8:]).any()


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_shapes_that_do_not_fit_are_named(backend):
    x, weight = numbers(2, 3, 8, 8), numbers(4, 3, 3, 3)
    with pytest.raises(ValueError, match=r"weights of \[4, 3, 3, 3\] in 3 groups do not fit images of \[2, 3, 8, 8\]"):
        backend.conv2d(x, weight, groups=3)
    with pytest.raises(
        ValueError, match=r"sees 9 × 9 pixels, images of \[2, 3, 8, 8\] with padding \[0, 0\] have 8 × 8"
    ):
        backend.conv2d(x, weight, dilation=4)
    with pytest.raises(ValueError, match=r"bias of \[3\] does not fit weights of \[4, 3, 3, 3\]: \[4\] is needed"):
        backend.conv2d(x, weight, numbers(3))
    with pytest.raises(ValueError, match=r"gradient of \[2, 4, 6, 7\] does not fit .*: \[2, 4, 6, 6\] is needed"):
        backend.conv2d_input(numbers(2, 4, 6, 7), weight, image=(8, 8))
    with pytest.raises(ValueError, match=r"gradient of \[2, 4, 5, 6\] does not fit .*: \[2, 4, 6, 6\] is needed"):
        backend.conv2d_weight(numbers(2, 4, 5, 6), x, kernel=(3, 3))
    with pytest.raises(ValueError, match="one for all, got float32, float64"):
        backend.conv2d(x, weight.astype(np.float32))
    with pytest.raises(ValueError, match="got int64"):
        backend.conv2d(x.astype(np.int64), weight.astype(np.int64))
    with pytest.raises(ValueError, match=r"out of \[1\] float64 cannot take a result of \[2, 4, 6, 6\] float64"):
        backend.conv2d(x, weight, out=np.empty(1))
    with pytest.raises(ValueError, match="stride takes one or two whole numbers of at least 1, got 0"):
        backend.conv2d(x, weight, stride=0)
