"""The innermost loops are given addresses and check none: here each one checks, and the kernels around them are Python's, with
the tiles of a processor with 32 registers and of one with 16."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from fanlight.scratch.cpu import convolution, convolution_weight, tile, walk, winograd
from fanlight.scratch.operators import NUMBA, NUMPY
from scratch.differences import FP64_RTOL, error, numbers
from scratch.test_convolution import results

TILES = {"avx512": (64, 8), "avx2": (32, 4)}  # bytes of a register, and M


def within(array: np.ndarray, start: int, count: int) -> np.ndarray:
    assert start >= 0 and start + count <= len(array), f"{start} … {start + count} of {len(array)} numbers"
    return array[start : start + count]


def products(sums, to, pitch, x, start, offsets, weights, first, depth):
    """What tile.add_products does."""
    width = tile.V * tile.lanes(8)
    seen = np.stack([within(x, start + offsets[k], width) for k in range(depth)])
    factors = within(weights, first, depth * tile.M).reshape(depth, tile.M)
    for m, total in enumerate(factors.T @ seen):
        within(sums, to + m * pitch, width)[:] = total


def dots(sums, first, pitch, a, a_start, a_pitch, b, b0, b1, b2, length):
    """What tile.add_dots does."""
    assert length % tile.lanes(8) == 0
    for m in range(tile.M):
        row = within(a, a_start + m * a_pitch, length)
        within(sums, first + m * pitch, 3)[:] += [row @ within(b, start, length) for start in (b0, b1, b2)]


def combined(formula):
    """What an intrinsic of tile.combine does."""

    def combine(to, at, to_pitch, x, start, offsets, length, bias, floor):
        assert length >= tile.lanes(8), f"{length} numbers, less than a vector"
        seen = [within(x, start + offset, length) for offset in offsets]
        for r, found in enumerate(formula(*seen, bias)):
            within(to, at + r * to_pitch, length)[:] = np.maximum(found, floor)

    return combine


@pytest.fixture(scope="module", params=TILES)
def checked(request: pytest.FixtureRequest) -> Iterator[None]:
    register_bytes, filters = TILES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for module in (tile, convolution, convolution_weight, winograd):
            patch.setattr(module, "REGISTER_BYTES", register_bytes)
            patch.setattr(module, "M", filters)
        patch.setattr(convolution_weight, "DOT_POSITIONS", 6400 // filters)
        walk.forward.cache_clear()  # it plans for the width of a tile
        for module in (convolution, convolution_weight, winograd, walk):
            for name, kernel in list(vars(module).items()):
                if isinstance(kernel, Dispatcher):
                    patch.setattr(module, name, kernel.py_func)
        patch.setattr(convolution, "add_products", products)
        patch.setattr(winograd, "add_products", products)
        patch.setattr(winograd, "add_rows", combined(winograd._sums))
        patch.setattr(winograd, "take_results", combined(winograd._results))
        patch.setattr(convolution_weight, "add_dots", dots)
        yield
    walk.forward.cache_clear()


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 11)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 5)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 5),
)
@example((1, 1), (1, 11), (1, 1), (1, 5), (0, 0), 1)  # a row that reaches 50 numbers to the right
@example((8, 8), (3, 11), (1, 1), (1, 5), (0, 0), 1)  # the same by Winograd's way
@example((8, 9), (3, 3), (1, 1), (1, 1), (9, 9), 1)  # rows of a vector's length and more, ten of them
@example((9, 8), (3, 2), (1, 1), (1, 1), (2, 0), 1)  # one row of one number in the last piece
@example((8, 9), (3, 3), (1, 1), (1, 1), (3, 3), 5)  # several small images at once
@example((8, 9), (3, 3), (1, 1), (1, 1), (6, 8), 4)  # the same, of rows that a vector fills
@settings(max_examples=30)
def test_no_tile_reads_or_writes_outside_its_arrays(checked, channels, kernel, stride, dilation, more, images):
    inputs, outputs = channels
    height, width = ((size - 1) * apart + 1 + extra for size, apart, extra in zip(kernel, dilation, more))
    x, bias = numbers(images, inputs, height, width), numbers(outputs, seed=2)
    weight = numbers(outputs, inputs, *kernel, seed=1)
    options = {"stride": stride, "dilation": dilation}
    for found, want in zip(
        results(NUMBA, x, weight, bias, options), results(NUMPY, x, weight, bias, options), strict=True
    ):
        assert error(found, want) < FP64_RTOL
