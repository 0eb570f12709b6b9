"""Layers of a network from scratch, each a forward and a backward on any table of operators. N images of a batch.

A layer keeps for its backward what that reads, in rooms of a Memory. What changes number by number is done in place where no
backward needs the number before; gradients go to and fro between two rooms.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Layer:
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


class Conv(Layer):
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


class Dense(Layer):
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


class Pool(Layer):
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


class ConvPooled(Layer):
    """Convolution, bias, ReLU and the largest of 2 × 2 by one operator of the table: what is not pooled is never stored."""

    keeps_result = True

    def __init__(self, placed: Placed, pooled: Placed):
        super().__init__(placed)
        self.conv, self.between, self.y = Conv(placed, relu=False, masks=False), placed.y, pooled.y

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


class Norm(Layer):
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
        if self.count == 1:  # in torch's words, which the trainer knows how to answer
            raise ValueError(
                f"expected more than 1 value per channel of {self.name} when training, got {list(x.shape)}"
            )
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


class Activation(Layer):
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


class Dropout(Layer):
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


class Block(Layer):
    """Layers, added to what comes in."""

    def __init__(self, placed: Placed, body: list[Layer]):
        super().__init__(placed)
        self.body = body

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
