"""Operators from scratch, side by side: NumPy, Numba on all cores, and PyTorch in both of its layouts, float32.

Every result is compared with PyTorch's before a clock runs. Then rounds: each contestant in turn runs once unmeasured, so
that the threads of the one before are asleep and its own arrays are near, and once measured. Ratios draw whole rounds, so
what slowed all cancels. Arrays that Numba writes to are made once (`out=`); PyTorch has no such argument, so freed memory
is kept for the next allocation (fanlight.machine.keep_freed_memory), for all alike. `loops` of a pooling are what a user
writes who loops over results and takes NumPy's maximum of each window for all images at once.

    python benchmarks/scratch_ops.py --n 15
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from fanlight import machine
from fanlight.scratch.cpu import threads
from fanlight.scratch.operators import NUMBA, NUMPY
from hardware import heading, median_interval, ratio_interval

ERROR_MOST = 1e-5  # ‖found − wanted‖ / ‖wanted‖ in float32
SEED = 0

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One operator on one shape: contestants by name, which give the same numbers; `torch` and `torch, channels last` are
    the same operator in both layouts."""

    name: str
    works: dict[str, Work]
    flop: float = 0.0  # multiplications and additions of the plain definition
    rounds_of: dict[str, int] = field(default_factory=dict)  # contestants too slow for every round: how many they get


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)


