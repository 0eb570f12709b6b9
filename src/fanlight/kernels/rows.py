"""The table of kernels: a row says which operator a kernel computes, by which idea, where it is, and on what it is tried.

Tests and benchmark walk over it: an operator is its own reference, as scratch.operators has it. Nothing here needs Triton;
a kernel's file is imported when it is first asked for. Letters as in sizes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fanlight.kernels.sizes import Pair, sizes


@dataclass(frozen=True)
class Case:
    """One size to try: what of it counts depends on the operator."""

    name: str
    shape: tuple[int, ...]  # of the input: [N, C, H, W], [N, I], [N, K] or any
    outputs: int = 1  # filters, or outputs of a dense layer
    kernel: Pair = (1, 1)  # or window
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def result(self) -> tuple[int, ...]:
        """[N, O, P, Q] of a convolution; of a pooling with outputs = C."""
        at = sizes(
            self.shape, self.outputs, self.kernel, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups,
        )  # fmt: skip
        return at.N, at.O, at.P, at.Q

    @property
    def steps(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


@dataclass(frozen=True)
class Kernel:
    """A row."""

    operator: str  # what it computes, in scratch.operators
    version: str  # its idea
    file: str  # in this package
    function: str
    odd: tuple[Case, ...]  # sizes for tests: 1, 255, 257, primes
    bench: tuple[Case, ...]  # sizes for benchmarks
    options: dict[str, Any] = field(default_factory=dict)  # more that the function takes

    @property
    def name(self) -> str:
        return f"{self.operator}, {self.version}"

    def load(self) -> Callable[..., Any]:
        """The function, on tensors."""
        return getattr(importlib.import_module(f"fanlight.kernels.{self.file}"), self.function)


class Draw(Protocol):
    """Makes the numbers that a kernel is tried on."""

    def normal(self, *shape: int) -> Any: ...
    def whole(self, below: int, kind: str, *shape: int) -> Any: ...  # kind: uint16, int64, uint64, bool


Inputs = tuple[list[Any], dict[str, Any]]


def inputs(operator: str, case: Case, draw: Draw) -> Inputs:
    """Arguments and options of an operator."""
    shape = case.shape
    if operator.startswith("conv2d"):
        return _of_convolution(operator, case, draw)
    if "pool2d" in operator:
        return _of_pooling(operator, case, draw)
    if operator.startswith("linear"):
        x, weight, grad = shape, (case.outputs, shape[1]), (shape[0], case.outputs)
        of: dict[str, list[tuple[int, ...]]] = {
            "": [x, weight, (case.outputs,)],
            "_input": [grad, weight],
            "_weight": [grad, x],
            "_bias": [grad],
        }
        return [draw.normal(*each) for each in of[operator.removeprefix("linear")]], {}
    if operator.startswith("batch_norm"):
        return _of_norm(operator, case, draw)
    if operator == "dropout":
        return [draw.normal(*shape), draw.whole(2, "bool", *shape)], {"rate": 0.3}
    if operator == "dropout_keyed":
        return [draw.normal(*shape), draw.whole(1 << 62, "uint64", shape[0])], {"rate": 0.3}
    if operator.startswith("cross_entropy"):
        scale = {"scale": draw.normal(shape[0])} if operator.endswith("backward") else {}
        return [draw.normal(*shape), draw.whole(shape[1], "int64", shape[0])], scale
    if operator in HYPER:
        square = [draw.normal(*shape) ** 2] if operator == "adamw" else []
        return [*(draw.normal(*shape) for _ in range(3)), *square], dict(HYPER[operator])
    return [draw.normal(*shape) for _ in range(2 if operator.endswith("backward") else 1)], {}


HYPER: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "adamw": {"step": 3, "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
}


def _of_convolution(operator: str, case: Case, draw: Draw) -> Inputs:
    weight = (case.outputs, case.shape[1] // case.groups, *case.kernel)
    if operator in ("conv2d", "conv2d_pooled"):
        return [draw.normal(*case.shape), draw.normal(*weight), draw.normal(case.outputs)], case.steps
    grad = draw.normal(*case.result)
    if operator == "conv2d_input":
        return [grad, draw.normal(*weight)], {"image": case.shape[2:], **case.steps}
    if operator == "conv2d_weight":
        return [grad, draw.normal(*case.shape)], {"kernel": case.kernel, **case.steps}
    return [grad], {}


def _of_pooling(operator: str, case: Case, draw: Draw) -> Inputs:
    steps = {"stride": case.stride, "padding": case.padding}
    if not operator.endswith("backward"):
        return [draw.normal(*case.shape), case.kernel], steps
    of = (*case.shape[:2], *case.result[2:])
    places = [draw.whole(case.kernel[0] * case.kernel[1], "uint16", *of)] if operator.startswith("max") else []
    return [draw.normal(*of), *places, case.kernel], {"image": case.shape[2:], **steps}


def _of_norm(operator: str, case: Case, draw: Draw) -> Inputs:
    is_backward = operator.endswith("backward")
    weight, bias, mean = (draw.normal(case.shape[1]) for _ in range(3))
    statistics = [] if operator == "batch_norm" else [mean, mean**2 + 1]
    images = [draw.normal(*case.shape) for _ in range(2 if is_backward else 1)]
    return [*images, *([weight] if is_backward else [weight, bias]), *statistics], {"eps": 1e-5}


def flop(operator: str, case: Case) -> float:
    """Multiplications and additions of a convolution or a dense layer; of the others 0, for they wait for memory."""
    if operator in ("conv2d", "conv2d_pooled", "conv2d_input", "conv2d_weight"):
        N, O, P, Q = case.result  # noqa: E741
        return 2.0 * N * O * P * Q * (case.shape[1] // case.groups) * case.kernel[0] * case.kernel[1]
    if operator in ("linear", "linear_input", "linear_weight"):
        return 2.0 * case.shape[0] * case.shape[1] * case.outputs
    return 0.0


CONVOLUTIONS = (
    Case("one number", (1, 1, 1, 1)),
    Case("255 wide", (1, 3, 3, 255), 5, (3, 3), padding=(1, 1)),
    Case("257 high", (1, 5, 257, 3), 9, (3, 2), padding=(1, 1)),
    Case("primes", (2, 7, 13, 11), 19, (3, 3), stride=(2, 3), padding=(1, 1)),
    Case("7 x 7 by 2", (1, 3, 17, 19), 17, (7, 7), stride=(2, 2), padding=(3, 3)),
    Case("stride beyond the kernel", (2, 4, 13, 17), 5, (2, 2), stride=(5, 3)),
    Case("dilated", (1, 17, 11, 13), 3, (3, 3), padding=(4, 4), dilation=(2, 5)),
    Case("dilated and strided", (1, 4, 15, 14), 6, (3, 2), stride=(2, 4), padding=(2, 2), dilation=(3, 2)),
    Case("in groups", (1, 34, 7, 9), 6, (3, 3), padding=(1, 1), groups=2),
    Case("each channel alone", (2, 5, 7, 9), 10, (3, 3), padding=(1, 1), groups=5),
    Case("one by one", (2, 33, 5, 7), 17),
    Case("one by one by 2", (1, 16, 9, 8), 16, stride=(2, 2)),
    Case("more padding than kernel", (1, 2, 3, 4), 3, (1, 2), padding=(4, 4), stride=(3, 3)),
    Case("a long sum", (2, 2, 17, 31), 3, (2, 2)),
)
RESNET = tuple(  # of ResNet-18 and ResNet-50 at 224 px
    Case(name, (64, C, px, px), O, (k, k), stride=(s, s), padding=(k // 2, k // 2))
    for name, C, px, O, k, s in (  # noqa: E741
        ("first", 3, 224, 64, 7, 2), ("56 px, 3x3", 64, 56, 64, 3, 1), ("56 px, 1x1 up", 64, 56, 256, 1, 1),
        ("56 px, 1x1 down", 256, 56, 64, 1, 1), ("to 28 px, 3x3", 128, 56, 128, 3, 2), ("28 px, 3x3", 128, 28, 128, 3, 1),
        ("to 28 px, 1x1", 256, 56, 512, 1, 2), ("28 px, 1x1 down", 512, 28, 128, 1, 1), ("14 px, 3x3", 256, 14, 256, 3, 1),
        ("14 px, 1x1 up", 256, 14, 1024, 1, 1), ("7 px, 3x3", 512, 7, 512, 3, 1), ("7 px, 1x1 down", 2048, 7, 512, 1, 1),
    )
)  # fmt: skip
SHALLOW = (  # for kernels whose programs are many and small, which takes the interpreter long
    Case("one number", (1, 1, 1, 1)),
    Case("255 wide", (1, 1, 1, 255), 2, (1, 3), padding=(0, 1)),
    Case("257 high", (1, 1, 257, 1), 1, (3, 1), padding=(1, 0)),
    Case("primes", (1, 3, 7, 5), 2, (3, 3), stride=(2, 3), padding=(1, 1)),
    Case("stride beyond the kernel", (2, 1, 7, 11), 2, (2, 2), stride=(5, 3)),
    Case("dilated and strided", (1, 2, 9, 8), 2, (3, 2), stride=(2, 4), padding=(2, 2), dilation=(3, 2)),
    Case("each channel alone", (2, 3, 5, 4), 6, (2, 2), padding=(1, 1), groups=3),
    Case("more padding than kernel", (1, 2, 3, 4), 3, (1, 2), padding=(4, 4), stride=(3, 3)),
    Case("more than a tile", (1, 1, 13, 11), 19, (2, 2)),
)
POOLED = tuple(case for case in CONVOLUTIONS if min(case.result[2:]) > 1)
POOLINGS = (
    Case("one number", (1, 1, 1, 1)),
    Case("2 by 2", (3, 5, 14, 6), 5, (2, 2), (2, 2)),
    Case("255 wide", (1, 3, 5, 255), 3, (2, 2), (2, 2)),
    Case("257 high, overlapping", (1, 2, 257, 4), 2, (2, 3), (1, 1)),
    Case("primes", (1, 17, 11, 7), 17, (3, 3), (2, 2), (1, 1)),
    Case("wide", (1, 3, 13, 17), 3, (5, 2), (1, 3), (2, 1)),
    Case("gaps", (1, 2, 13, 11), 2, (2, 2), (5, 4)),
    Case("whole image", (2, 17, 5, 3), 17, (5, 3)),
)
POOLINGS_BENCH = (
    Case("ResNet's", (64, 64, 112, 112), 64, (3, 3), (2, 2), (1, 1)),
    Case("2 by 2", (64, 64, 112, 112), 64, (2, 2), (2, 2)),
)
DENSE = (
    Case("one number", (1, 1)),
    Case("a row", (1, 255), 17),
    Case("primes", (31, 37), 41),
    Case("257 rows", (257, 5), 3),
    Case("a long sum", (3, 1031), 2),
)
DENSE_BENCH = (
    Case("4096³", (4096, 4096), 4096),
    Case("reference's", (256, 10_000), 1024),
    Case("ResNet's last", (256, 2048), 1000),
)
VALUES = (Case("one number", (1, 1)), Case("primes", (2, 3, 5, 7)), Case("257", (3, 257)), Case("a row", (1, 1021)))
VALUES_BENCH = (Case("51 million", (64, 256, 56, 56)),)
NORMS = (
    Case("two rows", (2, 1)),
    Case("primes", (7, 13, 5, 3)),
    Case("257 rows, 17 channels", (257, 17)),
    Case("lines", (3, 5, 31)),
)
NORMS_BENCH = (Case("56 px", (64, 256, 56, 56)), Case("7 px", (64, 2048, 7, 7)))
LOGITS = (Case("one class", (1, 1)), Case("primes", (5, 7)), Case("257 classes", (3, 257)), Case("31 rows", (31, 10)))
LOGITS_BENCH = (Case("ImageNet's", (4096, 1000)), Case("a vocabulary", (4096, 32_000)))

KERNELS = (
    Kernel("conv2d", "direct", "conv_direct", "forward", SHALLOW, RESNET),
    Kernel("conv2d", "tiled", "conv_tiled", "forward", SHALLOW, RESNET),
    Kernel("conv2d", "implicit GEMM", "conv_gemm", "forward", CONVOLUTIONS, RESNET),
    Kernel("conv2d", "fused", "conv_fused", "forward", CONVOLUTIONS, RESNET),
    Kernel("conv2d_pooled", "fused", "conv_fused", "forward_pooled", POOLED, RESNET, {"activation": "relu"}),
    Kernel("conv2d_input", "direct", "conv_direct", "input_gradient", SHALLOW, RESNET),
    Kernel("conv2d_input", "implicit GEMM by phase", "conv_input", "input_gradient", CONVOLUTIONS, RESNET),
    Kernel("conv2d_weight", "direct", "conv_direct", "weight_gradient", SHALLOW, RESNET),
    Kernel("conv2d_weight", "implicit GEMM", "conv_weight", "gemm", CONVOLUTIONS, RESNET),
    Kernel("conv2d_weight", "split-K", "conv_weight", "split_k", CONVOLUTIONS, RESNET),
    Kernel("conv2d_bias", "parts of columns", "column_sum", "conv2d_bias", CONVOLUTIONS, RESNET[:2]),
    Kernel("max_pool2d_index", "tiles of pixels", "pool_max", "forward", POOLINGS, POOLINGS_BENCH),
    Kernel("max_pool2d_backward", "gathered", "pool_max", "backward", POOLINGS, POOLINGS_BENCH),
    Kernel("avg_pool2d", "tiles of pixels", "pool_avg", "forward", POOLINGS, POOLINGS_BENCH),
    Kernel("avg_pool2d_backward", "gathered", "pool_avg", "backward", POOLINGS, POOLINGS_BENCH),
    Kernel("linear", "GEMM", "gemm", "linear", DENSE, DENSE_BENCH),
    Kernel("linear_input", "GEMM", "gemm", "linear_input", DENSE, DENSE_BENCH),
    Kernel("linear_weight", "GEMM, split-K", "gemm", "linear_weight", DENSE, DENSE_BENCH),
    Kernel("linear_bias", "parts of columns", "column_sum", "linear_bias", DENSE, DENSE_BENCH),
    *(
        Kernel(name, "number by number", "activation", name, VALUES, VALUES_BENCH)
        for name in ("relu", "relu_backward", "tanh", "tanh_backward", "gelu", "gelu_backward")
    ),
    Kernel("batch_norm", "merged statistics", "batch_norm", "forward", NORMS, NORMS_BENCH),
    Kernel("batch_norm_fixed", "one pass", "batch_norm", "forward_fixed", NORMS, NORMS_BENCH),
    Kernel("batch_norm_backward", "two passes", "batch_norm", "backward", NORMS, NORMS_BENCH, {"through_statistics": True}),
    Kernel("batch_norm_fixed_backward", "two passes", "batch_norm", "backward", NORMS, NORMS_BENCH,
           {"through_statistics": False}),
    Kernel("dropout", "number by number", "dropout", "masked", VALUES, VALUES_BENCH),
    Kernel("dropout_keyed", "hashed in place", "dropout", "keyed", VALUES, VALUES_BENCH),
    Kernel("cross_entropy", "a program per row", "cross_entropy", "forward", LOGITS, LOGITS_BENCH),
    Kernel("cross_entropy_backward", "a program per row", "cross_entropy", "backward", LOGITS, LOGITS_BENCH),
    Kernel("sgd", "number by number", "optimizer", "sgd", VALUES, VALUES_BENCH),
    Kernel("adamw", "number by number", "optimizer", "adamw", VALUES, VALUES_BENCH),
)  # fmt: skip
