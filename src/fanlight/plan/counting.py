"""Counts what the pieces of a model ask for by forwards and backwards of two rows and of three: what three ask for beyond two
is a row's. On the meta device nothing is really computed. B rows."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fanlight.errors import ConfigError
from fanlight.models import cut
from fanlight.parallel import balance
from fanlight.plan import dividing
from fanlight.plan.blocks import Block

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROWS = 2  # of the example: norms refuse one


def segments(model: nn.Module, example: Tensor) -> list[tuple[str, nn.Module]]:
    """The pieces that training balances stages of (parallel/balance.py), each with weights, and the name that each ends with;
    the whole model as one where it cannot be cut."""
    try:
        names = balance.with_weights(model, cut.cuts(model, example), example)
        parts: Sequence[nn.Module] = cut.stages(model, names, example) if names else [model]
    except ConfigError:
        return [("whole", model)]
    return list(zip([*names, "head"], parts))


def count(model: nn.Module, *, image_px: int, is_short: bool = True) -> list[Block]:
    """Every piece of `model`, without seconds. The model stays as it is. `is_short`: number formats of two bytes are wanted, too,
    which takes longer than all else."""
    meta = copy.deepcopy(model).to("meta")
    found = count_on(meta, torch.empty((ROWS, 3, image_px, image_px), device="meta"))
    short = _short(meta, image_px=image_px) if is_short else []
    return [_shortened(block, each) for block, each in zip(found, short, strict=True)] if short else found


class _Short(NamedTuple):
    """Bytes of a row in bf16, which leaves some layers in four bytes."""

    kept: float
    sent: float
    pairs: tuple[float, float]  # that divided pairs add up in a forward and in a backward


def _short(model: nn.Module, *, image_px: int) -> list[_Short]:
    """Of every piece; nothing where that cannot be told."""
    found: list[_Short] = []
    try:
        with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16):  # autocast has no rules for meta tensors
            fake = _faked(model)
            few = torch.empty((ROWS, 3, image_px, image_px))
            more, trains = torch.cat([few, few[:1]]), False
            with cut.modes_kept([fake]):
                for _, segment in segments(fake, few):
                    segment.train()
                    more, asked_more = _passed(segment, more, trains=trains)
                    with _layers_seen(segment) as seen:
                        few, asked = _passed(segment, few, trains=trains)
                    left, entered = _pairs(segment, seen)
                    kept = asked_more.kept_bytes - asked.kept_bytes
                    found.append(_Short(kept, few.nbytes / ROWS, (sum(left), sum(entered))))
                    trains = trains or any(p.requires_grad for p in segment.parameters())
    except (RuntimeError, NotImplementedError):  # an operator that cannot be faked
        return []
    return found


def _shortened(block: Block, short: _Short) -> Block:
    """With the shares of its bytes that are left."""
    wide = (block.kept_bytes, block.sent_bytes, sum(block.pairs), sum(block.pairs_backward))
    narrow = (short.kept, short.sent, *short.pairs)
    kept, sent, *pairs = (few / many if few and many else 0.5 for few, many in zip(narrow, wide))
    return replace(block, kept_short=kept, sent_short=sent, pairs_short=(pairs[0], pairs[1]))


def _faked(model: nn.Module) -> nn.Module:
    """A copy with tensors of the mode that is on, which have a device and no content."""
    known: dict[int, object] = {}
    for p in model.parameters():
        known[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
    for buffer in model.buffers():
        known[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return copy.deepcopy(model, memo=known)


def count_on(model: nn.Module, example: Tensor, *, tell: Callable[[int], None] = lambda rows: None) -> list[Block]:
    """As `count`, of a model and an `example` [2, 3, P, P] on one device. `tell` is called before a forward of so many rows, for
    what the model sees beside images. Changes neither buffers, gradients nor modes."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found: list[Block] = []
    few, more, trains = example, torch.cat([example, example[:1]]), False  # whether anything up to here does
    tell(ROWS)
    with cut.modes_kept([model]):
        for name, segment in segments(model, example):
            segment.train()
            tell(ROWS + 1)
            y_more, asked_more = _passed(segment, more, trains=trains)
            tell(ROWS)
            with _layers_seen(segment) as seen:
                y, asked = _passed(segment, few, trains=trains)
            row = asked_more - asked
            trains = trains or any(p.requires_grad for p in segment.parameters())
            left, entered = _pairs(segment, seen)
            share, numbers = _divided(segment, seen)
            found.append(Block(
                name, tuple(p.numel() for p in segment.parameters() if p.requires_grad),
                flop=row.flop, backward_flop=row.backward_flop, kept_bytes=row.kept_bytes, sent_bytes=y.nbytes / ROWS,
                frozen=sum(p.numel() for p in segment.parameters() if not p.requires_grad),
                norms=tuple(m.num_features for m in segment.modules() if isinstance(m, NORMS) and _trains(m)),
                buffers=sum(b.numel() for b in segment.buffers()),
                divided=share, divided_numbers=numbers, pairs=left, pairs_backward=entered,
            ))  # fmt: skip
            few, more = y, y_more
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return found


