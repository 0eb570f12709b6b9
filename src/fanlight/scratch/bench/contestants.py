"""Who answers a subject: loops, NumPy, Numba on one thread up to all, Triton's versions, and PyTorch on the CPU and the GPU, in
NCHW and channels last, eager, compiled and as a CUDA graph.

A backend that cannot run here is a contestant too, with its reason in place of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fanlight.kernels import rows
from fanlight.scratch import operators
from fanlight.scratch.bench import in_torch
from fanlight.scratch.bench.subjects import NETWORK, Call, Subject, calls, changed

BACKENDS = ("loops", "numpy", "numba", "triton", "torch", "torch-compiled", "torch-graph")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
IN_NCHW = ("direct", "tiled")  # versions of kernels that read it
FORMATS = {  # name → type of numbers, of torch.set_float32_matmul_precision, and how far a right result may be off
    "fp32": (torch.float32, "highest", 1e-5),
    "tf32": (torch.float32, "high", 3e-3),
    "bf16": (torch.bfloat16, "highest", 2e-2),
    "fp16": (torch.float16, "highest", 3e-3),
}


@dataclass
class Contestant:
    """One way to an answer. `call` gives the results; None, with a reason, where there is no way."""

    backend: str  # of BACKENDS
    call: Callable[[], Any] | None
    threads: int | None = None  # of the CPU
    device: str = "cpu"
    layout: str | None = None
    version: str = ""  # the idea of a kernel
    scale: float = 1.0  # what is timed is a part: as many times as long takes the whole
    reason: str = ""
    timed: Callable[[], float] | None = None  # seconds of the whole, where `call` alone does not tell

    @property
    def name(self) -> str:
        """`numba, 2 threads`; `torch-compiled, cuda, channels last`."""
        words = [
            self.backend,
            self.version,
            f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else "",
        ]
        if self.backend.startswith("torch") and self.device == "cuda":
            words[2] = "cuda"
        return ", ".join(word for word in (*words, self.layout or "") if word)


def answers(backend: str, group: str, *, number_format: str, has_gpu: bool) -> bool:
    """Whether a backend has a row for a group of subjects, be it a reason why it cannot run here."""
    if number_format != "fp32":
        return group not in NETWORK and (
            backend in ("triton", "torch", "torch-graph") or (backend.startswith("torch") and has_gpu)
        )
    if group == "epoch":
        return backend not in ("torch-compiled", "torch-graph")
    return group != "batch" or backend != "loops"


@dataclass(frozen=True)
class Field:
    """Which contestants there are to be."""

    backends: tuple[str, ...]
    threads: int  # the most
    has_gpu: bool
    number_format: str = "fp32"

    @property
    def thread_counts(self) -> list[int]:
        """1, 2, 4, … and the most."""
        return sorted({2**k for k in range(self.threads.bit_length()) if 2**k < self.threads} | {self.threads})


def reason_of(error: Exception) -> str:
    """An error in a line: its name and first words, which torch puts below a line that ends in a colon."""
    if "InvalidCxxCompiler" in f"{type(error).__name__}: {error}":
        return "torch.compile writes C++ and found no compiler for it; install g++, or name one by CXX"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    words = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {words[:200]}"


def without_triton() -> str | None:
    """Why Triton's kernels cannot be timed here; None where they can."""
    why = operators.without_triton()
    if why is None and not torch.cuda.is_available():
        return "TRITON_INTERPRET=1 runs kernels line by line on a CPU, which says nothing of their speed"
    return None if why is None else why.partition(":")[0]  # what runs instead has rows of its own


def thread_counts(most: int) -> list[int]:
    return Field((), most, False).thread_counts


def of(subject: Subject, given: list[Call], asked: Field) -> Iterator[Contestant]:
    """All contestants of an operator."""
    plain = asked.number_format == "fp32"
    forget_compiled(asked)
    for backend in asked.backends:
        if backend in ("loops", "numpy", "numba"):
            if plain:
                yield from _on_cpu(subject, given, backend, asked)
        elif backend == "triton":
            yield from _triton(subject, given, asked)
        else:
            yield from _in_torch(given, backend, asked)


def forget_compiled(asked: Field) -> None:
    """Before each subject: torch counts how often one line of code was compiled, and runs it eagerly, silently, after eight."""
    if "torch-compiled" in asked.backends:
        torch._dynamo.reset()


def _on_cpu(subject: Subject, given: list[Call], backend: str, asked: Field) -> Iterator[Contestant]:
    table = getattr(operators, backend.upper())
    if not all(hasattr(table, operator) for operator in subject.operators):
        yield Contestant(backend, None, reason="it has no such operator: it does one thing after the other")
        return
    if backend == "loops":
        small = calls(subject.part())
        yield Contestant(backend, run(table, small), threads=1, scale=subject.parts())
        return
    for count in asked.thread_counts if backend == "numba" else [asked.threads]:
        yield Contestant(backend, run(table, given), threads=count)


