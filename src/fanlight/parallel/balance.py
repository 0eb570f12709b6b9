"""Where to cut a model into stages: by the measured cost of what lies between its cuts.

N segments between N-1 possible cuts, S stages. The slowest stage decides a pipeline's pace, so the largest stage is made
as small as it can be; among equals the cuts with the least to send win.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models import cut

REPEATS = 3  # of which the fastest counts: what else runs on the machine only ever adds time
ROWS_MOST = 8  # of the example: costs per image hardly change beyond, and large models take seconds


@dataclass(frozen=True)
class Segment:
    """What lies between two cuts."""

    pass_s: float  # a forward and backward of one microbatch
    convert_s: float  # of its weights to the format they are computed in, once in a step
    parameters: int
    sent_bytes: int  # of its outputs, for one microbatch


def choose(
    model: nn.Module, example: Tensor, *, stages: int, device: torch.device, microbatches: int = 1,
    rows: int | None = None, update_s: float = 0.0, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[list[str], list[float]]:  # fmt: skip
    """Names to cut after, and seconds of an optimizer step of each stage, measured segment by segment: `microbatches` of `rows`
    rows (None: as many as `example`) forward and backward, weights converted once, and `update_s` for each parameter.

    ConfigError where the model has fewer segments with weights than stages. Changes no buffer.
    """
    names = with_weights(model, cut.cuts(model, example), example)
    if len(names) + 1 < stages:
        raise ConfigError(
            f"{type(model).__name__} can be cut into at most {len(names) + 1} stages, and the layout has {stages}; use fewer "
            "ranks or --stages-per-rank, or another --model"
        )
    segments = measure(model, names, example, device=device, rows=rows, autocast=autocast)
    costs_s = [microbatches * each.pass_s + each.convert_s + update_s * each.parameters for each in segments]
    at = best(costs_s, [each.sent_bytes for each in segments[:-1]], stages=stages)
    bounds = [0, *(index + 1 for index in at), len(costs_s)]
    return [names[index] for index in at], [sum(costs_s[a:b]) for a, b in itertools.pairwise(bounds)]


def with_weights(model: nn.Module, names: Sequence[str], example: Tensor) -> list[str]:
    """The cuts that leave weights on both sides, and between each other: a rank without any has nothing to train."""
    if not names:
        return []
    has = [any(True for _ in segment.parameters()) for segment in cut.stages(model, names, example)]
    kept, since = [], False
    for index, name in enumerate(names):
        since = since or has[index]
        if since and any(has[index + 1 :]):
            kept.append(name)
            since = False
    return kept


def measure(
    model: nn.Module, names: Sequence[str], example: Tensor, *, device: torch.device, rows: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Segment]:  # fmt: skip
    """What every segment between the cuts `names` costs for a microbatch of `rows` rows, from what it costs for `example`: its
    rows at a time, as often as it takes."""
    share = (
        1.0 if rows is None else rows / len(example)
    )  # else update and conversion would weigh too much beside passes
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = []
    x = example.to(device)
    with cut.modes_kept([model]):
        for index, segment in enumerate(cut.stages(model, names, example)):
            segment.to(device).train()
            took_s = []
            with autocast():  # around all passes, as a step is: weights are converted by the first
                convert_s = min(_conversion_s(segment, device) for _ in range(REPEATS))
                for _ in range(1 + REPEATS):  # the first prepares kernels too
                    leaf = x.detach().requires_grad_(index > 0)  # nobody asks for the gradient of images
                    begin = _now(device)
                    y = segment(leaf)
                    with torch.autocast(device.type, enabled=False):
                        y.backward(torch.ones_like(y))
                    took_s.append(_now(device) - begin)
            count = sum(parameter.numel() for parameter in segment.parameters())
            found.append(Segment(share * min(took_s[1:]), convert_s, count, round(share * y.nbytes)))
            x = y.detach()
            segment.to(example.device)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    return found


def _conversion_s(segment: nn.Module, device: torch.device) -> float:
    """Seconds to convert a segment's weights to the format that autocast computes in."""
    if not torch.is_autocast_enabled(device.type):
        return 0.0
    short = torch.get_autocast_dtype(device.type)
    begin = _now(device)
    for parameter in segment.parameters():
        if parameter.ndim > 1:  # norms and biases stay as they are, or are nothing
            parameter.detach().to(short)
    return _now(device) - begin


def best(costs_s: Sequence[float], sent_bytes: Sequence[int], *, stages: int) -> list[int]:
    """The stages - 1 cuts, by number, that make the costliest stage as cheap as possible; then those that send least.

    Cut i lies after segment i. Two dynamic programs over (segments, stages): the least that the costliest stage can be, then
    the least bytes with no stage above that. Exact.
    """
    ends = [0.0, *itertools.accumulate(costs_s)]
    count = len(costs_s)
    worst = [0.0] + [float("inf")] * count  # of the first segments in as many stages as were added
    for _ in range(stages):
        worst = [
            min((max(worst[start], ends[end] - ends[start]) for start in range(end)), default=float("inf"))
            for end in range(count + 1)
        ]
    limit = worst[count]
    table: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # segments -> bytes, cuts
    for _ in range(stages):
        row: dict[int, tuple[int, tuple[int, ...]]] = {}
        for end in range(1, count + 1):
            ways = [
                (sent, at) if end == count else (sent + sent_bytes[end - 1], (*at, end - 1))
                for start, (sent, at) in table.items()
                if start < end and ends[end] - ends[start] <= limit
            ]
            if ways:
                row[end] = min(ways)
        table = row
    return list(table[count][1])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
