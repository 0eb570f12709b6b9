"""What the tests of the operators share: numbers to try them on, and gradients by differences, which no formula goes into."""

from collections.abc import Callable

import numpy as np

from fanlight.scratch import operators

BACKENDS = (operators.LOOPS, operators.NUMPY, operators.NUMBA)
FAST = BACKENDS[1:]
NAMES = {"ids": lambda backend: backend.name}

FP32_RTOL = 1e-5  # of whole arrays against PyTorch; 8e-7 at worst over nine convolutions: sums run in another order
FP64_RTOL = 1e-12  # between backends, in double precision; 2e-15 at worst over the same
SLOPE_RTOL = 1e-6  # of differences over 2e-5, whose own error is about 1e-10 by curvature, 1e-11 by rounding


def numbers(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    """Normal, no two equal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def apart(*shape: int, seed: int = 0) -> np.ndarray:
    """At least .01 from each other and from 0, where a maximum or a ReLU has its kink."""
    count = int(np.prod(shape))
    places = np.random.default_rng(seed).permutation(count) - count // 2
    return (0.01 * (places + (places >= 0))).reshape(shape)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype, (found.shape, wanted.shape, found.dtype)
    size = np.linalg.norm(wanted.astype(np.float64))
    return float(np.linalg.norm(found.astype(np.float64) - wanted.astype(np.float64)) / (size or 1.0))


def slope(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, along: np.ndarray) -> np.ndarray:
    """The gradient at `at` of Σ along · function, number by number from values on both sides."""
    step, found = 1e-5, np.empty_like(at)
    for place in np.ndindex(at.shape):
        moved = at.copy()
        moved[place] += step
        above = function(moved)
        moved[place] -= 2 * step
        found[place] = ((above - function(moved)) * along).sum() / (2 * step)
    return found
