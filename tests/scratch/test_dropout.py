"""Dropout: what is kept, how often, and that keys decide alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.scratch.operators import LOOPS
from scratch.differences import BACKENDS, FAST, FP64_RTOL, NAMES, SLOPE_RTOL, error, numbers, slope

KEYS = np.random.default_rng(0).integers(0, 1 << 64, 64, dtype=np.uint64)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0, 0.99))
@settings(max_examples=30)
def test_all_backends_keep_the_same_values(shape, rate):
    x, keys = numbers(*shape), KEYS[: shape[0]]
    keep = LOOPS.dropout_keep(keys, x.shape, rate=rate)
    for backend in FAST:
        assert np.array_equal(backend.dropout_keep(keys, x.shape, rate=rate), keep)
        for found in (backend.dropout(x, keep, rate=rate), backend.dropout_keyed(x, keys, rate=rate)):
            assert error(found, LOOPS.dropout(x, keep, rate=rate)) < FP64_RTOL


def test_hashes_are_splitmix64_s():
    """Of seed 0, as its authors' program prints them: a rate on each side of the first three numbers tells them."""
    for position, known in enumerate((0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)):
        for backend in BACKENDS:
            keep = [backend.dropout_keep(np.zeros(1, np.uint64), (1, 3), rate=known / 2**64 + d) for d in (-1e-9, 1e-9)]
            assert keep[0][0, position] and not keep[1][0, position]


@pytest.mark.parametrize("backend", FAST, **NAMES)
def test_the_share_that_stays_is_the_one_asked_for_and_the_mean_stays(backend):
    x = np.ones((64, 5000), np.float32)
    for rate in (0.0, 0.1, 0.5, 0.9):
        y = backend.dropout_keyed(x, KEYS, rate=rate)
        kept = np.count_nonzero(y) / y.size
        assert kept == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / y.size))
        assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - rate))}
        columns = np.count_nonzero(y, axis=0) / 64  # rows do not agree
        assert columns.std() == pytest.approx(np.sqrt(rate * (1 - rate) / 64), rel=0.1, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_a_row_is_dropped_alike_in_any_batch(backend):
    x = numbers(8, 3, 4)
    whole = backend.dropout_keyed(x, KEYS[:8], rate=0.4)
    parts = [backend.dropout_keyed(x[rows], KEYS[:8][rows], rate=0.4) for rows in (slice(0, 3), slice(3, 8))]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_the_gradient_is_the_same_dropout(backend):
    x, along = numbers(3, 7), numbers(3, 7, seed=1)

    def forward(x):
        return backend.dropout_keyed(x, KEYS[:3], rate=0.3)

    assert error(forward(along), slope(forward, x, along)) < SLOPE_RTOL
    own = x.copy()
    assert backend.dropout_keyed(own, KEYS[:3], rate=0.3, out=own) is own and error(own, forward(x)) == 0


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_what_does_not_fit_is_named(backend):
    x = numbers(3, 4)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        backend.dropout_keyed(x, KEYS[:3], rate=1)
    with pytest.raises(ValueError, match=r"keys of \[2\] does not fit values of \[3, 4\]: \[3\] is needed"):
        backend.dropout_keyed(x, KEYS[:2], rate=0.5)
    with pytest.raises(ValueError, match="keys are uint64, got int64"):
        backend.dropout_keep(np.arange(3), x.shape, rate=0.5)
    with pytest.raises(ValueError, match=r"mask of \[3\] does not fit values of \[3, 4\]"):
        backend.dropout(x, np.ones(3, bool), rate=0.5)
