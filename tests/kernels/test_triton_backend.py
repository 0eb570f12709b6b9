"""TRITON in the table of operators: arrays and tensors in, the other backends' results out, and what does not fit named."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.scratch import operators
from fanlight.scratch.operators import NUMPY
from kernels.test_kernel_rows import rounded
from scratch.differences import error, numbers
from scratch.test_convolution import convolutions, results
from scratch.test_pooling import poolings
from scratch.test_pooling import results as pooled

RTOL = 1e-5
KEYS = np.random.default_rng(0).integers(0, 1 << 64, 64, dtype=np.uint64)


def single(x):
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x


def test_the_functions_are_the_other_backends_with_the_same_arguments():
    for functions in operators.ROWS.values():
        for name in functions:
            found, wanted = (inspect.signature(getattr(table, name)) for table in (operators.TRITON, NUMPY))
            assert [(each.name, each.kind, each.default) for each in found.parameters.values()] == [
                (each.name, each.kind, each.default) for each in wanted.parameters.values()
            ], name
            assert inspect.getdoc(getattr(operators.TRITON, name)), name
    assert callable(operators.TRITON.conv2d_pooled) and not hasattr(NUMPY, "conv2d_pooled")


@given(convolutions(side=7, channels=3), st.booleans())
@settings(max_examples=10)
def test_convolutions_and_gradients_are_numpy_s(table, case, relu):
    x, weight, bias, options = case
    wanted = results(NUMPY, x, weight, bias, options, relu=relu)
    found = results(table, single(x), single(weight), None if bias is None else single(bias), options, relu=relu)
    for got, want in zip(found, wanted, strict=True):
        assert error(got.astype(np.float64), want) < RTOL


@given(poolings(side=7))
@settings(max_examples=10)
def test_poolings_and_gradients_are_numpy_s(table, case):
    x, window, options = case
    x = single(x).astype(np.float64)  # what float32 has
    for got, want in zip(pooled(table, single(x), window, options), pooled(NUMPY, x, window, options), strict=True):
        assert error(got.astype(np.float64), want) < RTOL


@pytest.mark.parametrize("activation", ["none", "relu", "tanh", "gelu"])
def test_a_fused_layer_is_its_parts(table, activation):
    x, weight, bias = numbers(2, 5, 9, 11) / 10, numbers(18, 5, 3, 3, seed=1), numbers(18, seed=2)  # else tanh is 1
    y = NUMPY.conv2d(x, weight, bias, padding=1)
    wanted = NUMPY.max_pool2d_index(y if activation == "none" else getattr(NUMPY, activation)(y), 2)
    found = table.conv2d_pooled(single(x), single(weight), single(bias), padding=1, activation=activation)
    assert error(found[0].astype(np.float64), wanted[0]) < RTOL and np.array_equal(found[1], wanted[1])
    for place in range(4):
        x = np.zeros((1, 1, 2, 2), np.float32)
        x[0, 0, place // 2, place % 2] = np.nan
        y, index = table.conv2d_pooled(x, np.ones((1, 1, 1, 1), np.float32))
        assert np.isnan(y).all() and index.item() == place


def test_far_values_keep_their_digits(table):
    x = np.array([-40, -9, -5.5, -3, -1e-3, -1e-9, -0.0, 0, 1e-9, 1e-3, 0.6, 0.7, 5.5, 9, 40])
    for name, atol in (("relu", 0), ("tanh", 0), ("gelu", 1e-14)):
        np.testing.assert_allclose(getattr(table, name)(single(x)), getattr(NUMPY, name)(x), rtol=5e-6, atol=atol)
        ends = getattr(table, name)(np.array([np.inf, -np.inf, np.nan], np.float32))
        assert ends[0] == (1 if name == "tanh" else np.inf) and np.isnan(ends[2])
        assert ends[1] == -1 if name == "tanh" else not ends[1] < 0


def test_no_number_is_the_largest_and_padding_never_is(table):
    x = numbers(1, 1, 4, 4, dtype="float32")
    x[0, 0, 1, 0], x[0, 0, 2:, 2:] = np.nan, -np.inf
    y, index = table.max_pool2d_index(x, 2)
    assert np.isnan(y[0, 0, 0, 0]) and index[0, 0, 0, 0] == 2
    assert y[0, 0, 1, 1] == -np.inf and index[0, 0, 1, 1] == 0
    around = table.max_pool2d_index(np.full((1, 1, 2, 2), -np.inf, np.float32), 2, padding=1)[1]
    assert np.array_equal(around[0, 0], [[3, 2], [1, 0]])
    spoiled = np.array([[0, np.nan], [1, 2]], np.float32)
    losses, shares = table.cross_entropy(spoiled, np.zeros(2, np.int64))
    assert np.isnan(losses[0]) and np.isnan(shares[0]).all() and np.isfinite(shares[1]).all()


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_keeps_what_the_other_backends_keep(table, kernels, rate):
    keep = NUMPY.dropout_keep(KEYS[:5], (5, 3, 4, 7), rate=rate)
    assert np.array_equal(table.dropout_keep(KEYS[:5], (5, 3, 4, 7), rate=rate), keep)
    x = np.abs(numbers(5, 3, 4, 7, dtype="float32")) + 1
    assert np.array_equal(table.dropout_keyed(x, KEYS[:5], rate=rate) > 0, keep)
    (last,) = kernels.call("TRITON.dropout_keyed", [x, KEYS[:5]], {"rate": rate}, kind="float32", is_last=True)
    assert np.array_equal(last > 0, keep)  # the same numbers of an image, whatever its memory order


def test_statistics_stay_float32_and_a_large_mean_leaves_them_their_digits(table, kernels):
    x = numbers(16, 3, 9, 9, dtype="float32") + np.float32(1000)
    _, mean, var = table.batch_norm(x, np.ones(3, "f"), np.zeros(3, "f"))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(var, exact.var(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6)
    running = [np.zeros(3, "f"), np.ones(3, "f")]
    table.batch_norm_running(*running, mean, var, count=16 * 81)
    np.testing.assert_allclose(running[0], 0.1 * mean, rtol=1e-6)


def test_updates_read_their_numbers_from_memory_too(kernels):
    """As a CUDA graph needs."""
    arrays = [numbers(7, 3, 3, 3, seed=seed, dtype="float32") for seed in range(3)] + [
        numbers(7, 3, 3, 3, seed=3, dtype="float32") ** 2
    ]
    hyper = {"lr": 0.1, "step": 1000, "divisor": 4.0}
    read = {"lr": np.array([0.1], np.float32), "step": np.array([1000]), "divisor": np.array(4, np.float32)}
    for is_last in (False, True):
        found = [kernels.call("TRITON.adamw", arrays, each, kind="float32", is_last=is_last, shows=[0, 2, 3])
                 for each in (hyper, read)]  # fmt: skip
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        wanted = [each.astype(np.float64) for each in arrays]
        NUMPY.adamw(*wanted, **hyper)
        assert error(found[0][0].astype(np.float64), wanted[0]) < RTOL
    (velocity,) = kernels.call("TRITON.sgd", arrays[:3], {"lr": read["lr"]}, kind="float32", shows=[2])
    assert np.array_equal(velocity, arrays[1])
    for name, spoiled in (
        ("adamw", {"step": 2, "divisor": np.array(np.nan, np.float32)}),
        ("sgd", {"divisor": np.inf}),
    ):
        count = 4 if name == "adamw" else 3
        options = {"lr": 0.1, **spoiled}
        after = kernels.call(f"TRITON.{name}", arrays[:count], options, kind="float32", shows=list(range(count)))
        assert all(np.array_equal(found, before) for found, before in zip(after, arrays)), name


def test_sixteen_bits_go_beside_parameters_of_thirty_two(kernels):
    coarse = 2.0**-8  # of bfloat16's results, relatively
    x, grad = (rounded(numbers(4, 3, 5, 5, seed=seed, dtype="float32"), "bfloat16") for seed in range(2))
    weight, bias = numbers(3, seed=2, dtype="float32"), numbers(3, seed=3, dtype="float32")
    y, mean, var = kernels.call("TRITON.batch_norm", [x, weight, bias], {}, kind="bfloat16", wide=[1, 2])
    wanted = NUMPY.batch_norm(*(each.astype(np.float64) for each in (x, weight, bias)))
    for found, want, most in zip((y, mean, var), wanted, (coarse, 1e-6, 1e-6), strict=True):
        assert error(found.astype(np.float64), want) < most
    given_ = [grad, x, weight, mean, var]
    found = kernels.call("TRITON.batch_norm_backward", given_, {}, kind="bfloat16", wide=[2, 3, 4])
    slopes = NUMPY.batch_norm_backward(*(each.astype(np.float64) for each in given_))
    for got, want, most in zip(found, slopes, (coarse, RTOL, RTOL), strict=True):
        assert error(got.astype(np.float64), want) < most
    state = [x, grad, np.zeros_like(x), np.zeros_like(x)]
    (after,) = kernels.call("TRITON.adamw", state, {"step": 1, "lr": 0.1}, kind="bfloat16", wide=[0, 2, 3], shows=[0])
    wanted = [each.astype(np.float64) for each in state]
    NUMPY.adamw(*wanted, step=1, lr=0.1)
    assert error(after.astype(np.float64), wanted[0]) < 1e-6
    with pytest.raises(ValueError, match="one for all, got bfloat16, float32"):
        kernels.call("TRITON.relu_backward", [x, grad], {}, kind="bfloat16", wide=[1])


def test_the_first_steps_of_adamw_are_corrected_exactly(table):
    for step in (1, 2, 10):
        arrays = [numbers(257, seed=1), numbers(257, seed=2), np.zeros(257), np.zeros(257)]
        found = [single(each) for each in arrays]
        NUMPY.adamw(*arrays, step=step, lr=0.1)
        table.adamw(*found, step=step, lr=0.1)
        assert error(found[0].astype(np.float64), arrays[0]) < 1e-6


@pytest.mark.parametrize("kind", ["array", "float32"])
@pytest.mark.parametrize("is_last", [False, True])
def test_results_go_where_they_are_asked_to(kernels, kind, is_last):
    """child.perform looks whether they do; channels last or not, what is there before does not count."""
    x, y = numbers(2, 3, 5, 6, dtype="float32"), numbers(2, 4, 3, 4, dtype="float32")
    weight, channel = numbers(4, 3, 3, 3, dtype="float32"), np.ones(3, np.float32)
    rows = numbers(5, 7, dtype="float32")
    for name, args, options, shape in (
        ("conv2d", [x, weight], {}, y.shape),
        ("conv2d_input", [y, weight], {"image": (5, 6)}, x.shape),
        ("conv2d_weight", [y, x], {"kernel": (3, 3)}, weight.shape),
        ("conv2d_bias", [y], {}, (4,)),
        ("conv2d_pooled", [x, weight], {}, (2, 4, 1, 2)),
        ("max_pool2d", [x, 2], {}, (2, 3, 2, 3)),
        ("avg_pool2d", [x, 2], {}, (2, 3, 2, 3)),
        ("avg_pool2d_backward", [x, 2], {"image": (10, 12)}, (2, 3, 10, 12)),
        ("linear", [rows, rows], {}, (5, 5)),
        ("linear_weight", [rows, rows], {}, (7, 7)),
        ("gelu", [x], {}, x.shape),
        ("tanh_backward", [x, x], {}, x.shape),
        ("batch_norm", [x, channel, channel], {}, x.shape),
        ("batch_norm_backward", [x, x, channel, channel, channel], {}, x.shape),
        ("dropout_keyed", [x, KEYS[:2]], {"rate": 0.3}, x.shape),
        ("cross_entropy_backward", [rows, np.zeros(5, np.int64)], {}, rows.shape),
    ):
        out = np.full(shape, np.nan, np.float32)
        found = kernels.call(f"TRITON.{name}", args, {**options, "out": out}, kind=kind, is_last=is_last)
        wanted = kernels.call(f"TRITON.{name}", args, options, kind=kind, is_last=is_last)
        for got, want in zip(found, wanted, strict=True):
            assert np.array_equal(got, want), name


def test_shapes_that_do_not_fit_are_named(table):
    x, weight = numbers(2, 3, 8, 8, dtype="float32"), numbers(4, 3, 3, 3, dtype="float32")
    with pytest.raises(ValueError, match=r"weights of \[4, 3, 3, 3\] in 3 groups do not fit images of \[2, 3, 8, 8\]"):
        table.conv2d(x, weight, groups=3)
    with pytest.raises(ValueError, match=r"gradient of \[2, 4, 6, 7\] does not fit .*: \[2, 4, 6, 6\] is needed"):
        table.conv2d_input(numbers(2, 4, 6, 7, dtype="float32"), weight, image=(8, 8))
    with pytest.raises(ValueError, match=r"index of \[2, 3, 4, 3\] does not fit .*: \[2, 3, 4, 4\] is needed"):
        table.max_pool2d_backward(x[:, :, :4, :4], np.zeros((2, 3, 4, 3), np.uint16), 2, image=(8, 8))
    with pytest.raises(ValueError, match=r"\[2, 3\] beside \[3, 2\]"):
        table.tanh_backward(np.zeros((3, 2), "f"), np.zeros((2, 3), "f"))
    with pytest.raises(ValueError, match=r"weights of \[4, 5\] do not fit rows of \[2, 3\]"):
        table.linear(np.zeros((2, 3), "f"), np.zeros((4, 5), "f"))
    with pytest.raises(ValueError, match=r"out of \[1\] float32 cannot take a result of \[2, 4, 6, 6\] float32"):
        table.conv2d(x, weight, out=np.empty(1, np.float32))
    with pytest.raises(ValueError, match="float32, bfloat16 or float16, one for all, got float64; the other backends"):
        table.conv2d(x.astype(np.float64), weight.astype(np.float64))
    with pytest.raises(ValueError, match="activation 'selu' is unknown; choose none, relu, tanh, gelu"):
        table.conv2d_pooled(x, weight, activation="selu")
    with pytest.raises(ValueError, match=r"classes 0 … 3 of logits \[2, 3\]: 0 … 2"):
        table.cross_entropy(np.zeros((2, 3), "f"), np.array([0, 3]))
    with pytest.raises(ValueError, match="keys are uint64, got int64"):
        table.dropout_keep(np.arange(3), (3, 4), rate=0.5)
    with pytest.raises(ValueError, match="optimizer steps count from 1, got 0"):
        table.adamw(*[np.zeros(3, "f") for _ in range(4)], step=0, lr=0.1)
    with pytest.raises(ValueError, match=r"scale of \[3\] does not fit 2 rows: \[2\] is needed"):
        table.cross_entropy_backward(np.zeros((2, 3), "f"), np.array([0, 1]), scale=np.ones(3, "f"))
    with pytest.raises(ValueError, match=r"gradient of a dense layer has the shape \[N, O\], got \[2, 3, 1\]"):
        table.linear_bias(np.zeros((2, 3, 1), "f"))
    with pytest.raises(ValueError, match=r"\[2\] beside \[3\]: both are of one shape"):
        table.batch_norm_running(*[np.zeros(3, "f") for _ in range(3)], np.zeros(2, "f"), count=2)


def test_a_class_that_there_is_not_spoils_its_row(kernels):
    """Of tensors, as nothing may wait for the GPU."""
    logits, targets = numbers(3, 5, dtype="float32"), np.array([0, 5, -1])
    losses, shares = kernels.call("TRITON.cross_entropy", [logits, targets], {}, kind="float32")
    assert np.isfinite(losses[0]) and np.isnan(losses[1:]).all()
    (grad,) = kernels.call("TRITON.cross_entropy_backward", [shares, targets], {}, kind="float32")
    assert np.isfinite(grad[0]).all() and np.isnan(grad[1:]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_runs_instead():
    code = (
        "import numpy as np\nfrom fanlight.scratch import operators\n"
        "print(operators.without_triton())\n"
        "try: operators.TRITON.relu(np.zeros(3, 'f'))\nexcept RuntimeError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    said, raised = done.stdout.splitlines()
    assert said == raised and "need a GPU and torch sees none: NUMBA has the same operators on all CPU cores" in said
