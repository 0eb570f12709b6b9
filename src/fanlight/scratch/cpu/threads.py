"""How many threads the operators use: Numba's and BLAS's are two settings."""

from typing import Any

import numba
import threadpoolctl

_config: Any = numba.config


def set_threads(count: int) -> None:
    """Of Numba's kernels and of NumPy's BLAS, in this process. At most what Numba began with: NUMBA_NUM_THREADS, else the
    cores that this process may use."""
    most = _config.NUMBA_NUM_THREADS
    if not 1 <= count <= most:
        raise ValueError(f"{count} threads, of 1 … {most}; more have to be asked for by NUMBA_NUM_THREADS at the start")
    numba.set_num_threads(count)
    threadpoolctl.threadpool_limits(count, user_api="blas")