def channels_last(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(memory_format=torch.channels_last)


def convolutions(images: int) -> list[Row]:
    """images × 16 × 100 × 100, 32 filters of 3 × 3."""
    x, weight, bias, grad = draw(images, 16, 100, 100), draw(32, 16, 3, 3), draw(32), draw(images, 32, 98, 98)
    y, dx, dweight, dbias = (np.empty_like(each) for each in (grad, x, weight, bias))
    flop = 2.0 * grad.size * 16 * 9

    def gradients(x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> Work:
        fixed = ([32], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
        return lambda: torch.ops.aten.convolution_backward(grad, x, weight, *fixed)[:2]

    flat, last = (
        [torch.from_numpy(each) for each in (x, weight, grad)],
        [channels_last(each) for each in (x, weight, grad)],
    )
    of_torch = torch.from_numpy(bias)
    forward = {
        "numpy": lambda: NUMPY.conv2d(x, weight, bias, out=y),
        "numba": lambda: NUMBA.conv2d(x, weight, bias, out=y),
        "torch": lambda: F.conv2d(flat[0], flat[1], of_torch),
        "torch, channels last": lambda: F.conv2d(last[0], last[1], of_torch),
    }
    backward = {
        name: (lambda backend=backend: (
            backend.conv2d_input(grad, weight, image=(100, 100), out=dx),
            backend.conv2d_weight(grad, x, kernel=(3, 3), out=dweight),
        ))
        for name, backend in (("numpy", NUMPY), ("numba", NUMBA))
    } | {"torch": gradients(*flat), "torch, channels last": gradients(*last)}  # fmt: skip
    of_bias = {
        "numpy": lambda: NUMPY.conv2d_bias(grad, out=dbias),
        "numba": lambda: NUMBA.conv2d_bias(grad, out=dbias),
        "torch": lambda: flat[2].sum((0, 2, 3)),
    }
    shape = f"{images}×16×100×100, 32 of 3×3"
    return [
        Row(f"convolution, {shape}", forward, flop),
        Row(f"convolution's gradients of input and weight, {shape}", backward, 2 * flop),
        Row(f"convolution's gradient of the bias, {shape}", of_bias),
    ]


def poolings(images: int) -> list[Row]:
    """images × 32 × 200 × 200, windows of 2 × 2."""
    x = draw(images, 32, 200, 200)
    y, index = np.empty((images, 32, 100, 100), np.float32), np.empty((images, 32, 100, 100), np.uint16)
    flat, last = torch.from_numpy(x), channels_last(x)

    def loops() -> np.ndarray:
        for p in range(100):
            for q in range(100):
                y[:, :, p, q] = x[:, :, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2].max(axis=(2, 3))
        return y

    works = {
        "loops": loops,
        "numpy": lambda: NUMPY.max_pool2d(x, 2, out=y),
        "numba": lambda: NUMBA.max_pool2d(x, 2, out=y),
        "numba, with places": lambda: NUMBA.max_pool2d_index(x, 2, out=y, index=index)[0],
        "torch": lambda: F.max_pool2d(flat, 2),
        "torch, channels last": lambda: F.max_pool2d(last, 2),
    }
    return [Row(f"largest of 2×2, {images}×32×200×200", works, rounds_of={"loops": 3, "numpy": 5})]


def dense() -> list[Row]:
    """256 × 10,000 → 1,024: by BLAS, everywhere."""
    x, weight, bias = draw(256, 10_000), draw(1024, 10_000), draw(1024)
    y, given = np.empty((256, 1024), np.float32), [torch.from_numpy(each) for each in (x, weight, bias)]
    works = {
        "numpy": lambda: NUMPY.linear(x, weight, bias, out=y),
        "numba": lambda: NUMBA.linear(x, weight, bias, out=y),
        "torch": lambda: F.linear(*given),
    }
    return [Row("dense (BLAS), 256×10,000 → 1,024", works, 2.0 * 256 * 10_000 * 1024)]


def others(images: int) -> list[Row]:
    """What waits for memory: a batch norm and activations of images × 32 × 98 × 98."""
    x, weight, bias = draw(images, 32, 98, 98), draw(32), draw(32)
    y, flat, of_torch = np.empty_like(x), torch.from_numpy(x), [torch.from_numpy(each) for each in (weight, bias)]
    rows = []
    for name in ("relu", "tanh", "gelu"):
        of_backends = {
            backend.name: (lambda backend=backend, name=name: getattr(backend, name)(x, out=y))
            for backend in (NUMPY, NUMBA)
        }
        in_torch = getattr(F, name) if name != "tanh" else torch.tanh
        rows.append(
            Row(
                f"{name}, {images}×32×98×98",
                of_backends | {"torch": lambda f=in_torch: f(flat)},
                rounds_of={"numpy": 5},
            )
        )
    norms = {
        backend.name: (lambda backend=backend: backend.batch_norm(x, weight, bias, out=y)[0])
        for backend in (NUMPY, NUMBA)
    }
    in_torch = {"torch": lambda: F.batch_norm(flat, None, None, *of_torch, training=True)}
    return [*rows, Row(f"batch norm in training, {images}×32×98×98", norms | in_torch)]


def worst_error(row: Row) -> dict[str, float]:
    """Of each contestant against PyTorch; more than ERROR_MOST ends the benchmark."""
    wanted = [each.numpy() for each in _several(row.works["torch"]())]
    found = {}
    for name, work in row.works.items():
        errors = [
            float(np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want))
            for got, want in zip(_several(work()), wanted, strict=True)
        ]
        found[name] = max(errors)
        if not found[name] <= ERROR_MOST:
            raise SystemExit(f"{row.name}: {name} is {found[name]:.1e} off, at most {ERROR_MOST:.0e} is right")
    return found


def _several(results: object) -> tuple:
    return results if isinstance(results, tuple) else (results,)


def measure(row: Row, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant, by round; those with fewer rounds have the first of them."""
    found: dict[str, list[float]] = {name: [] for name in row.works}
    for turn in range(rounds):
        names = [name for name in row.works if turn < row.rounds_of.get(name, rounds)]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            row.works[name]()
            begin = time.perf_counter()
            row.works[name]()
            found[name].append(time.perf_counter() - begin)
    return found


def table(row: Row, seconds: dict[str, list[float]], errors: dict[str, float]) -> str:
    """Medians, and how many times as fast as each contestant Numba is."""
    lines = [
        f"\n## {row.name}\n\n| | ms | 95 % | n | GFLOP/s | Numba is faster by | 95 % | error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, values in seconds.items():
        middle, low, high = (1e3 * value for value in median_interval(values))
        rate = f"{row.flop / middle / 1e6:.0f}" if row.flop else "–"
        rounds = min(len(values), len(seconds["numba"]))
        ratio, *ends = ratio_interval(values[:rounds], seconds["numba"][:rounds])
        lines.append(
            f"| {name} | {middle:.2f} | {low:.2f} … {high:.2f} | {len(values)} | {rate} | {ratio:.2f} | "
            f"{ends[0]:.2f} … {ends[1]:.2f} | {errors[name]:.0e} |"
        )
    return "\n".join(lines)


def scaling(images: int, *, rounds: int, most: int) -> str:
    """The convolution's three kernels on one thread and on all."""
    x, weight, grad = draw(images, 16, 100, 100), draw(32, 16, 3, 3), draw(images, 32, 98, 98)
    y, dx, dweight = (np.empty_like(each) for each in (grad, x, weight))
    works = {
        "forward": lambda: NUMBA.conv2d(x, weight, out=y),
        "input's gradient": lambda: NUMBA.conv2d_input(grad, weight, image=(100, 100), out=dx),
        "weight's gradient": lambda: NUMBA.conv2d_weight(grad, x, kernel=(3, 3), out=dweight),
    }
    lines = [f"\n## Convolution on {most} threads\n\n| | faster than on one by | 95 % | n |\n|---|--:|--:|--:|"]
    for name, work in works.items():
        found: dict[int, list[float]] = {1: [], most: []}
        for turn in range(rounds):
            for count in (1, most) if turn % 2 else (most, 1):
                threads.set_threads(count)
                work()
                begin = time.perf_counter()
                work()
                found[count].append(time.perf_counter() - begin)
        ratio, low, high = ratio_interval(found[1], found[most])
        lines.append(f"| {name} | {ratio:.2f} | {low:.2f} … {high:.2f} | {rounds} |")
    threads.set_threads(most)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=15, help="rounds")
    parser.add_argument(
        "--images", type=int, default=32, help="in a batch of a convolution; twice as many in a pooling"
    )
    parser.add_argument("--threads", type=int, default=machine.cores_usable())
    parser.add_argument("--only", default="", help="operators with this in their name")
    a = parser.parse_args()
    machine.keep_freed_memory()
    torch.set_num_threads(a.threads)
    threads.set_threads(a.threads)
    print(heading(f"Operators from scratch, {a.threads} threads"))
    print(
        f"n = {a.n} rounds, contestants in turns; medians and their 95 % bootstrap intervals. Load before: "
        f"{os.getloadavg()[0]:.1f}. GFLOP/s count the plain definition's operations: Numba's convolution of 3 × 3 at "
        "stride 1 does half of its multiplications."
    )
    with torch.no_grad():
        for make in (convolutions, poolings, dense, others):
            for row in make(2 * a.images if make is poolings else a.images) if make is not dense else dense():
                if a.only in row.name:
                    errors = worst_error(row)
                    print(table(row, measure(row, rounds=a.n), errors), flush=True)
        if a.threads > 1 and a.only in "threads":
            print(scaling(a.images, rounds=a.n, most=a.threads))


if __name__ == "__main__":
    main()
