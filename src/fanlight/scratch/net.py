"""A network's forward and backward on any table of operators. Every array is a room of a Memory, made at the first step.

A layer's result has a room of its own, since the backward reads it; gradients go to and fro between two. What changes number
by number is done in place where no backward needs the number before. ReLU is part of the convolution or dense layer before it;
its gradient, where a max-pooling follows, is taken of the pooled numbers, since only the largest of a window has one. A table
with `conv2d_pooled` does all three in one.
N images of a batch; names of weights are places, as models/line.py has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from fanlight.models import line
from fanlight.models.line import Placed
from fanlight.scratch.backends import Memory

EPS, MOMENTUM = 1e-5, 0.1  # of batch norms, torch's own
INDEX = np.dtype(np.uint16)  # of a place in a window


class Exchange(Protocol):
    """What batch norms ask of the ranks that see the other rows of a batch."""

    def merged(self, mean: Any, var: Any, *, count: int) -> tuple[Any, Any, int]:
        """Mean, variance and count over all ranks' values, from those of this rank's."""
        ...

    def summed(self, *sums: Any) -> tuple[Any, ...]:
        """Each over all ranks, in arrays of its own."""
        ...


@dataclass
class Pass:
    """What a forward and its backward work with."""

    table: SimpleNamespace
    memory: Memory
    weights: dict[str, Any]  # parameters and running statistics, by name
    is_training: bool
    keys: Callable[[int], Any] | None = None  # uint64 [N] of the dropout with this number
    exchange: Exchange | None = None  # None: this rank sees all rows
    gradients: dict[str, Any] = field(default_factory=dict)  # by name, where they go
    adds: bool = False  # to what is there already, of an earlier microbatch
    slot: int = 0  # which of the two rooms holds the newest gradient

    def result(self, name: str, shape: tuple[int, ...], like: Any) -> Any:
        """Room for what a layer gives."""
        return self.memory.room(f"{name} result", shape, like)

    def other(self, shape: tuple[int, ...], like: Any) -> Any:
        """Room for the next gradient, where the newest is not."""
        self.slot = 1 - self.slot
        return self.memory.room(f"gradient {self.slot}", shape, like)

    def give(self, name: str, make: Callable[[Any], Any]) -> None:
        """The gradient of the weight `name`, which `make(out)` computes."""
        there = self.gradients[name]
        if not self.adds:
            make(there)
            return
        more = self.memory.room("weight's gradient", tuple(there.shape), there)
        make(more)
        there += more

    def give_made(self, name: str, gradient: Any) -> None:
        """The gradient of the weight `name`."""
        there = self.gradients[name]
        if self.adds:
            there += gradient
        else:
            there[...] = gradient


class Net:
    """Layers one after the other. After a forward in training, `backward` may be called once."""

    def __init__(self, placed: tuple[Placed, ...], *, fuses_pooling: bool = False):
        drops = [each.name for each in line.walk(placed) if isinstance(each.layer, line.Dropout)]
        self._layers = list(_layers(placed, {name: number for number, name in enumerate(drops)}, fuses_pooling))
        self._first = next(index for index, layer in enumerate(self._layers) if layer.trains)

    def forward(self, x: Any, run: Pass) -> Any:
        """[N, K] of images [N, C, H, W], in a room that the next forward uses again."""
        for layer in self._layers:
            x = layer.forward(x, run)
        return x

    def backward(self, grad: Any, run: Pass) -> None:
        """Gradients of all weights from that of what forward gave; `grad` may be changed."""
        for index in range(len(self._layers) - 1, self._first - 1, -1):
            grad = self._layers[index].backward(grad, run, is_wanted=index > self._first)


class _Layer:
    """One layer. `keeps_result`: its backward reads what it gave, so that nothing may be done to it in place."""

    keeps_result = False

    def __init__(self, placed: Placed):
        self.name, self.y = placed.name, placed.y
        self.trains = any(line.weights(each) for each in line.walk((placed,)))

    def forward(self, x: Any, run: Pass) -> Any:
        raise NotImplementedError

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        """The gradient of what came in, from that of what left; None where it is not wanted."""
        raise NotImplementedError


class _Conv(_Layer):
    """`masks`: the gradient of its ReLU is taken here, and not of what a pooling leaves of it."""

    def __init__(self, placed: Placed, *, relu: bool, masks: bool):
        super().__init__(placed)
        layer: Any = placed.layer
        self.relu, self.keeps_result = relu, masks
        self.kernel, self.image, self.has_bias = (layer.kernel, layer.kernel), placed.x[1:], placed.has_bias
        self.how = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}

    def forward(self, x: Any, run: Pass) -> Any:
        self.x = x
        self.given = run.result(self.name, (len(x), *self.y), x)
        weight, bias = run.weights[f"{self.name}.weight"], run.weights.get(f"{self.name}.bias")
        return run.table.conv2d(x, weight, bias, relu=self.relu, out=self.given, **self.how)

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        t = run.table
        if self.keeps_result:
            grad = t.relu_backward(grad, self.given, out=grad)
        if self.has_bias:
            run.give(f"{self.name}.bias", lambda out: t.conv2d_bias(grad, out=out))
        run.give(
            f"{self.name}.weight", lambda out: t.conv2d_weight(grad, self.x, kernel=self.kernel, out=out, **self.how)
        )
        if not is_wanted:
            return None
        weight = run.weights[f"{self.name}.weight"]
        return t.conv2d_input(grad, weight, image=self.image, out=run.other(tuple(self.x.shape), self.x), **self.how)


class _Dense(_Layer):
    def __init__(self, placed: Placed, *, relu: bool):
        super().__init__(placed)
        self.keeps_result = self.relu = relu
        self.has_bias = placed.has_bias

    def forward(self, x: Any, run: Pass) -> Any:
        self.shape, self.x = tuple(x.shape), x.reshape(len(x), -1)
        self.given = run.result(self.name, (len(x), *self.y), x)
        weight, bias = run.weights[f"{self.name}.weight"], run.weights.get(f"{self.name}.bias")
        return run.table.linear(self.x, weight, bias, relu=self.relu, out=self.given)

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        t = run.table
        if self.relu:
            grad = t.relu_backward(grad, self.given, out=grad)
        if self.has_bias:
            run.give(f"{self.name}.bias", lambda out: t.linear_bias(grad, out=out))
        run.give(f"{self.name}.weight", lambda out: t.linear_weight(grad, self.x, out=out))
        if not is_wanted:
            return None
        room = run.other(tuple(self.x.shape), self.x)
        return t.linear_input(grad, run.weights[f"{self.name}.weight"], out=room).reshape(self.shape)


class _Pool(_Layer):
    """`after_relu`: the gradient of the ReLU before it is taken here."""

    def __init__(self, placed: Placed, *, after_relu: bool):
        super().__init__(placed)
        layer: Any = placed.layer
        self.keeps_result = after_relu
        self.image, self.is_mean = placed.x[1:], layer.is_mean
        self.window = (layer.kernel, layer.kernel) if layer.kernel else self.image
        self.how = {"stride": layer.stride or self.image, "padding": layer.padding}

    def forward(self, x: Any, run: Pass) -> Any:
        t, self.x = run.table, x
        given = self.given = run.result(self.name, (len(x), *self.y), x)
        if self.is_mean:
            return t.avg_pool2d(x, self.window, out=given, **self.how)
        if not run.is_training:  # nobody asks where the largest was
            return t.max_pool2d(x, self.window, out=given, **self.how)
        self.index = run.memory.room(f"{self.name} index", tuple(given.shape), INDEX)
        return t.max_pool2d_index(x, self.window, out=given, index=self.index, **self.how)[0]

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        t, how = run.table, {"image": self.image, "out": run.other(tuple(self.x.shape), self.x), **self.how}
        grad = grad.reshape(len(grad), *self.y)
        if self.keeps_result:
            grad = t.relu_backward(grad, self.given, out=grad)
        if self.is_mean:
            return t.avg_pool2d_backward(grad, self.window, **how)
        return t.max_pool2d_backward(grad, self.index, self.window, **how)


class _ConvPooled(_Layer):
    """Convolution, bias, ReLU and the largest of 2 × 2 by one operator of the table: what is not pooled is never stored."""

    keeps_result = True

    def __init__(self, placed: Placed, pooled: Placed):
        super().__init__(placed)
        self.conv, self.between, self.y = _Conv(placed, relu=False, masks=False), placed.y, pooled.y

    def forward(self, x: Any, run: Pass) -> Any:
        self.conv.x, shape = x, (len(x), *self.y)
        self.given = run.result(self.name, shape, x)
        self.index = run.memory.room(f"{self.name} index", shape, INDEX)
        weight, bias = run.weights[f"{self.name}.weight"], run.weights.get(f"{self.name}.bias")
        return run.table.conv2d_pooled(
            x, weight, bias, activation="relu", out=self.given, index=self.index, **self.conv.how
        )[0]  # fmt: skip

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        t, grad = run.table, grad.reshape(len(grad), *self.y)
        grad = t.relu_backward(grad, self.given, out=grad)
        room = run.other((len(grad), *self.between), grad)
        grad = t.max_pool2d_backward(grad, self.index, 2, image=self.between[1:], out=room)
        return self.conv.backward(grad, run, is_wanted=is_wanted)


class _Norm(_Layer):
    def forward(self, x: Any, run: Pass) -> Any:
        t, self.x = run.table, x
        given = run.result(self.name, tuple(x.shape), x)
        weight, bias, running_mean, running_var = (
            run.weights[f"{self.name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        if not run.is_training:
            return t.batch_norm_fixed(x, weight, bias, running_mean, running_var, eps=EPS, out=given)
        given, self.mean, self.var = t.batch_norm(x, weight, bias, eps=EPS, out=given)
        self.count = x.shape[0] * int(np.prod(tuple(x.shape[2:])))
        if run.exchange is not None:
            self.mean, self.var, self.count = run.exchange.merged(self.mean, self.var, count=self.count)
            given = t.batch_norm_fixed(x, weight, bias, self.mean, self.var, eps=EPS, out=given)
        t.batch_norm_running(running_mean, running_var, self.mean, self.var, count=self.count, momentum=MOMENTUM)
        return given

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        t, weight = run.table, run.weights[f"{self.name}.weight"]
        room = run.other(tuple(self.x.shape), self.x)
        backward = t.batch_norm_backward if run.exchange is None else t.batch_norm_fixed_backward
        dx, dweight, dbias = backward(grad, self.x, weight, self.mean, self.var, eps=EPS, out=room)
        run.give_made(f"{self.name}.weight", dweight)
        run.give_made(f"{self.name}.bias", dbias)
        if (
            run.exchange is not None
        ):  # the statistics' part is of all ranks' sums, and is a batch norm by fixed ones again
            along, total = run.exchange.summed(dweight, dbias)
            scale = weight / (self.var + EPS) ** 0.5 / self.count
            part = run.memory.room(f"{self.name} statistics", tuple(dx.shape), dx)
            dx -= t.batch_norm_fixed(self.x, scale * along, scale * total, self.mean, self.var, eps=EPS, out=part)
        return dx


class _Activation(_Layer):
    def __init__(self, placed: Placed, *, in_place: bool):
        super().__init__(placed)
        self.kind: str = placed.layer.name  # type: ignore[attr-defined]
        self.keeps_result = self.kind != "gelu"
        self.in_place = in_place and self.kind != "gelu"

    def forward(self, x: Any, run: Pass) -> Any:
        given = x if self.in_place else run.result(self.name, tuple(x.shape), x)
        self.kept = given if self.keeps_result else x
        return getattr(run.table, self.kind)(x, out=given)

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        grad = grad.reshape(self.kept.shape)
        return getattr(run.table, f"{self.kind}_backward")(grad, self.kept, out=grad)


class _Dropout(_Layer):
    def __init__(self, placed: Placed, *, number: int):
        super().__init__(placed)
        self.number = number
        # models/keyed compares 24 bits of the hash with the rate: rounded up to that many, both keep the same.
        self.rate = float(np.ceil(np.float64(np.float32(placed.layer.rate)) * 2**24) / 2**24)  # type: ignore[attr-defined]

    def forward(self, x: Any, run: Pass) -> Any:
        if not run.is_training:
            return x
        assert run.keys is not None, "keys of this very batch are set before a forward in training"
        self.keys = run.keys(self.number)
        return run.table.dropout_keyed(x, self.keys, rate=self.rate, out=run.result(self.name, tuple(x.shape), x))

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        grad = grad.reshape(len(grad), *self.y)
        return run.table.dropout_keyed(grad, self.keys, rate=self.rate, out=grad)


class _Block(_Layer):
    """Layers, added to what comes in."""

    def __init__(self, placed: Placed, drops: dict[str, int], fuses_pooling: bool):
        super().__init__(placed)
        self.body = list(_layers(placed.body, drops, fuses_pooling))

    def forward(self, x: Any, run: Pass) -> Any:
        inner = x
        for layer in self.body:
            inner = layer.forward(inner, run)
        if inner is x or self.body[-1].keeps_result:
            given = run.result(self.name, tuple(x.shape), x)
            given[...] = inner
            inner = given
        inner += x
        return inner

    def backward(self, grad: Any, run: Pass, *, is_wanted: bool) -> Any:
        grad = grad.reshape(len(grad), *self.y)
        skipped = run.memory.room(f"{self.name} skipped", tuple(grad.shape), grad)
        skipped[...] = grad
        for layer in reversed(self.body):
            grad = layer.backward(grad, run, is_wanted=True)
        grad += skipped
        return grad


def _layers(placed: tuple[Placed, ...], drops: dict[str, int], fuses_pooling: bool) -> Iterator[_Layer]:
    """`drops` are the dropouts' numbers by name."""
    before: _Layer | None = None
    index, after_relu = 0, False
    while index < len(placed):
        each, layer = placed[index], placed[index].layer
        relu, pooled = _follow(placed[index + 1 :])
        made: _Layer
        if isinstance(layer, line.Conv) and pooled is not None and fuses_pooling and _is_two_by_two(pooled.layer):
            made, index, relu = _ConvPooled(each, pooled), index + 2, False
        elif isinstance(layer, line.Conv):
            made, index = _Conv(each, relu=relu, masks=relu and pooled is None), index + relu
        elif isinstance(layer, line.Dense):
            made, index, relu = _Dense(each, relu=relu), index + relu, False
        elif isinstance(layer, line.Pool):
            made = _Pool(each, after_relu=after_relu)
        elif isinstance(layer, line.Norm):
            made = _Norm(each)
        elif isinstance(layer, line.Activation):
            # A dropout in evaluation gives the very array that it got, which others may read.
            apart = before is not None and not before.keeps_result and not isinstance(before, _Dropout)
            made = _Activation(each, in_place=apart)
        elif isinstance(layer, line.Dropout):
            made = _Dropout(each, number=drops[each.name])
        else:
            made = _Block(each, drops, fuses_pooling)
        yield made
        after_relu = isinstance(made, _Conv) and relu and pooled is not None
        before = made
        index += 1


def _follow(placed: tuple[Placed, ...]) -> tuple[bool, Placed | None]:
    """Whether a ReLU comes next, and the max-pooling that comes right after it."""
    relu = bool(placed) and isinstance(placed[0].layer, line.Activation) and placed[0].layer.name == "relu"
    pooled = placed[1] if relu and len(placed) > 1 and isinstance(placed[1].layer, line.Pool) else None
    return relu, None if pooled is None or pooled.layer.is_mean else pooled  # type: ignore[attr-defined]


def _is_two_by_two(layer: Any) -> bool:
    return (layer.kernel, layer.stride, layer.padding) == (2, 2, 0)
