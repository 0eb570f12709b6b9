"""What `fanlight scratch bench` asks: an operator in a direction on a shape. N images, C channels, H × W image, O filters or
outputs, R × S kernel or window, P × Q result.

The first group of each kind is the reference project's own shape. `kernels` are the sizes of ResNet-18 and ResNet-50 that
kernels.rows has for each kernel. Numbers are drawn from a fixed seed, once for all contestants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fanlight.kernels import rows
from fanlight.kernels.rows import Case

SEED = 0
NETWORK = ("step", "batch", "epoch")  # groups that are no single operator
BACKWARD = {  # an operator, and what a training step asks of it on the way back
    "conv2d": ("conv2d_input", "conv2d_weight", "conv2d_bias"),
    "linear": ("linear_input", "linear_weight", "linear_bias"),
    "max_pool2d": ("max_pool2d_backward",), "avg_pool2d": ("avg_pool2d_backward",),
    "relu": ("relu_backward",), "tanh": ("tanh_backward",), "gelu": ("gelu_backward",),
    "batch_norm": ("batch_norm_backward",), "cross_entropy": ("cross_entropy_backward",),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One question: `operators` of scratch.operators, called one after the other, on `case`."""

    op: str
    direction: str  # forward, backward, or what else the operator is
    operators: tuple[str, ...]
    case: Case

    @property
    def shape(self) -> str:
        return shape_text(self.case, self.operators[0])

    @property
    def flop(self) -> float:
        """Multiplications and additions of the plain definition; of poolings and ReLU their comparisons or additions, and 0 of
        what else waits for memory."""
        return sum(rows.flop(operator, self.case) or _few(operator, self.case) for operator in self.operators)

    def part(self) -> Subject:
        """The same question so small that loops answer it in a second or so."""
        return replace(self, case=_part(self.case, self.operators[0]))

    def parts(self) -> float:
        """How many times the work of `part` this is: loops take as many times as long."""
        small = self.part()
        return self.flop / small.flop if self.flop else math.prod(self.case.shape) / math.prod(small.case.shape)


class Draw:
    """Numbers for an operator's arguments, float32 unless whole."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(SEED)

    def normal(self, *shape: int) -> np.ndarray:
        return self._generator.standard_normal(shape, np.float32)

    def whole(self, below: int, kind: str, *shape: int) -> np.ndarray:
        return self._generator.integers(0, below, shape).astype(kind)


@dataclass(frozen=True)
class Call:
    """An operator with its arguments."""

    operator: str
    args: list[Any]
    options: dict[str, Any]


def calls(subject: Subject) -> list[Call]:
    """Of all operators of a subject; the result's gradient, which comes first in each, is one array."""
    found: list[Call] = []
    for operator in subject.operators:
        args, options = rows.inputs(operator, subject.case, Draw())
        if found:
            args[0] = found[0].args[0]
        if "pool2d" in operator:
            options.pop("dilation", None), options.pop("groups", None)
        if operator == "max_pool2d_backward":
            args[1] = _inside(args[1], subject.case)
        found.append(Call(operator, args, dict(options)))
    return found


