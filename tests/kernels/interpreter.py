"""Kernels for tests: in Triton's interpreter, in a process of its own, or compiled, in this one."""

import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fanlight.kernels import rows
from kernels import child

ROOT = Path(__file__).resolve().parents[2]


class Interpreted:
    """Kernels on a CPU. Started when first called."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def call(self, name: str, args: list, options: dict, **how: Any) -> list[np.ndarray]:
        """As child.perform. An error of the function is raised here, as a ValueError, RuntimeError …"""
        if self._process is None:
            paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kernels.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        child.send(self._process.stdin, {"name": name, "args": args, "options": options, **how})
        answer = child.receive(self._process.stdout)
        assert answer is not None, f"the interpreter's process ended with exit code {self._process.wait()}"
        if "error" in answer:
            raise getattr(builtins, answer["error"], AssertionError)(answer["message"])
        return answer["results"]

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()  # and not by the end of its input, which a process forked meanwhile may hold open
            self._process.communicate()


class Compiled:
    """Kernels on the GPU of this machine, each with one choice of block sizes: to compile and time all takes minutes."""

    def __init__(self) -> None:
        from triton.runtime.autotuner import Autotuner

        for file in {row.file for row in rows.KERNELS}:
            for each in vars(importlib.import_module(f"fanlight.kernels.{file}")).values():
                if isinstance(each, Autotuner):
                    each.configs = each.configs[-2:-1]

    def call(self, name: str, args: list, options: dict, **how: Any) -> list[np.ndarray]:
        return child.perform(name, args, options, **how)

    def close(self) -> None:
        pass


class Table:
    """operators.TRITON of `kernels`, on arrays: what it changes in place is changed here too."""

    def __init__(self, kernels: Interpreted | Compiled) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            arrays = [place for place, each in enumerate(args) if isinstance(each, np.ndarray)]
            found = self._kernels.call(f"TRITON.{name}", list(args), options, kind="array", shows=arrays)
            count = len(found) - len(arrays)
            for place, after in zip(arrays, found[count:]):
                if args[place].flags.writeable:
                    args[place][...] = after
            return None if count == 0 else found[0] if count == 1 else tuple(found[:count])

        return call
