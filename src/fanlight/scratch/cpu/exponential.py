"""Exponential functions that a compiler can turn into vectors, for results in float32.

The mathematical library's take one number at a time, whatever surrounds them. These are plain arithmetic in double precision,
right to about 1e-7 of their value: in a loop over float32 numbers they are computed for as many numbers as a register holds.
"""

from __future__ import annotations

import math

import numpy as np

from fanlight.scratch.cpu.compiled import compiled

_LOG2_E, _LN_2 = 1 / math.log(2), math.log(2)
_LEAST = -700.0  # of an exponent: e to it is 0 in float32


@compiled
def expm1(x):
    """eˣ − 1 of x ≤ 0, with its digits near 0 too: x = n·ln 2 + r, and the series of eʳ − 1 up to r⁷."""
    x = _LEAST if x < _LEAST else x
    n = math.floor(x * _LOG2_E + 0.5)
    r = x - n * _LN_2
    series = r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r / 5040))))))
    power = np.int64((np.int64(n) + 1023) << 52).view(np.float64)  # 2ⁿ, by the bits of its exponent
    return series * power + (power - 1)


@compiled
def tanh(x):
    """−(e⁻²ᵃ − 1) / (e⁻²ᵃ + 1) of a = |x|, with x's sign; NaN stays."""
    fallen = expm1(-2 * abs(np.float64(x)))
    found = math.copysign(-fallen / (2 + fallen), x)
    return x if x != x else found


@compiled
def erfc(x):
    """1 − erf(x), right to 1.2e-7 of its value everywhere: Chebyshev's fit of Press et al., Numerical Recipes, erfcc; NaN
    stays."""
    z = abs(np.float64(x))
    z = np.float64(30) if z > 30 else z
    t = 1 / (1 + z / 2)
    tail = -0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))
    fit = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * tail)))
    found = t * (expm1(fit - z * z) + 1)
    found = found if x >= 0 else 2 - found
    return x if x != x else found