def _triton(subject: Subject, given: list[Call], asked: Field) -> Iterator[Contestant]:
    if (why := without_triton()) is not None:
        yield Contestant("triton", None, device="cuda", reason=why)
        return
    versions = [row for row in rows.KERNELS if [row.operator] == list(subject.operators)]
    if subject.operators == ("conv2d",):  # the same in one kernel with its pooling has a subject of its own
        versions = [row for row in versions if row.operator == "conv2d"]
    dtype = FORMATS[asked.number_format][0]
    for row in versions:
        layout = "NCHW" if row.version in IN_NCHW else "channels last"
        ((_, args, options),) = _tensors(given, dtype, "cuda", LAYOUTS[layout])
        call = _called(row.load(), args, {**options, **row.options}, changed(row.operator))
        yield Contestant("triton", call, device="cuda", layout=layout, version=row.version)
    if len(versions) != 1:
        placed = [Call(*each) for each in _tensors(given, dtype, "cuda", torch.channels_last)]
        yield Contestant("triton", run(operators.TRITON, placed), device="cuda", layout="channels last")


def _in_torch(given: list[Call], backend: str, asked: Field) -> Iterator[Contestant]:
    devices = ["cpu"] * (asked.number_format == "fp32" and backend != "torch-graph") + ["cuda"] * asked.has_gpu
    if backend == "torch-graph" and not asked.has_gpu:
        yield Contestant(backend, None, device="cuda", reason="CUDA graphs need a GPU, and torch sees none")
    if backend == "torch" and not asked.has_gpu:
        yield Contestant(backend, None, device="cuda", reason="torch sees no GPU")
    for device in devices:
        threads = asked.threads if device == "cpu" else None
        for layout, form in LAYOUTS.items():
            if layout != "NCHW" and not any(np.ndim(each) == 4 for call in given for each in call.args):
                continue
            placed = [Call(*each) for each in _tensors(given, FORMATS[asked.number_format][0], device, form)]
            work = in_torch.work(placed, is_compiled=backend == "torch-compiled")
            if work is None:
                yield Contestant(backend, None, threads, device, reason="PyTorch has no function that does just this")
                break
            yield Contestant(backend, mode(work, backend), threads, device, layout)


def mode(work: Callable[[], Any], backend: str) -> Callable[[], Any]:
    """The same work compiled, or captured once and replayed."""
    if backend == "torch-compiled":
        return torch.compile(work, dynamic=False)  # else the second layout gets a kernel for any strides
    return captured(work) if backend == "torch-graph" else work


def captured(work: Callable[[], Any]) -> Callable[[], Any]:
    """`work` as a CUDA graph, captured at the first call."""
    kept: list[Any] = []

    def call() -> Any:
        if not kept:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = work()
            kept.extend((graph, result))
        kept[0].replay()
        return kept[1]

    return call


def run(table: Any, given: Sequence[Call]) -> Callable[[], Any]:
    """All operators, on a table's own arrays; results go to memory that the first call makes."""
    works = [_called(getattr(table, call.operator), call.args, call.options, changed(call.operator)) for call in given]
    return works[0] if len(works) == 1 else lambda: tuple(work() for work in works)


def _called(function: Callable, args: list, options: dict, place: int | None) -> Callable[[], Any]:
    if place is not None:  # in place, on its own copies
        args = [each.clone() if isinstance(each, torch.Tensor) else np.array(each) for each in args]
        return lambda: (function(*args, **options), args[place])[1]
    kept: dict[str, Any] = {}
    names = inspect.signature(function).parameters

    def call() -> Any:
        found = function(*args, **options, **kept)
        if not kept and "out" in names:
            several = found if isinstance(found, tuple) else (found,)
            kept["out"] = max(several, key=lambda each: each.nbytes)  # statistics and losses beside it are new
            if "index" in names and len(several) > 1:  # of a pooling: the places
                kept["index"] = several[1]
        return found

    return call


def _tensors(given: list[Call], dtype: torch.dtype, device: str, form: torch.memory_format) -> list[tuple]:
    """Calls on tensors. Arrays that are one stay one; on a CPU in float32 and NCHW no memory is copied."""
    made: dict[int, torch.Tensor] = {}

    def tensor(value: Any, *, copies: bool) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in made or copies:
            found = torch.from_numpy(np.array(value) if copies else value)
            found = found.to(device, dtype if found.is_floating_point() else None)
            made[id(value)] = found.contiguous(memory_format=form) if found.dim() == 4 else found
        return made[id(value)]

    return [
        (
            call.operator,
            [tensor(each, copies=changed(call.operator) is not None) for each in call.args],
            {key: tensor(each, copies=False) for key, each in call.options.items()},
        )
        for call in given
    ]
