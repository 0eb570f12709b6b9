"""Dropout on a GPU (Srivastava et al. 2014): values that are kept are divided by the share that is kept. The mask of a key is
the other backends'; it is made where it is needed and never stored. Keys are uint64.
"""

from __future__ import annotations

from fanlight.kernels import dropout as kernels
from fanlight.scratch import shapes
from fanlight.scratch.gpu.arrays import Array, number_type, operator, room


@operator
def dropout(x: Array, keep: Array, *, rate: float, out: Array | None = None) -> Array:
    """x / (1 − rate) where `keep`, else 0."""
    shapes.masked(keep, x, rate=rate)
    number_type(x)
    room(out, x.shape, x)
    return kernels.masked(x, keep, rate=rate, out=out)


@operator
def dropout_keyed(x: Array, keys: Array, *, rate: float, out: Array | None = None) -> Array:
    """As `dropout`, with the mask that `dropout_keep` makes of the rows' keys."""
    shapes.keyed(keys, x.shape, rate=rate)
    number_type(x)
    room(out, x.shape, x)
    return kernels.keyed(x, keys, rate=rate, out=out)


@operator
def dropout_keep(keys: Array, shape: tuple[int, ...], *, rate: float) -> Array:
    """bool [N, …]: of keys uint64 [N], which values of each row stay; each with probability 1 − rate."""
    shapes.keyed(keys, shape, rate=rate)
    return kernels.kept(keys, shape, rate=rate)
