"""How many threads the operators use: Numba's, NumPy's BLAS's, and one of the BLAS that Numba's own kernels call."""

import os
from typing import Any

import numba
import threadpoolctl

_config: Any = numba.config


def most() -> int:
    """What Numba began with: NUMBA_NUM_THREADS, else the cores that this process may use."""
    return _config.NUMBA_NUM_THREADS


def set_threads(count: int) -> None:
    """Of Numba's kernels and of NumPy's BLAS, in this process; `most` at most. Kernels divide products over threads
    themselves, so SciPy's BLAS, which they call, keeps to the thread that calls; where NumPy has the same library, it does,
    too."""
    if not 1 <= count <= most():
        raise ValueError(
            f"{count} threads, of 1 … {most()}; more have to be asked for by NUMBA_NUM_THREADS at the start"
        )
    numba.set_num_threads(count)
    import scipy
    import scipy.linalg.cython_blas  # loads it

    libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    place = os.path.dirname(os.path.dirname(scipy.__file__))
    of_scipy = [each for each in libraries if os.path.relpath(each.filepath, place).startswith("scipy")]
    for each in libraries:
        each.set_num_threads(1 if each in (of_scipy or libraries) else count)
