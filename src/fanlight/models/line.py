"""A network as one line of text, such as `conv16k3 relu pool2 conv32k3 relu dense128 relu dense`: to layers, and back.

    conv16k3     16 filters of 3 × 3; s2 stride, p1 padding, d2 dilation, g4 groups may follow in any order
    pool2        the largest of 2 × 2, side by side; s and p may follow. avgpool2 the mean. Alone: of the whole image
    bn           batch norm; a convolution or dense layer before it has no bias, which the norm would take away
    relu tanh gelu dropout.5
    dense128     of all numbers of an image; the last one is the classes', as `dense` or with their very number
    [ … ]        what is inside, added to what comes in; both have one shape

A mistake is a ConfigError with a caret under the word. Shapes are of one image, [C, H, W] or [F]. No torch.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from fanlight.errors import ConfigError, near, shown

Shape: TypeAlias = tuple[int, ...]
KINDS = ("conv", "pool", "avgpool", "dense", "bn", "dropout", "relu", "tanh", "gelu")
NUMBER_MOST = 65_536  # of filters, pixels, outputs: beyond it is a slip of the pen
WINDOW_MOST = 65_536  # pixels of a pooling: the place of the largest is kept in 16 bits
DEEPEST = 8  # blocks in each other
SHOWN_MOST = 160  # letters of a line in a message
WORD_MOST = 60  # letters: no layer has as many
LETTERS = {"k": "kernel", "s": "stride", "p": "padding", "d": "dilation", "g": "groups"}

# The reference project's network and the weather project's, as they are; LeCun et al. 1998; and one for 32 px images.
NAMED = {
    "reference": "conv16k3 relu pool2 conv32k3 relu dense128 relu dense",
    "lenet5": "conv6k5 tanh avgpool2 conv16k5 tanh avgpool2 dense120 tanh dense84 tanh dense",
    "weather": "conv6k4 bn tanh avgpool5 conv16k5 bn tanh avgpool2 conv32k8 bn tanh avgpool4 conv120k4 bn tanh "
    "dense84 tanh dense",
    "cifar": "conv32k3p1 bn relu pool2 conv64k3p1 bn relu [ conv64k3p1 bn relu ] pool2 "
    "conv128k3p1 bn relu [ conv128k3p1 bn relu ] pool dropout.2 dense",
}


@dataclass(frozen=True)
class Layer:
    """A word; `at` is where in the text it stands."""

    at: tuple[int, int] = field(default=(0, 0), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Conv(Layer):
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        more = "".join(
            f"{name[0]}{getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        )
        return f"conv{self.outputs}k{self.kernel}{more}"


@dataclass(frozen=True)
class Pool(Layer):
    """`kernel` 0: the whole image."""

    is_mean: bool
    kernel: int
    stride: int
    padding: int = 0

    def __str__(self) -> str:
        if not self.kernel:
            return "avgpool" if self.is_mean else "pool"
        more = f"s{self.stride}" * (self.stride != self.kernel) + f"p{self.padding}" * (self.padding > 0)
        return f"{'avgpool' if self.is_mean else 'pool'}{self.kernel}{more}"


@dataclass(frozen=True)
class Dense(Layer):
    outputs: int | None  # None: the classes

    def __str__(self) -> str:
        return "dense" if self.outputs is None else f"dense{self.outputs}"


@dataclass(frozen=True)
class Norm(Layer):
    def __str__(self) -> str:
        return "bn"


@dataclass(frozen=True)
class Activation(Layer):
    name: str  # relu, tanh, gelu

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Dropout(Layer):
    rate: float

    def __str__(self) -> str:
        return f"dropout{f'{self.rate:.6f}'.strip('0')}"


@dataclass(frozen=True)
class Block(Layer):
    body: tuple[Layer, ...]

    def __str__(self) -> str:
        return f"[ {' '.join(map(str, self.body))} ]"


@dataclass(frozen=True)
class Line:
    """Layers, and the text that they were read from, for the caret."""

    layers: tuple[Layer, ...]
    text: str = field(compare=False, repr=False)

    def __str__(self) -> str:
        return " ".join(map(str, self.layers))


@dataclass(frozen=True)
class Placed:
    """A layer that knows what reaches it and what leaves it, of one image. `name` is its place, as weights have it."""

    layer: Layer
    name: str
    x: Shape
    y: Shape
    has_bias: bool = True
    body: tuple[Placed, ...] = ()


def is_text(name: str) -> bool:
    """Whether a model's name is a line of text: several words, or a lone dense layer."""
    return len(name.split()) > 1 or re.fullmatch(r"dense[0-9]*", name.strip()) is not None


