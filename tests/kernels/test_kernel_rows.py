"""Every row of the table of kernels on its odd sizes, against NumPy's operators in double precision."""

import numpy as np
import pytest

from fanlight.kernels import rows
from fanlight.scratch.operators import NUMPY, ROWS

RTOL = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}  # ‖found − wanted‖ / ‖wanted‖; results are rounded last
ATOL = 1e-6  # per number: gradients that are nearly 0 are differences of numbers near 1
ROW = {"ids": lambda row: row.name}
IN_PLACE = {"sgd": [0, 2], "adamw": [0, 2, 3]}
SIXTEEN = [row for row in rows.KERNELS if row.operator not in IN_PLACE and not row.operator.startswith("batch_norm")]
PRODUCTS = [row for row in rows.KERNELS if (row.operator, row.version) in (("linear", "GEMM"), ("conv2d", "fused"))]


class Draw:
    """Normal numbers that the narrower type has too, and whole ones."""

    def __init__(self, kind: str = "float32", seed: int = 0):
        self._rng, self._kind = np.random.default_rng(seed), kind

    def normal(self, *shape: int) -> np.ndarray:
        return rounded(self._rng.standard_normal(shape).astype(np.float32), self._kind)

    def whole(self, below: int, kind: str, *shape: int) -> np.ndarray:
        return self._rng.integers(0, below, shape).astype(kind)


def rounded(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "float16":
        return x.astype(np.float16).astype(np.float32)
    if kind == "bfloat16":
        return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


def wanted(operator: str, args: list, options: dict) -> list[np.ndarray]:
    """The operator's results in double precision; of one that works in place, what it leaves."""
    args = [
        each.astype(np.float64) if each.dtype == np.float32 else each for each in args if isinstance(each, np.ndarray)
    ] + [each for each in args if not isinstance(each, np.ndarray)]
    options = {key: each.astype(np.float64) if isinstance(each, np.ndarray) else each for key, each in options.items()}
    if operator == "conv2d_pooled":
        return list(NUMPY.max_pool2d_index(NUMPY.conv2d(*args, relu=True, **options), 2))
    found = getattr(NUMPY, operator)(*args, **options)
    if operator in IN_PLACE:
        return [args[place] for place in IN_PLACE[operator]]
    return list(found) if isinstance(found, tuple) else [found]


def check(kernels, row: rows.Kernel, case: rows.Case, *, kind: str = "float32", is_last: bool = False) -> None:
    args, options = rows.inputs(row.operator, case, Draw(kind))
    shows = IN_PLACE.get(row.operator, [])
    found = kernels.call(
        f"{row.file}.{row.function}", args, {**options, **row.options}, kind=kind, is_last=is_last, shows=shows
    )
    for got, want in zip(found, wanted(row.operator, args, options), strict=True):
        assert got.shape == want.shape
        off = np.linalg.norm(got.astype(np.float64) - want)
        assert off <= RTOL[kind] * np.linalg.norm(want) + ATOL * np.sqrt(want.size), (case, off, np.linalg.norm(want))


def test_every_operator_has_a_kernel():
    without = {"max_pool2d", "batch_norm_running", "dropout_keep"}  # another's first result; C numbers; a kernel's mask
    named = {name for functions in ROWS.values() for name in functions}
    assert {row.operator for row in rows.KERNELS} == named - without | {"conv2d_pooled"}
    assert len({row.name for row in rows.KERNELS}) == len(rows.KERNELS)


@pytest.mark.parametrize("row", rows.KERNELS, **ROW)
def test_odd_sizes_are_as_in_numpy(kernels, row):
    for number, case in enumerate(row.odd):
        check(kernels, row, case, is_last=bool(number % 2))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("row", SIXTEEN, **ROW)
def test_sixteen_bits_are_as_in_numpy(kernels, row, kind):
    """But for what has parameters of 32: test_triton_backend."""
    check(kernels, row, next(case for case in row.odd if case.name.startswith(("primes", "dilated"))), kind=kind)


@pytest.mark.parametrize("row", PRODUCTS, **ROW)
def test_long_sums_of_sixteen_bits_keep_small_terms(kernels, row):
    """2,048 and then ones: in float16 the sum would stay at 2,048."""
    shape = (1, 1025) if row.operator == "linear" else (1, 1025, 1, 1)
    x, weight = np.ones(shape, np.float32), np.ones((1, *shape[1:]), np.float32)
    x[0, 0] = 2048
    steps = {} if row.operator == "linear" else {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    (y,) = kernels.call(f"{row.file}.{row.function}", [x, weight], {**steps, **row.options}, kind="float16")
    assert y.ravel().tolist() == [3072]