def _trains(norm: nn.Module) -> bool:
    """Whether its statistics are of the batch: with frozen weights it uses what it has (models/freeze.py), and shares nothing."""
    own = list(norm.parameters(recurse=False))
    return not own or any(p.requires_grad for p in own)


class _Asked(NamedTuple):
    """What a forward and a backward ask for."""

    flop: float
    backward_flop: float
    kept_bytes: float

    def __sub__(self, other: _Asked) -> _Asked:
        return _Asked(*(mine - its for mine, its in zip(self, other)))


def _passed(segment: nn.Module, x: Tensor, *, trains: bool) -> tuple[Tensor, _Asked]:
    """The output of rows `x`, and what they asked for; `trains`: whether anything before the segment does, so that the gradient
    of x is wanted."""
    kept: dict[int, int] = {}
    own = [*segment.parameters(), *segment.buffers()]
    weights = {value.untyped_storage()._cdata for value in own}

    def keep(saved: Tensor) -> Tensor:
        place = saved.untyped_storage()._cdata
        if place not in weights:
            kept[place] = max(kept.get(place, 0), saved.nbytes)
        return saved

    leaf = x.detach().requires_grad_(trains)
    with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y = segment(leaf)
    wanted = [value for value in (leaf, *segment.parameters()) if value.requires_grad]
    with FlopCounterMode(display=False) as backward:
        if wanted and y.requires_grad:
            torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
    return y.detach(), _Asked(forward.get_total_flops(), backward.get_total_flops(), sum(kept.values()))


class _Layer(NamedTuple):
    """What a convolution or linear layer did with a row."""

    entered_bytes: float  # its input, where a gradient of it is wanted
    left_bytes: float  # its output
    flop: float  # of a forward


@contextlib.contextmanager
def _layers_seen(segment: nn.Module) -> Iterator[dict[str, _Layer]]:
    """Inside, what layers by name do in a forward of ROWS rows."""
    found: dict[str, _Layer] = {}
    hooks = []
    for name, module in segment.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def seen(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor, name: str = name) -> None:
                weight: Tensor = layer.weight  # type: ignore[assignment]
                entered = given[0].nbytes / ROWS if given[0].requires_grad else 0.0
                found[name] = _Layer(entered, y.nbytes / ROWS, 2.0 * y.numel() / ROWS * weight[0].numel())

            hooks.append(module.register_forward_hook(seen))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _pairs(segment: nn.Module, seen: dict[str, _Layer]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the pairs that tensor.TABLE divides, bytes that are added up for a row: of the second's output in a forward, of the
    gradient of the first's input in a backward."""
    found = [(seen[second].left_bytes, seen[first].entered_bytes) for first, second in _known(segment, seen)]
    return tuple(left for left, _ in found), tuple(entered for _, entered in found)


def _divided(segment: nn.Module, seen: dict[str, _Layer]) -> tuple[float, int]:
    """Of those pairs, their share of the arithmetic and their numbers."""
    layers = [layer for pair in _known(segment, seen) for layer in pair]
    whole = sum(each.flop for each in seen.values())
    weights = [segment.get_submodule(layer).weight for layer in layers]
    numbers = sum(weight.numel() for weight in weights if isinstance(weight, Tensor))
    return (sum(seen[layer].flop for layer in layers) / whole if whole else 0.0), numbers


def _known(segment: nn.Module, seen: dict[str, _Layer]) -> list[tuple[str, str]]:
    return [pair for pair in dividing.pairs(segment) if all(layer in seen for layer in pair)]
