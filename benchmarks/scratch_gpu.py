"""Kernels of our own beside PyTorch's on a GPU, over the sizes of ResNet-18 and ResNet-50: every version of every operator,
and cuDNN or PyTorch in NCHW and in channels last, eager. Writes scratch_gpu.json and scratch_gpu.md to $OUT (or --out).

Every result is compared before a clock runs. Then rounds: each contestant in turn, once unmeasured, then `repeats` times
between two CUDA events, so many that a measurement takes about 5 ms. First calls tune our kernels and cuDNN's
(torch.backends.cudnn.benchmark), outside the clock. The share of the limit is that of the slower of two limits, both measured
here: bytes of arguments and results over the bandwidth of a copy, operations over the rate of an 8192³ product.

    PYTHONPATH=src python benchmarks/scratch_gpu.py --formats bf16 --limit-s 400
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from torch.nn import functional as F

from fanlight.kernels import rows
from hardware import heading, median_interval, ratio_interval

FORMATS = {  # name → type of numbers, of torch.set_float32_matmul_precision, and how far two ways may differ
    "fp32": (torch.float32, "highest", 1e-4),
    "tf32": (torch.float32, "high", 3e-3),
    "bf16": (torch.bfloat16, "highest", 2e-2),
}
MEASURE_S = 5e-3
SLOW = ("direct", "tiled")  # versions that are there to be overtaken: three rounds
LAYOUTS = {"PyTorch": torch.contiguous_format, "PyTorch, channels last": torch.channels_last}
Work = Callable[[], Any]


class Draw:
    """Numbers on a device."""

    def __init__(self, dtype: torch.dtype, device: str = "cuda"):
        self._dtype, self._device = dtype, device
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self._device, generator=self._generator).to(self._dtype)

    def whole(self, below: int, kind: str, *shape: int) -> torch.Tensor:
        found = torch.randint(below, shape, device=self._device, generator=self._generator)
        return found.view(torch.uint64) if kind == "uint64" else found.to(getattr(torch, kind))


def in_torch(operator: str, args: list, options: dict) -> Work | None:
    """The same with PyTorch's own functions; None where it has none that does just that."""
    o = dict(options)
    if operator == "conv2d":
        return lambda: F.conv2d(*args, **o)
    if operator == "conv2d_pooled":
        return lambda: F.max_pool2d(F.relu(F.conv2d(*args, **o)), 2)
    if operator in ("conv2d_input", "conv2d_weight"):
        grad, other = args
        of_input = operator == "conv2d_input"
        size = [len(grad), other.shape[1] * o["groups"], *o["image"]] if of_input else None
        x = torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=_layout(grad)) if size else other
        weight = other if of_input else torch.empty(
            (grad.shape[1], other.shape[1] // o["groups"], *o["kernel"]), dtype=grad.dtype, device=grad.device,
            memory_format=_layout(grad))  # fmt: skip
        fixed = (
            [0],
            o["stride"],
            o["padding"],
            o["dilation"],
            False,
            [0, 0],
            o["groups"],
            [of_input, not of_input, False],
        )
        return lambda: torch.ops.aten.convolution_backward(grad, x, weight, *fixed)[0 if of_input else 1]
    if operator == "conv2d_bias":
        return lambda: args[0].sum((0, 2, 3))
    if operator == "max_pool2d_index":
        return lambda: F.max_pool2d(*args, **o, return_indices=True)[0]
    if operator == "avg_pool2d":
        return lambda: F.avg_pool2d(*args, **o)
    if operator == "linear":
        return lambda: F.linear(*args)
    if operator == "linear_input":
        return lambda: args[0] @ args[1]
    if operator == "linear_weight":
        return lambda: args[0].T @ args[1]
    if operator == "linear_bias":
        return lambda: args[0].sum(0)
    if operator in ("relu", "gelu", "tanh"):
        return lambda: getattr(torch if operator == "tanh" else F, operator)(*args)
    if operator == "gelu_backward":
        return lambda: torch.ops.aten.gelu_backward(*args)
    if operator == "tanh_backward":
        return lambda: torch.ops.aten.tanh_backward(*args)
    if operator == "relu_backward":
        return lambda: torch.ops.aten.threshold_backward(*args, 0)
    if operator == "batch_norm":
        return lambda: F.batch_norm(args[0], None, None, *args[1:], training=True)
    if operator == "batch_norm_fixed":
        x, weight, bias, mean, var = args
        return lambda: F.batch_norm(x, mean, var, weight, bias, training=False)
    if operator == "cross_entropy":
        return lambda: F.cross_entropy(*args, reduction="none")
    return None  # gradients of poolings, norms and losses, dropout by keys, optimizers: ours are timed alone


def _layout(x: torch.Tensor) -> torch.memory_format:
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def placed(values: list, layout: torch.memory_format) -> list:
    return [each.contiguous(memory_format=layout) if isinstance(each, torch.Tensor) and each.dim() == 4 else each
            for each in values]  # fmt: skip


def contestants(operator: str, case: rows.Case, dtype: torch.dtype) -> tuple[dict[str, Work], float]:
    """By name, and the bytes of arguments and results: ours in the layout that each reads, PyTorch in both."""
    args, options = rows.inputs(operator, case, Draw(dtype))
    works: dict[str, Work] = {}
    for name, layout in LAYOUTS.items():
        if layout is torch.contiguous_format or any(
            isinstance(each, torch.Tensor) and each.dim() == 4 for each in args
        ):
            work = in_torch(operator, placed(args, layout), options)
            if work is not None:
                works[name] = work
    for row in (row for row in rows.KERNELS if row.operator == operator):
        layout = torch.contiguous_format if row.version in SLOW else torch.channels_last
        works[row.version] = _call(row, placed(args, layout), {**options, **row.options})
    found = next(reversed(works.values()))()
    tensors = [
        each for each in [*args, *(found if isinstance(found, tuple) else [found])] if isinstance(each, torch.Tensor)
    ]
    return works, float(sum(each.numel() * each.element_size() for each in tensors))


def _call(row: rows.Kernel, args: list, options: dict) -> Work:
    function = row.load()
    return lambda: function(*args, **options)


def errors(works: dict[str, Work], operator: str, case: rows.Case, most: float) -> dict[str, float]:
    """Of each contestant's first result against that of PyTorch in NCHW, in the same format; SystemExit for more than `most`.
    Optimizers change their arguments and are left to the tests."""
    wanted = next((work() for name, work in works.items() if name in LAYOUTS), None)
    if wanted is None:
        return dict.fromkeys(works, math.nan)
    found = {}
    for name, work in works.items():
        got = work()
        got = got[0] if isinstance(got, tuple) else got
        off = torch.linalg.vector_norm(got.float() - wanted.float()) / torch.linalg.vector_norm(wanted.float())
        found[name] = float(off)
        if not found[name] <= most:
            raise SystemExit(
                f"{operator}, {case.name}: {name} is {found[name]:.1e} off PyTorch, at most {most:.0e} is right"
            )
    return found


def seconds(work: Work, *, repeats: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def measure(works: dict[str, Work], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant by round, in turns that begin with another each time."""
    repeats = {name: max(1, round(MEASURE_S / max(seconds(work, repeats=1), 1e-6))) for name, work in works.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in SLOW or turn < 3:
                works[name]()
                found[name].append(seconds(works[name], repeats=repeats[name]))
    return found


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per second of a copy, operations per second of a product of matrices."""
    a, b = (torch.empty(1 << 29, dtype=torch.uint8, device="cuda") for _ in range(2))
    x = torch.randn(8192, 8192, device="cuda").to(dtype)
    works: dict[str, Work] = {"copy": lambda: b.copy_(a), "product": lambda: x @ x}
    for work in works.values():
        work()
    best = {name: min(seconds(work, repeats=5) for _ in range(5)) for name, work in works.items()}
    return 2 * a.numel() / best["copy"], 2 * 8192**3 / best["product"]


def run(formats: list[str], *, rounds: int, limit_s: float, only: str) -> dict[str, Any]:
    """Rows as they go to the JSON file."""
    begin, found, left = time.perf_counter(), [], []
    torch.backends.cudnn.benchmark = True
    peaks = {}
    for name in formats:
        dtype, precision, most = FORMATS[name]
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        bandwidth, rate = peaks[name] = limits(dtype)
        for operator in dict.fromkeys(row.operator for row in rows.KERNELS):
            for case in next(row.bench for row in rows.KERNELS if row.operator == operator):
                if only not in operator:
                    continue
                if time.perf_counter() - begin > limit_s:
                    left.append(f"{operator}, {case.name}, {name}")
                    continue
                works, bytes_ = contestants(operator, case, dtype)
                off = errors(works, operator, case, most)
                took = measure(works, rounds=rounds)
                least = max(bytes_ / bandwidth, rows.flop(operator, case) / rate)
                found += [_row(operator, case, name, version, took, off, least) for version in works]
                print(f"{name} {operator}, {case.name}: " + ", ".join(
                    f"{version} {1e3 * np.median(values):.3f} ms" for version, values in took.items()), flush=True)  # fmt: skip
                torch.cuda.empty_cache()
    return {
        "rows": found, "left_out": left, "limits": {name: {"bytes_per_s": a, "flop_per_s": b} for name, (a, b) in peaks.items()}
    }  # fmt: skip


def _row(
    operator: str, case: rows.Case, number_format: str, version: str, took: dict[str, list[float]], off: dict[str, float],
    least_s: float,
) -> dict[str, Any]:  # fmt: skip
    middle, low, high = (1e3 * value for value in median_interval(took[version]))
    best = min((name for name in took if name in LAYOUTS), key=lambda name: np.median(took[name]), default=None)
    count = len(took[version])
    return {
        "op": operator, "shape": case.name, "format": number_format, "version": version, "ms": middle,
        "interval_ms": [low, high], "n": count, "share_of_limit": 1e3 * least_s / middle,
        "vs_torch": ratio_interval(took[best][:count], took[version]) if best else None, "best_torch": best,
        "error": None if math.isnan(off[version]) else off[version],
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    lines = [heading("Kernels of our own beside PyTorch's")]
    for name, limit in found["limits"].items():
        gbyte, tflop = limit["bytes_per_s"] / 1e9, limit["flop_per_s"] / 1e12
        lines.append(f"{name}: a copy {gbyte:.0f} GB/s, a product {tflop:.0f} Tflop/s\n")
    lines.append("\nMedians and 95 % intervals. vs PyTorch: how many times as fast as its faster layout.\n")
    lines.append("| operator | shape | format | version | ms | 95 % | n | share of limit | vs PyTorch | error |")
    lines.append("|---|---|---|---|--:|--:|--:|--:|--:|--:|")
    for row in found["rows"]:
        ratio = "–" if row["vs_torch"] is None else f"{row['vs_torch'][0]:.2f}"
        error = "–" if row["error"] is None else f"{row['error']:.0e}"
        low, high = row["interval_ms"]
        lines.append(
            f"| {row['op']} | {row['shape']} | {row['format']} | {row['version']} | {row['ms']:.3f} | {low:.3f} … {high:.3f} | "
            f"{row['n']} | {row['share_of_limit']:.0%} | {ratio} | {error} |"
        )
    lines.append("\n## Geometric means over ResNet's shapes, against PyTorch's faster layout\n")
    lines.append("| operator | format | version | times as fast | shapes |\n|---|---|---|--:|--:|")
    lines += [
        f"| {op} | {form} | {version} | {mean:.2f} | {count} |"
        for op, form, version, mean, count in means(found["rows"])
    ]
    if found["left_out"]:
        lines.append(f"\nLeft out, as time was up: {'; '.join(found['left_out'])}.")
    return "\n".join(lines) + "\n"


def means(found: list[dict[str, Any]]) -> list[tuple[str, str, str, float, int]]:
    """Of convolutions: how many times as fast as PyTorch each version is, over all shapes."""
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for row in found:
        if row["op"].startswith("conv2d") and row["version"] not in LAYOUTS and row["vs_torch"] is not None:
            ratios.setdefault((row["op"], row["format"], row["version"]), []).append(row["vs_torch"][0])
    return [(*key, math.exp(float(np.mean(np.log(values)))), len(values)) for key, values in ratios.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "scratch/gpu")))
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--n", type=int, default=9, help="rounds")
    parser.add_argument(
        "--limit-s", type=float, default=math.inf, help="after so long, the rest is left out, and named"
    )
    parser.add_argument("--only", default="", help="operators with this in their name")
    a = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is visible to torch; nothing was measured")
    a.out.mkdir(parents=True, exist_ok=True)
    found = run(a.formats, rounds=a.n, limit_s=a.limit_s, only=a.only)
    (a.out / "scratch_gpu.json").write_text(json.dumps(found, indent=1))
    (a.out / "scratch_gpu.md").write_text(markdown(found))
    print((a.out / "scratch_gpu.md").read_text())


if __name__ == "__main__":
    main()
