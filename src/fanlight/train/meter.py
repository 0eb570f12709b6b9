"""The energy of a run's steps: one rank of each machine reads its counters where steps begin and end. J joules.

Readings are few: at an epoch's ends, after the warm-up, and every `EVERY_S`. On a GPU the device is waited for at each, so
that what is counted is what the steps before it took.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fanlight.energy import Counters, Reading, Unreadable, between
from fanlight.parallel.comm import World
from fanlight.train import phases
from fanlight.train.clock import WARMUP_STEPS
from fanlight.train.training import Training

EVERY_S = 20.0  # at most, between readings within an epoch: a package's counter starts at 0 again after some minutes
SECONDS_LEAST = 1.0  # of steady steps: the counters of GPUs move only some ten times a second
Doc = dict[str, Any]


@dataclass
class Span:
    """Steps of one epoch that follow each other."""

    epoch: int
    is_warmup: bool = False
    steps: int = 0
    seconds: float = 0.0  # from the first to the last, with what stands between them
    joules: dict[str, float] = field(default_factory=dict)  # by source


class Meter:
    """Reads the counters of this rank's machine; does nothing on ranks that have none (`counters` None)."""

    def __init__(self, counters: Counters | None, *, since: int = 0, settle: Callable[[], object] = lambda: None):
        """`since`: the first epoch whose steps cost what the last one's do. `settle` waits for the device."""
        self.spans: list[Span] = []
        self._counters, self._since, self._settle = counters, since, settle
        self._reason = ""  # why reading ended
        self._lacking: dict[str, str] = {}  # kinds that cannot be read, where others can
        self._last: Reading | None = None
        self._steps = self._begun = 0  # steps since the last reading, and since `begin`

    @classmethod
    def of(cls, t: Training) -> Meter:
        """Of the machine that this rank runs on, and of the GPUs that its ranks compute on. Collective."""
        world, gpus = t.world, list[str]()
        if world.device.type == "cuda":
            told = world.share([platform.node(), *_uuids(t)])
            gpus = list(dict.fromkeys(uuid for node, *uuids in told if node == platform.node() for uuid in uuids))
        counters = Counters(gpus=gpus) if world.local_rank == 0 else None
        settle: Callable[[], object] = torch.cuda.synchronize if gpus else lambda: None
        return cls(counters, since=phases.last_kind(t.config), settle=settle)

    def begin(self, epoch: int) -> None:
        """A step of `epoch` comes next, its first or this start's first."""
        is_first = epoch == self._since or not self.spans
        self.spans.append(Span(epoch, is_warmup=is_first))
        self._steps = self._begun = 0
        self._last = self._read()

    def stepped(self, *, is_last: bool) -> None:
        """A step was done, perhaps the epoch's last."""
        if self._last is None:
            return
        self._steps += 1
        self._begun += 1
        warm = self.spans[-1].is_warmup and self._begun == WARMUP_STEPS
        if is_last or warm or time.perf_counter() - self._last.at_s >= EVERY_S:
            self._take(self._last)
        if warm:
            self.spans.append(Span(self.spans[-1].epoch))

    def epoch(self, epoch: int, world: World, *, batch: int) -> Doc | None:
        """All steps of `epoch` in this start, over all machines; None where nothing could be read. Collective."""
        told = self._told([span for span in self.spans if span.epoch == epoch], world)
        found = summed(told, batch=batch)
        return None if "reason" in found else found

    def document(self, world: World, *, batch: int) -> Doc:
        """`energy` of run.json: of this start's steady steps over all machines, or the reason why there is none. `batch`:
        images of a step. Collective."""
        return checked(summed(self._told(steady(self.spans, since=self._since), world), batch=batch))

    def _told(self, spans: Sequence[Span], world: World) -> list[Doc]:
        """What every machine's reader says."""
        own: Doc = {}
        if self._counters is not None:
            own = {"reason": self._reason} if self._reason else {"lacking": self._lacking, **_added(spans)}
        told = world.share(own) if world.local_ranks < world.ranks else [own]
        return [each for each in told if each]

    def _take(self, last: Reading) -> None:
        """Adds what was spent since the `last` reading."""
        self._last = self._read()
        if self._last is None:
            return
        spent = between(last, self._last)
        if isinstance(spent, Unreadable):
            self._reason, self._last = spent.reason, None
            return
        span = self.spans[-1]
        span.steps += self._steps
        span.seconds += spent.seconds
        for source, joules in spent.joules.items():
            span.joules[source] = span.joules.get(source, 0.0) + joules
        self._steps = 0

    def _read(self) -> Reading | None:
        if self._counters is None or self._reason:
            return None
        self._settle()
        found = self._counters.read()
        if isinstance(found, Unreadable):
            self._reason = found.reason
            return None
        self._lacking = dict(found.lacking)
        return found


def steady(spans: Sequence[Span], *, since: int) -> list[Span]:
    """Those of the steps that `clock.steady` would keep of one start: of the epochs from `since` on all but the first; of one
    alone what follows its warm-up, if anything does."""
    done = [span for span in spans if span.steps and span.epoch >= since]
    later = [span for span in done if span.epoch > done[0].epoch]
    return later or [span for span in done if not span.is_warmup] or done


def summed(told: Sequence[Doc], *, batch: int) -> Doc:
    """One document of what the readers of all machines say, from whose steps, which are the same, come `images`. A reason in
    its place where one of them has none: a sum that lacks a machine would be none."""
    if not told:
        return {"reason": "no counter was asked"}
    if reasons := [each["reason"] for each in told if each.get("reason")]:
        return {"reason": reasons[0]}
    first = told[0]
    if not first["steps"]:
        return {"reason": "no step was left to be read"}
    joules: dict[str, float] = {}
    lacking: dict[str, str] = {}
    for number, each in enumerate(told):
        head = f"machine-{number}/" if len(told) > 1 else ""
        joules |= {f"{head}{source}": value for source, value in each["joules"].items()}
        lacking |= each["lacking"]
    images, total_j = first["steps"] * batch, sum(joules.values())
    return {
        "energy_j": joules, "seconds": first["seconds"], "images": images, "j_per_image": total_j / images,
        "mean_w": total_j / first["seconds"], "lacking": lacking,
    }  # fmt: skip


def checked(found: Doc) -> Doc:
    """The same, or the reason why it would be a false result."""
    if "reason" in found:
        return found
    if found["seconds"] < SECONDS_LEAST:
        return {
            "reason": f"the steady steps took {found['seconds']:.2f} s, too little for counters that move some ten times a "
            f"second; train for at least {SECONDS_LEAST:g} s of them"
        }
    if still := [source for source, joules in found["energy_j"].items() if joules <= 0]:
        return {"reason": f"the counter of {still[0]} stands still, as those of some virtual machines do"}
    return found


def _added(spans: Sequence[Span]) -> Doc:
    joules: dict[str, float] = {}
    for span in spans:
        for source, value in span.joules.items():
            joules[source] = joules.get(source, 0.0) + value
    return {
        "steps": sum(span.steps for span in spans), "seconds": sum(span.seconds for span in spans), "joules": joules
    }  # fmt: skip


def _uuids(t: Training) -> list[str]:
    """Of the GPUs that this rank computes on, as NVIDIA's library has them."""
    numbers = [torch.cuda.current_device() if t.world.device.index is None else t.world.device.index]
    if t.layout.name == "dataparallel":
        numbers = list(range(torch.cuda.device_count()))
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in numbers]
