"""What this machine can do at most, measured in the same run: bytes per second of a copy, operations per second of a product of
matrices; of the CPU for each number of threads, of the GPU for each number format.

A copy's bytes are those read and those written. The best of a few tries counts, since a limit is what was reached once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fanlight.scratch.bench import clock
from fanlight.scratch.bench.contestants import FORMATS

COPY_BYTES = 128 << 20  # several times a cache of the third level
SIDE = 2048  # of the matrices
TRIES = 5


@dataclass(frozen=True)
class Limit:
    """The roofline (Williams, Waterman and Patterson 2009): no work takes less than `seconds`."""

    device: str
    threads: int | None
    number_format: str
    bytes_per_s: float
    flop_per_s: float

    def seconds(self, *, bytes_: float, flop: float) -> float:
        return max(bytes_ / self.bytes_per_s, flop / self.flop_per_s)


def of_cpu(counts: Sequence[int]) -> list[Limit]:
    """By PyTorch's copy, and by the faster of NumPy's and PyTorch's products: they bring BLAS libraries of their own."""
    a, b = (torch.ones(COPY_BYTES // 4) for _ in range(2))
    x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    y, of_torch = np.empty_like(x), torch.from_numpy(x)
    z = torch.empty_like(of_torch)
    found = []
    for count in counts:
        with clock.threads(count):
            copy_s = _best(lambda: b.copy_(a))
            product_s = min(_best(lambda: np.matmul(x, x, out=y)), _best(lambda: torch.mm(of_torch, of_torch, out=z)))
        found.append(Limit("cpu", count, "fp32", 2.0 * 4 * len(a) / copy_s, 2.0 * SIDE**3 / product_s))
    return found


def of_gpu(number_format: str) -> Limit:
    """By a copy of 512 MB and a product of 8,192³."""
    dtype, precision, _ = FORMATS[number_format]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        a, b = (torch.empty(1 << 29, dtype=torch.uint8, device="cuda") for _ in range(2))
        x = torch.randn(8192, 8192, device="cuda").to(dtype)
        copy_s = _best(lambda: b.copy_(a), device="cuda")
        product_s = _best(lambda: x @ x, device="cuda")
    finally:
        torch.set_float32_matmul_precision(before)
    return Limit("cuda", None, number_format, 2.0 * a.numel() / copy_s, 2.0 * 8192**3 / product_s)


def _best(work: Callable[[], object], *, device: str = "cpu") -> float:
    work()
    return min(clock.seconds(work, repeats=1, device=device) for _ in range(TRIES))