def of(net: str) -> Line:
    """The line of a name of NAMED, or of a text. ConfigError where it is neither."""
    if net in NAMED:
        return parse(NAMED[net])
    if not is_text(net) and not re.match(r"\[|(?:conv|pool|avgpool|dropout)[0-9.]", net) and net not in KINDS:
        raise ConfigError(
            f"network '{shown(net)}' is neither a line such as '{NAMED['reference']}' nor one of {', '.join(NAMED)}."
            f"{near(net, NAMED)}"
        )
    found = parse(net)
    _ends_in_dense(found)
    return found


def parse(text: str) -> Line:
    """The layers of a line. parse(str(line)) == line."""
    if not text.isprintable() and not text.replace("\n", " ").replace("\t", " ").isprintable():
        raise ConfigError(
            f"a network's line holds '{shown(text)}', which cannot be printed; write it in words such as relu"
        )
    text = " ".join(text.split())
    words = [(match.group(), match.span()) for match in re.finditer(r"\[|\]|[^\s\[\]]+", text)]
    if not words:
        raise ConfigError(f"a network's line is empty; one is '{NAMED['reference']}'")
    open_at: list[tuple[int, int]] = []
    levels: list[list[Layer]] = [[]]
    for word, at in words:
        if word == "[":
            if len(open_at) == DEEPEST:
                raise wrong(text, at, f"more than {DEEPEST} blocks stand in each other")
            open_at.append(at)
            levels.append([])
        elif word == "]":
            if not open_at:
                raise wrong(text, at, "a block ends here that never began; put [ before it, or leave it out")
            body = tuple(levels.pop())
            if not body:
                raise wrong(text, at, "a block without layers; put some between [ and ]")
            levels[-1].append(Block(body, at=(open_at.pop()[0], at[1])))
        else:
            if len(word) > WORD_MOST:
                raise wrong(
                    text, at, f"'{shown(word)}' has {len(word):,} letters, and no layer has; put spaces between layers"
                )
            levels[-1].append(_layer(text, word, at))
    if open_at:
        raise wrong(text, open_at[-1], "a block begins here that never ends; put ] after its last layer")
    return Line(tuple(levels[0]), text)


def place(line: Line, *, image: Shape, classes: int) -> tuple[Placed, ...]:
    """Layers with their shapes, for images [C, H, W]. ConfigError, naming both shapes, where one does not fit."""
    last = _ends_in_dense(line)
    if last.outputs not in (None, classes):
        raise wrong(
            line.text, last.at, f"{last} gives {last.outputs} outputs and the data has {classes} classes; write `dense`, "
            f"which takes their number, or dense{classes}"
        )  # fmt: skip
    return _place(line, line.layers, image, classes, prefix="")


def _ends_in_dense(line: Line) -> Dense:
    """The last layer, which has to be one."""
    last = line.layers[-1]
    if not isinstance(last, Dense):
        raise wrong(line.text, last.at, f"a network ends in `dense`, an output per class; after {last} there is none")
    return last


def walk(placed: tuple[Placed, ...]) -> Iterator[Placed]:
    """Every layer in the order of weights: blocks before what is in them."""
    for each in placed:
        yield each
        yield from walk(each.body)


