"""A process that compiles every kernel for a GPU that need not be there: what the interpreter lets pass, types that do not
fit or tiles that do not fit into shared memory, shows here. Launches compile and do not run.

    python -m kernels.compiler 90 [--all]     one line of JSON per compiled kernel; --all: every choice of block sizes
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import autotuner, driver, jit

from fanlight.kernels import augment, launch, rows

SIZES = {  # that divide by 16, as in real networks, and such that do not
    "conv2d": [
        rows.Case("wide", (2, 64, 8, 8), 64, (3, 3), padding=(1, 1)),
        rows.Case("first", (2, 3, 9, 9), 16, (7, 7), (2, 2)),
    ],
    "pool2d": [rows.Case("2 by 2", (2, 64, 8, 8), 64, (2, 2), (2, 2))],
    "linear": [rows.Case("wide", (64, 64), 64), rows.Case("odd", (5, 7), 3)],
}
KINDS = (torch.float32, torch.bfloat16, torch.float16)


class Draw:
    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape).to(self._dtype)

    def whole(self, below: int, kind: str, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=getattr(torch, kind))


class Nowhere:
    """A driver of a GPU of that capability, without the GPU."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


def usage(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack per thread; a stack is what did not fit into registers."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        words = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout.split()
    pairs = dict(word.split(":", 1) for word in words if word.startswith(("REG:", "STACK:")))
    return {"registers": int(pairs["REG"]), "stack": int(pairs["STACK"])}


def main(capability: int, *, every: bool) -> None:
    assert not launch.IS_INTERPRETED
    driver.set_active(Nowhere(capability))
    run, seen = jit.JITFunction.run, set()

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        if kernel is not None and kernel.hash not in seen:
            seen.add(kernel.hash)
            sizes = {key: value for key, value in options.items() if key.startswith(("BLOCK", "num_"))}
            row = {
                "kernel": f"{self.module.rpartition('.')[2]}.{self.fn.__name__}",
                "shared": kernel.metadata.shared,
                **sizes,
            }
            print(json.dumps({**row, **usage(kernel.asm["cubin"])}), flush=True)
        return kernel

    def compile_choices(self: Any, *args: Any, **options: Any) -> None:
        for config in self.configs if every else self.configs[-2:-1]:
            self.fn.run(*args, **options, **config.all_kwargs())

    jit.JITFunction.run, autotuner.Autotuner.run = compile_only, compile_choices
    for row in rows.KERNELS:
        cases = next((cases for word, cases in SIZES.items() if word in row.operator), row.odd[1:2])
        for case in cases:
            for dtype in KINDS:
                args, options = rows.inputs(row.operator, case, Draw(dtype))
                row.load()(*args, **options, **row.options)
    torch.set_float32_matmul_precision("high")  # tf32
    for row in (row for row in rows.KERNELS if row.operator in ("conv2d", "linear")):
        args, options = rows.inputs(row.operator, SIZES[row.operator][0], Draw(torch.float32))
        row.load()(*args, **options, **row.options)
    where = [torch.zeros(2, dtype=torch.int64) for _ in range(3)]
    images, mirror, number = (
        torch.zeros((2, 4, 4, 3), dtype=torch.uint8),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(3),
    )
    for dtype in KINDS:
        augment.batch(images, *where, mirror, side_px=4, scale=number, shift=number, dtype=dtype)


if __name__ == "__main__":
    main(int(sys.argv[1]), every="--all" in sys.argv)
