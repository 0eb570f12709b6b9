"""Counts what the pieces of a model ask for by one forward of two rows: on the meta device nothing is really computed. B rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fanlight.errors import ConfigError
from fanlight.models import cut
from fanlight.parallel import tensor
from fanlight.plan.blocks import Block

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROWS = 2  # of the example: norms refuse one


def segments(model: nn.Module, example: Tensor) -> list[tuple[str, nn.Module]]:
    """The pieces between all cuts that leave weights on both sides, with the name that each ends with; the whole model as one
    where it cannot be cut."""
    try:
        names = cut.cuts(model, example)
        parts: Sequence[nn.Module] = cut.stages(model, names, example) if names else [model]
    except ConfigError:
        return [("whole", model)]
    return list(zip([*names, "head"], parts))


def count(model: nn.Module, *, image_px: int) -> list[Block]:
    """Every piece of `model`, without seconds. The model stays as it is."""
    return count_on(copy.deepcopy(model).to("meta"), torch.empty((ROWS, 3, image_px, image_px), device="meta"))


def count_on(model: nn.Module, example: Tensor) -> list[Block]:
    """As `count`, of a model and an `example` [2, 3, P, P] on one device. Changes neither buffers nor modes."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found: list[Block] = []
    x, trains = example, False  # whether anything up to here does: before that no gradient flows
    with cut.modes_kept([model]):
        for name, segment in segments(model, example):
            segment.train()
            kept: dict[int, int] = {}
            weights = {p.untyped_storage()._cdata for p in segment.parameters()}

            def keep(saved: Tensor, weights: set[int] = weights, kept: dict[int, int] = kept) -> Tensor:
                place = saved.untyped_storage()._cdata
                if place not in weights and saved.dim() and saved.shape[0] == ROWS:
                    kept[place] = max(kept.get(place, 0), saved.nbytes)
                return saved

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
                counter = FlopCounterMode(display=False)
                with counter:
                    y = segment(x.detach().requires_grad_(trains))
            trains = trains or any(p.requires_grad for p in segment.parameters())
            pairs, share, numbers = _pairs(segment, x)
            found.append(Block(
                name, tuple(p.numel() for p in segment.parameters() if p.requires_grad), counter.get_total_flops() / ROWS,
                y.nbytes / ROWS, sum(kept.values()) / ROWS,
                tuple(m.num_features for m in segment.modules() if isinstance(m, NORMS)),
                sum(b.numel() for b in segment.buffers()), share, numbers, pairs,
            ))  # fmt: skip
            x = y.detach()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return found


def _pairs(segment: nn.Module, x: Tensor) -> tuple[tuple[float, ...], float, int]:
    """Of the layers that tensor.TABLE divides: bytes that each pair adds up for a row, their share of the arithmetic, their
    numbers."""
    sizes: dict[str, tuple[float, float]] = {}  # layer -> bytes of its output, operations, both for a row
    hooks = []
    weights: dict[str, int] = {}
    for name, module in segment.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def seen(layer: nn.Module, _: object, y: Tensor, name: str = name) -> None:
                weight: Tensor = layer.weight  # type: ignore[assignment]
                sizes[name] = y.nbytes / ROWS, 2.0 * y.numel() / ROWS * weight[0].numel()

            hooks.append(module.register_forward_hook(seen))
            weights[name] = module.weight.numel()
    buffers = [buffer.clone() for buffer in segment.buffers()]
    with torch.no_grad():
        segment(x)
        for buffer, value in zip(segment.buffers(), buffers):
            buffer.copy_(value)
    for hook in hooks:
        hook.remove()
    summed, work, numbers = [], 0.0, 0
    for name, block in segment.named_modules():
        for pair in tensor.TABLE.get(type(block).__name__, ()):
            first, second = (f"{name}.{layer}" if name else layer for layer in (pair.first, pair.second))
            if first in sizes and second in sizes:
                summed.append(sizes[second][0])
                work += sizes[first][1] + sizes[second][1]
                numbers += sum(weights[layer] for layer in (first, second))
    whole = sum(each for _, each in sizes.values())
    return tuple(summed), (work / whole if whole else 0.0), numbers