def wrong(text: str, at: tuple[int, int], words: str) -> ConfigError:
    """`words`, the line, and a caret under what they are about; of a long line what is near it."""
    low, high = 0, len(text)
    if high > SHOWN_MOST:
        low = max(0, at[0] - SHOWN_MOST // 2)
        high = min(high, low + SHOWN_MOST)
    before, there, after = text[low : at[0]], text[at[0] : min(at[1], high)], text[min(at[1], high) : high]
    before, after = "… " * (low > 0) + before, after + " …" * (high < len(text))
    return ConfigError(f"{words}\n  {before}{there}{after}\n  {' ' * _columns(before)}{'^' * _columns(there)}")


def _columns(text: str) -> int:
    """How wide a terminal draws it: Chinese letters take two places, and an accent of its own none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _layer(text: str, word: str, at: tuple[int, int]) -> Layer:
    match = re.match(r"[a-z]+", word)
    kind = match.group() if match else ""
    rest = word[len(kind) :]
    if kind not in KINDS:
        kind = next((each for each in sorted(KINDS, key=len, reverse=True) if word.startswith(each)), kind)
        hint = near(kind or word, KINDS)
        raise wrong(text, at, f"{word!r} is no layer;{hint or ' there are ' + ', '.join(KINDS) + ' and [ … ]'}")
    if kind in ("bn", "relu", "tanh", "gelu"):
        if rest:
            raise wrong(text, at, f"{word!r}: {kind} takes no number; write {kind}")
        return Norm(at=at) if kind == "bn" else Activation(kind, at=at)
    if kind == "dropout":
        if not re.fullmatch(r"0?\.[0-9]{1,6}", rest) or float(rest) == 0:
            raise wrong(text, at, f"{word!r} needs a share between 0 and 1 that is dropped, such as dropout.5")
        return Dropout(float(rest), at=at)
    if kind == "dense":
        return Dense(_number(text, word, at, rest) if rest else None, at=at)
    if kind == "conv":
        first, more = _options(text, word, at, rest, letters="kspdg")
        if first is None or "kernel" not in more:
            raise wrong(text, at, f"{word!r} needs filters and a kernel, such as conv16k3")
        return Conv(first, more.pop("kernel"), **more, at=at)
    first, more = _options(text, word, at, rest, letters="sp")
    if first is None and more:
        raise wrong(text, at, f"{word!r} needs a window before its stride and padding, such as {kind}2s1")
    padding = more.get("padding", 0)
    if first is not None and 2 * padding > first:
        raise wrong(text, at, f"{word!r}: padding {padding} is more than half of a window of {first}")
    return Pool(kind == "avgpool", first or 0, more.get("stride", first or 0), padding, at=at)


def _options(
    text: str, word: str, at: tuple[int, int], rest: str, *, letters: str
) -> tuple[int | None, dict[str, int]]:
    """The number after a layer's name, None where there is none, and what its letters say."""
    match = re.fullmatch(rf"([0-9]*)((?:[{letters}][0-9]+)*)", rest)
    if match is None:
        means = ", ".join(f"{letter} {LETTERS[letter]}" for letter in letters)
        raise wrong(text, at, f"{word!r}: after its first number there may be {means}, each with a number")
    more: dict[str, int] = {}
    for letter, digits in re.findall(r"([a-z])([0-9]+)", match.group(2)):
        if LETTERS[letter] in more:
            raise wrong(text, at, f"{word!r} gives its {LETTERS[letter]} twice")
        more[LETTERS[letter]] = _number(text, word, at, digits, least=0 if letter == "p" else 1)
    return _number(text, word, at, match.group(1)) if match.group(1) else None, more


def _number(text: str, word: str, at: tuple[int, int], digits: str, *, least: int = 1) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", digits) or not least <= int(digits) <= NUMBER_MOST:
        raise wrong(text, at, f"{word!r}: {digits} should be a whole number from {least} to {NUMBER_MOST:,}")
    return int(digits)


def _place(line: Line, layers: tuple[Layer, ...], x: Shape, classes: int, *, prefix: str) -> tuple[Placed, ...]:
    found: list[Placed] = []
    for index, layer in enumerate(layers):
        name = f"{prefix}{index}"
        has_bias = not (index + 1 < len(layers) and isinstance(layers[index + 1], Norm))
        body: tuple[Placed, ...] = ()
        if isinstance(layer, Block):
            body = _place(line, layer.body, x, classes, prefix=f"{name}.")
            y = body[-1].y
            if y != x:
                raise wrong(
                    line.text,
                    layer.at,
                    f"what leaves a block is added to what comes in: {list(y)} does not fit {list(x)}",
                )
        elif isinstance(layer, Dense):
            if layer.outputs is None and layer is not line.layers[-1]:
                raise wrong(line.text, layer.at, "only the last `dense` may leave its number open; write dense128, say")
            y = (classes if layer.outputs is None else layer.outputs,)
        else:
            y = _through(line, layer, x)
        found.append(Placed(layer, name, x, y, has_bias, body))
        x = y
    return tuple(found)


def _through(line: Line, layer: Layer, x: Shape) -> Shape:
    """The shape that leaves a layer without weights of its own size, or a convolution."""
    if not isinstance(layer, Conv | Pool):
        return x
    if len(x) != 3:
        raise wrong(line.text, layer.at, f"{layer} takes images [C, H, W], and {list(x)} reaches it")
    C, H, W = x
    if isinstance(layer, Pool) and max(layer.kernel**2, 0 if layer.kernel else H * W) > WINDOW_MOST:
        raise wrong(
            line.text, layer.at, f"{layer} sees {layer.kernel or H} × {layer.kernel or W} pixels, {WINDOW_MOST:,} at most can be "
            f"pooled at once, and {list(x)} reaches it; pool twice"
        )  # fmt: skip
    if isinstance(layer, Pool) and not layer.kernel:
        return C, 1, 1
    dilation = layer.dilation if isinstance(layer, Conv) else 1
    seen = dilation * (layer.kernel - 1) + 1
    room = min(H, W) + 2 * layer.padding
    if seen > room:
        raise wrong(
            line.text, layer.at, f"{layer} sees {seen} × {seen} pixels, and {list(x)} reaches it: {H + 2 * layer.padding} × "
            f"{W + 2 * layer.padding} with its padding; use larger images, or fewer or smaller layers before it"
        )  # fmt: skip
    P, Q = ((side + 2 * layer.padding - seen) // layer.stride + 1 for side in (H, W))
    if isinstance(layer, Pool):
        return C, P, Q
    if C % layer.groups or layer.outputs % layer.groups:
        raise wrong(
            line.text, layer.at, f"{layer.groups} groups have to divide {C} channels in and {layer.outputs} out"
        )
    return layer.outputs, P, Q


def weights(placed: Placed) -> dict[str, Shape]:
    """Shapes of a layer's own parameters by their names."""
    layer, x = placed.layer, placed.x
    if isinstance(layer, Conv):
        shape: Shape = (layer.outputs, x[0] // layer.groups, layer.kernel, layer.kernel)
    elif isinstance(layer, Dense):
        shape = (placed.y[0], math.prod(x))
    elif isinstance(layer, Norm):
        shape = (x[0],)
    else:
        return {}
    found = {f"{placed.name}.weight": shape}
    return found | ({f"{placed.name}.bias": shape[:1]} if placed.has_bias or isinstance(layer, Norm) else {})


def parameters(placed: tuple[Placed, ...]) -> int:
    """How many numbers train."""
    return sum(math.prod(shape) for each in walk(placed) for shape in weights(each).values())
