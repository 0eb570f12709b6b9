"""How the kernels are compiled: lazily, per number type, kept for the next process, without the interpreter's lock.

Sums may be reordered and products fused into additions, which vectors need; NaN, infinities and signs of zero stay.
"""

from collections.abc import Callable
from typing import Any

import numba

_FLOATS = {"contract", "reassoc"}
_njit: Any = numba.njit


def compiled(function: Callable) -> Any:
    """A kernel on the calling thread, which kernels call: what Python would need for that is not compiled."""
    return _kept(function, parallel=False, no_cpython_wrapper=True)


def parallel(function: Callable) -> Any:
    """A kernel whose `prange` loops run on `numba.get_num_threads()` threads."""
    return _kept(function, parallel=True)


def _kept(function: Callable, **more: bool) -> Any:
    options = {"nogil": True, "fastmath": _FLOATS, "error_model": "numpy", "no_cfunc_wrapper": True, **more}
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):  # no folder that can be written
            raise
        return _njit(**options)(function)
