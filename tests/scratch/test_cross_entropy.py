"""The loss against its definition, PyTorch and differences, for logits of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanlight.scratch.operators import LOOPS
from scratch.differences import BACKENDS, FAST, FP32_RTOL, FP64_RTOL, NAMES, SLOPE_RTOL, error, numbers, slope


def targets_of(rows, classes):
    return np.random.default_rng(5).integers(0, classes, rows)


def results(backend, logits, targets, scale):
    losses, probabilities = backend.cross_entropy(logits, targets)
    return losses, probabilities, backend.cross_entropy_backward(probabilities, targets, scale=scale)


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.25, None]))
@settings(max_examples=30)
def test_all_backends_give_what_the_definition_gives(rows, classes, scale):
    case = 4 * numbers(rows, classes), targets_of(rows, classes), numbers(rows, seed=1) if scale is None else scale
    wanted = results(LOOPS, *case)
    for backend in FAST:
        for found, want in zip(results(backend, *case), wanted, strict=True):
            np.testing.assert_allclose(found, want, rtol=FP64_RTOL, atol=1e-14)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (255, 10), (257, 1009)])
@pytest.mark.parametrize("backend", FAST, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_as_in_pytorch(backend, rows, classes, dtype):
    logits, targets = 3 * numbers(rows, classes, dtype=dtype), targets_of(rows, classes)
    given_ = torch.from_numpy(logits.copy()).requires_grad_()
    losses = F.cross_entropy(given_, torch.from_numpy(targets), reduction="none")
    (losses.sum() / rows).backward()
    found = results(backend, logits, targets, 1 / rows)
    rtol = FP32_RTOL if dtype == "float32" else FP64_RTOL
    assert error(found[0], losses.detach().numpy()) < rtol
    assert error(found[1], torch.softmax(given_, 1).detach().numpy()) < rtol
    assert error(found[2], given_.grad.numpy()) < rtol


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_gradients_are_slopes(backend):
    logits, targets, scale = numbers(4, 5), targets_of(4, 5), numbers(4, seed=1)
    grad = results(backend, logits, targets, scale)[2]
    assert error(grad, slope(lambda logits: backend.cross_entropy(logits, targets)[0], logits, scale)) < SLOPE_RTOL


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_do_not_overflow_and_nan_stays(backend, dtype):
    logits = np.array([[1000, 0, -1000], [-1000, -1000, -1000], [0, np.nan, 1]], dtype)
    losses, probabilities = backend.cross_entropy(logits, np.array([1, 2, 0]))
    np.testing.assert_allclose(losses[:2], [1000, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(probabilities[:2], [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    assert np.isnan(losses[2]) and np.isnan(probabilities[2]).all()


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_results_go_where_they_are_asked_to_and_misfits_are_named(backend):
    logits, targets = numbers(3, 4), np.array([0, 3, 1])
    out = np.empty((3, 4))
    assert backend.cross_entropy(logits, targets, out=out)[1] is out
    want = backend.cross_entropy_backward(out, targets)
    assert backend.cross_entropy_backward(out, targets, out=out) is out and np.array_equal(out, want)
    with pytest.raises(ValueError, match=r"targets of \[2\] does not fit logits of \[3, 4\]: \[3\] is needed"):
        backend.cross_entropy(logits, targets[:2])
    with pytest.raises(ValueError, match=r"classes 0 … 4 of logits \[3, 4\]: 0 … 3"):
        backend.cross_entropy(logits, np.array([0, 4, 1]))
    with pytest.raises(ValueError, match=r"got \[3, 4\] and float64"):
        backend.cross_entropy(logits, targets.astype(float))
    with pytest.raises(ValueError, match=r"scale of \[2\] does not fit 3 rows: \[3\] is needed"):
        backend.cross_entropy_backward(out, targets, scale=np.ones(2))