def _inside(place: np.ndarray, case: Case) -> np.ndarray:
    """Places in windows, [N, C, P, Q], that are none of the padding's: a pooling's forward never says such a one, and PyTorch
    would write there."""
    R, S = case.kernel
    corrected = []
    for axis, (size, within) in enumerate(((R, place // S), (S, place % S))):
        first = (
            np.arange(place.shape[2 + axis]) * case.stride[axis] - case.padding[axis]
        )  # pixel of the window's corner
        first = first[:, None] if axis == 0 else first
        corrected.append(
            np.clip(within.astype(np.int64), np.maximum(0, -first), np.minimum(size, case.shape[2 + axis] - first) - 1)
        )
    return (corrected[0] * S + corrected[1]).astype(place.dtype)


def changed(operator: str) -> int | None:
    """Which argument an operator changes in place, where it gives nothing back."""
    return 0 if operator in rows.HYPER else None


def shape_text(case: Case, operator: str) -> str:
    """`32×16×100×100, 32 of 3×3`."""
    sizes = "×".join(f"{size:,}" for size in case.shape)
    if operator.startswith("linear"):
        return f"{sizes} → {case.outputs:,}"
    window = "×".join(map(str, case.kernel))
    if operator.startswith("conv2d"):
        more = [f"stride {case.stride[0]}"] * (case.stride != (1, 1)) + [f"padding {case.padding[0]}"] * (
            case.padding != (0, 0)
        )
        return ", ".join([sizes, f"{case.outputs} of {window}", *more])
    if "pool2d" in operator:
        return f"{sizes}, {window}"
    return sizes


def _few(operator: str, case: Case) -> float:
    """Comparisons or additions of what has hardly any."""
    if operator in ("relu", "relu_backward"):
        return float(math.prod(case.shape))
    if "pool2d" not in operator:
        return 0.0
    of_result = case.kernel[0] * case.kernel[1] - 1 if not operator.startswith("max_pool2d_b") else 1
    return float(of_result * math.prod((*case.shape[:2], *case.result[2:])))


def _part(case: Case, operator: str) -> Case:
    if operator.startswith("conv2d"):
        return replace(case, shape=(1, *case.shape[1:]), outputs=case.groups)
    if operator.startswith("linear"):
        sizes = (
            min(case.shape[0], 64),
            min(case.shape[1], 100),
        )  # sums as long as that hide what each of them begins with
        return replace(case, shape=sizes, outputs=min(case.outputs, 64))
    if operator.startswith("batch_norm"):
        return replace(case, shape=(min(case.shape[0], 2), min(case.shape[1], 2), *case.shape[2:]))
    if len(case.shape) == 4:
        channels = min(case.shape[1], 2)
        return replace(case, shape=(1, channels, *case.shape[2:]), outputs=channels)
    return replace(case, shape=(min(case.shape[0], 16), *case.shape[1:]))


def _both(op: str, operator: str, case: Case) -> list[Subject]:
    forward = Subject(op, "forward", (operator,), case)
    return [forward, Subject(op, "backward", BACKWARD[operator], case)] if operator in BACKWARD else [forward]


CONVOLUTION = Case("reference", (32, 16, 100, 100), 32, (3, 3))
POOLING = Case("reference", (64, 32, 200, 200), 32, (2, 2), (2, 2))
DENSE = Case("reference", (256, 10_000), 1024)
VALUES = Case("after the convolution", (32, 32, 98, 98))
GROUPS: dict[str, list[Subject]] = {
    "convolution": _both("convolution", "conv2d", CONVOLUTION),
    "pooling": [
        *_both("pooling", "max_pool2d", POOLING),
        Subject("pooling", "forward with places", ("max_pool2d_index",), POOLING),
    ],
    "dense": _both("dense", "linear", DENSE),
    "avg-pooling": _both("avg-pooling", "avg_pool2d", POOLING),
    "activation": [subject for name in ("relu", "tanh", "gelu") for subject in _both(name, name, VALUES)],
    "batch-norm": _both("batch-norm", "batch_norm", VALUES),
    "dropout": [Subject("dropout", "forward", ("dropout_keyed",), VALUES)],
    "loss": _both("loss", "cross_entropy", Case("a vocabulary", (4096, 1000))),
    "optimizer": [
        Subject(name, "update", (name,), Case("reference's dense layer", (1024, 10_000))) for name in ("sgd", "adamw")
    ],
    "kernels": [
        Subject(operator, "alone", (operator,), case)
        for operator in dict.fromkeys(row.operator for row in rows.KERNELS)
        for case in next(row.bench for row in rows.KERNELS if row.operator == operator)
    ],
}  # fmt: skip
DEFAULT = (*(name for name in GROUPS if name != "kernels"), *NETWORK)
NAMES = (*GROUPS, *NETWORK)
