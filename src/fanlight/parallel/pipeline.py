"""Pipeline parallelism: layers divided over ranks, microbatches on their way through them (Huang et al. 2019, "GPipe").

Each rank plays its order of a schedule (schedule.py). Activations travel to the next stage and their gradients back, b
rows of a microbatch each; receives are posted in the sender's order, on a channel for each direction, so no schedule can
lock. Stages are made of the model's own modules (models/cut.py): parameters keep names, `.eval()` reaches them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fanlight.models import cut
from fanlight.parallel import comm
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.schedule import Action, orders

AHEAD = 2  # receives posted before they are needed: one arrives while another waits
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # of activations, by their number in a message
DIMENSIONS = 6  # most that an activation can have

Key = tuple[int, int]  # rows of a microbatch on this rank, side of its images in pixels: what decides all shapes


class Wire(NamedTuple):
    """What an activation looks like on its way."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> Wire:
        is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return cls(tuple(x.shape), x.dtype, is_last)

    @property
    def format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def empty(self, device: torch.device) -> Tensor:
        """A buffer for one."""
        return torch.empty(self.shape, dtype=self.dtype, device=device, memory_format=self.format)

    def numbers(self) -> list[int]:
        """As a message of fixed length."""
        head = [DTYPES.index(self.dtype), int(self.channels_last), len(self.shape)]
        return [*head, *self.shape, *[0] * (DIMENSIONS - len(self.shape))]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> Wire:
        return cls(tuple(numbers[3 : 3 + numbers[2]]), DTYPES[numbers[0]], bool(numbers[1]))


@dataclass(frozen=True)
class Ends:
    """What goes into and comes out of each stage of this rank, for one Key; the model's own ends left out."""

    into: dict[int, Wire]
    out_of: dict[int, Wire]


@dataclass(frozen=True)
class Work:
    """What a step does at its own ends of the pipe."""

    keys: tuple[Key, ...]  # by microbatch
    image: Callable[[int], Tensor]  # microbatch -> what the first stage sees
    loss: Callable[[Tensor, int], Tensor]  # outputs, microbatch -> the scalar to differentiate
    before: Callable[[int], None]  # readies what a forward of a microbatch needs
    ended: Callable[[str], None]  # a phase of this name ended: communication, forward or backward
    last_backward: Callable[[int], None]  # before the last backward of a stage


class Pipeline:
    """The stages of this rank, by number, connected to the ranks before and after it.

    `autocast` is what a forward computes in; `example(key)` makes images that the first stage could see.
    """

    def __init__(
        self, stages: Mapping[int, nn.Module], layout: Layout, world: World, *,
        autocast: Callable[[], AbstractContextManager[Any]], example: Callable[[Key], Tensor],
    ):  # fmt: skip
        self.stages, self.layout, self.device = dict(stages), layout, world.device
        self.autocast, self._example = autocast, example
        self.me = layout.place(world.rank).pp
        self._pipe = layout.peers(world.rank, "pp")  # ranks by their place on the pipe
        self._channels = world.channels
        self._ends: dict[Key, Ends] = {}
        self._sends: deque[tuple[Any, Tensor]] = deque()  # what must not be freed before it is gone

    @property
    def holds_first(self) -> bool:
        return 0 in self.stages

    @property
    def holds_last(self) -> bool:
        return self.layout.stages - 1 in self.stages

    def step(self, work: Work) -> None:
        """Gradients of all microbatches are added up in the stages' parameters, in their order. Collective."""
        play = _Play(self, work)
        # Around all microbatches: a weight is then converted to the short format once in a step, not by each of them.
        with self.autocast():
            for action in play.orders.by_rank[self.me]:
                if action.is_forward:
                    play.forward(action)
                else:
                    play.backward(action)
        self.drain()

    @torch.no_grad()
    def evaluate(self, x: Tensor | None, key: Key) -> Tensor | None:
        """Outputs of one batch on the rank of the last stage, None elsewhere; `x` is seen by the first. All ranks of the
        pipe call it, in one order; a rank goes on to the next batch while later stages have this one. `drain` at the end."""
        ends = self.ends(key)
        for stage in sorted(self.stages):
            if stage:
                buffer = ends.into[stage].empty(self.device)
                self.post(buffer, stage - 1, is_forward=True).wait()
                x = buffer
            assert x is not None
            with self.autocast():
                x = self.stages[stage](x)
            if stage + 1 < self.layout.stages:
                self.send(x, ends.out_of[stage], stage + 1, is_forward=True)
                while len(self._sends) > AHEAD:
                    self._sends.popleft()[0].wait()
        return x if self.holds_last else None

    def as_written(self) -> AbstractContextManager[Any]:
        """Inside, autocast changes nothing: for losses, and for backward passes, whose formats the forward has decided."""
        return torch.autocast(self.device.type, enabled=False)

    def drain(self) -> None:
        """Waits until all that was sent is gone."""
        while self._sends:
            self._sends.popleft()[0].wait()

    @torch.no_grad()
    def ends(self, key: Key) -> Ends:
        """What travels for microbatches of `key`: found by one forward of an example in eval mode, since shape inference on
        fake tensors would need the whole model here. Collective over the pipe, when a key is new."""
        if key in self._ends:
            return self._ends[key]
        found = Ends({}, {})
        with cut.modes_kept([*self.stages.values()]), self.autocast():
            for stage, module in sorted(self.stages.items()):
                if stage:
                    numbers = torch.zeros(3 + DIMENSIONS, dtype=torch.int64, device=self.device)
                    self.post(numbers, stage - 1, is_forward=True).wait()
                    found.into[stage] = Wire.from_numbers(numbers.tolist())
                    x = found.into[stage].empty(self.device).zero_()
                else:
                    x = self._example(key)
                if stage + 1 < self.layout.stages:  # what the last one makes goes nowhere
                    found.out_of[stage] = Wire.of(module.eval()(x))
                    numbers = torch.tensor(found.out_of[stage].numbers(), dtype=torch.int64, device=self.device)
                    self._post_send(numbers, stage + 1, is_forward=True)
        self.drain()
        self._ends[key] = found
        return found

    def rank_of(self, stage: int) -> int:
        return self._pipe[stage % self.layout.pp]

    def send(self, x: Tensor, wire: Wire, stage: int, *, is_forward: bool) -> None:
        """Begins sending `x` to the rank of `stage`."""
        x = x.detach().contiguous(memory_format=wire.format)
        if x.dtype != wire.dtype or tuple(x.shape) != wire.shape:
            raise RuntimeError(
                f"an activation of {x.dtype} {list(x.shape)} where {wire.dtype} {list(wire.shape)} was announced"
            )
        comm.sent["activations" if is_forward else "gradients of activations"] += x.nbytes
        self._post_send(x, stage, is_forward=is_forward)

    @property
    def _passes_by_host(self) -> bool:
        """gloo sends no memory of a GPU."""
        return self.device.type == "cuda" and dist.get_backend(next(iter(self._channels.values()))) == "gloo"

    def post(self, buffer: Tensor, stage: int, *, is_forward: bool) -> Any:
        """Begins receiving from the rank of `stage`; the answer's wait() ends it."""
        source = self.rank_of(stage)
        group = self._channels[source, self._pipe[self.me], is_forward]
        if self._passes_by_host:
            return _ByHost(buffer, source, group)
        return dist.irecv(comm.dense(buffer), src=source, group=group)

    def _post_send(self, x: Tensor, stage: int, *, is_forward: bool) -> None:
        target = self.rank_of(stage)
        group = self._channels[self._pipe[self.me], target, is_forward]
        while self._sends and self._sends[0][0].is_completed():  # what is gone need not be kept
            self._sends.popleft()[0].wait()
        x = comm.dense(x)
        if self._passes_by_host:
            x = x.cpu()
        self._sends.append((dist.isend(x, dst=target, group=group), x))


