"""The table of operators: a row per function, in the file of the same name of every backend, with the same arguments.

    from fanlight.scratch.operators import NUMBA
    y = NUMBA.conv2d(x, weight, bias, padding=1, relu=True)

LOOPS is the definition, NUMPY what NumPy and BLAS can do, NUMBA all cores. Arrays are float32 or float64, images
[N, C, H, W]; `out` is where a result goes, else it is new. Nothing else is changed, save by optimizers and running
statistics. TRITON is a GPU's, and takes and gives tensors as well as arrays, of float32, bfloat16 or float16 (scratch/gpu);
`without_triton` says why it cannot run here. A backend is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace

ROWS = {  # file → functions; x_input and x_weight are gradients by what they are of
    "convolution": ("conv2d", "conv2d_input", "conv2d_weight", "conv2d_bias"),
    "pooling": (
        "max_pool2d", "max_pool2d_index", "max_pool2d_backward",
        "avg_pool2d", "avg_pool2d_backward",
    ),
    "dense": ("linear", "linear_input", "linear_weight", "linear_bias"),
    "activation": ("relu", "relu_backward", "tanh", "tanh_backward", "gelu", "gelu_backward"),
    "norm": (
        "batch_norm", "batch_norm_backward", "batch_norm_fixed", "batch_norm_fixed_backward", "batch_norm_running",
    ),
    "dropout": ("dropout", "dropout_keyed", "dropout_keep"),
    "loss": ("cross_entropy", "cross_entropy_backward"),
    "optimizer": ("sgd", "adamw"),
}  # fmt: skip
FUSED = {"convolution": ("conv2d_pooled",)}  # what a backend may have beside them, in one kernel
BACKENDS = {"LOOPS": "reference.loops", "NUMPY": "reference.vectorised", "NUMBA": "cpu", "TRITON": "gpu"}

LOOPS: SimpleNamespace
NUMPY: SimpleNamespace
NUMBA: SimpleNamespace
TRITON: SimpleNamespace


def __getattr__(name: str) -> SimpleNamespace:
    if name not in BACKENDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    table = SimpleNamespace(name=name.lower())
    for file, functions in ROWS.items():
        module = importlib.import_module(f"fanlight.scratch.{BACKENDS[name]}.{file}")
        for function in functions:
            setattr(table, function, getattr(module, function))
        for function in FUSED.get(file, ()):
            if hasattr(module, function):
                setattr(table, function, getattr(module, function))
    globals()[name] = table
    return table


def without_triton() -> str | None:
    """Why TRITON cannot run on this machine, and what does instead; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (torch brings it on Linux only): NUMBA has the same operators on all CPU cores"
    return importlib.import_module("fanlight.kernels.launch").missing()