class _ByHost:
    """A receive for a GPU through the memory of the host."""

    def __init__(self, buffer: Tensor, source: int, group: Any):
        self._buffer = comm.dense(buffer)
        self._host = torch.empty_like(self._buffer, device="cpu")
        self._work: Any = dist.irecv(self._host, src=source, group=group)

    def wait(self) -> None:
        self._work.wait()
        self._buffer.copy_(self._host)


class _Inbox:
    """What one neighbour sends in a step, in its order, received a few ahead."""

    def __init__(self, pipe: Pipeline, expected: tuple[Action, ...], wires: Callable[[Action], Wire]):
        self._pipe, self._expected, self._wires = pipe, deque(expected), wires
        self._posted: dict[Action, tuple[Any, Tensor]] = {}

    def take(self, action: Action) -> Tensor:
        """The result of the neighbour's `action`."""
        while action not in self._posted or (len(self._posted) <= AHEAD and self._expected):
            self._post()
        work, buffer = self._posted.pop(action)
        work.wait()
        return buffer

    def _post(self) -> None:
        action = self._expected.popleft()
        buffer = self._wires(action).empty(self._pipe.device)
        work = self._pipe.post(buffer, action.stage, is_forward=action.is_forward)
        self._posted[action] = (work, buffer)


class _Play:
    """One step of one rank."""

    def __init__(self, pipe: Pipeline, work: Work):
        self._pipe, self._work, self._last = pipe, work, pipe.layout.stages - 1
        layout = pipe.layout
        self.orders = orders(
            layout.schedule, ranks=layout.pp, stages_per_rank=layout.stages_per_rank, microbatches=len(work.keys)
        )
        self._ends = [pipe.ends(key) for key in work.keys]
        before, after = (pipe.me - 1) % layout.pp, (pipe.me + 1) % layout.pp
        self._activations = _Inbox(
            pipe, self.orders.channel(before, pipe.me, is_forward=True),
            lambda action: self._ends[action.microbatch].into[action.stage + 1],
        )  # fmt: skip
        self._gradients = _Inbox(
            pipe, self.orders.channel(after, pipe.me, is_forward=False),
            lambda action: self._ends[action.microbatch].out_of[action.stage - 1],
        )  # fmt: skip
        self._open: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # inputs and results that wait for their backward

    def forward(self, action: Action) -> None:
        pipe, work, (_, stage, m) = self._pipe, self._work, action
        if stage:
            x = self._activations.take(Action(True, stage - 1, m)).requires_grad_()
            work.ended("communication")
        else:
            x = work.image(m)
        work.before(m)
        with pipe.autocast():
            y = pipe.stages[stage](x)
        if stage == self._last:
            with pipe.as_written():
                y = work.loss(y, m)
        else:
            pipe.send(y, self._ends[m].out_of[stage], stage + 1, is_forward=True)
        self._open[stage, m] = (x, y)
        work.ended("forward")

    def backward(self, action: Action) -> None:
        pipe, work, (_, stage, m) = self._pipe, self._work, action
        x, y = self._open.pop((stage, m))
        if m == len(work.keys) - 1:
            work.last_backward(stage)
        gradient = None
        if stage != self._last:
            gradient = self._gradients.take(Action(False, stage + 1, m))
            work.ended("communication")
        with pipe.as_written():
            torch.autograd.backward(y, gradient)
        if stage:
            assert x.grad is not None
            pipe.send(x.grad, self._ends[m].into[stage], stage - 1, is_forward=False)
        work.ended("backward")
