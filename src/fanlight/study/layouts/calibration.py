"""A machine as the points of a study measured it, in the words of `plan`: what a simulated step is made of. No torch.

computing    from the serial points: seconds of a step on T cores alone, by cause; between one core and all cores along the
             straight line of their logarithms; divided over the network's pieces by their arithmetic
sending      all-reduces that were measured between the ranks, times what a point's own communication asks for more or less
sharing      the contention of points, for each further rank that computes
waiting      the scatter of the serial run's steps
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fanlight.config import Augment
from fanlight.console import count_text
from fanlight.parallel import layout as layouts
from fanlight.parallel.layout import Layout
from fanlight.plan import buckets, cost
from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster, Device
from fanlight.plan.cost import Line
from fanlight.plan.operations import Asked
from fanlight.plan.program import program
from fanlight.plan.simulate import simulate
from fanlight.plan.stages import busy

NO_LINK = "what sending between ranks costs was not measured in this study"
SYNC_EVERY = 8  # of local-sgd, where a run does not say
SENDING_MOST = 8.0  # times as slow, or as fast, as the link that was measured: beyond, something else is the matter
SENDING_TRIES = 4  # of finding it: exposed communication is not quite a straight line in it
UNTOLD_S = 1e-6  # of communication: too little to learn a link from
Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Alone:
    """Seconds of a step of the whole network in one process, with nobody beside it."""

    launch_s: float  # of forward and backward of a microbatch, whatever its rows
    row_s: float  # of forward and backward
    optimizer_s: float
    rest_s: float
    input_s: float  # of a row, that nothing hides
    forward: float  # share of forward and backward


@dataclass(frozen=True)
class Learned:
    """What points say beside the serial ones."""

    contention: float = 0.0  # what each further rank that computes adds, relative
    sending: float = 1.0  # times as slow as the measured link


@dataclass(frozen=True)
class Case:
    """One step to be simulated, and where."""

    layout: Layout
    blocks: tuple[Block, ...]
    asked: Asked
    machines: Cluster

    def rate(self, machines: Cluster | None = None) -> float:
        """Images per second."""
        ops = program(self.layout, self.blocks, self.asked, machines or self.machines)
        return self.asked.batch / simulate(ops).step_s


@dataclass(frozen=True)
class Machine:
    """The measured points of one device and number format, and the network that they trained."""

    points: Sequence[Doc]  # of points.json
    settings: Mapping[str, Doc]  # by point, its resolved config
    blocks: Sequence[Block]  # counted, without seconds
    known: dict[str, tuple[float | None, tuple[float, float] | None]] = field(
        default_factory=dict, compare=False
    )  # what points said before

    def case(
        self, point: Doc, learned: Learned, *, ranks: int, devices: int, batch: int, microbatches: int
    ) -> Case | str:
        """A step of `point`'s layout over `ranks` ranks, `devices` of them on a machine; or why nobody can say. ConfigError for
        ranks that the layout cannot have."""
        own = self.alone(point["threads"], device=point["device"])
        if isinstance(own, str):
            return own
        machines = self._machines(point, learned, devices=devices)
        if machines is None:
            why = point.get("link_reason")
            return f"{NO_LINK}: {why}" if why else NO_LINK
        machines = machines.over(ranks)
        layout = self.layout(point, ranks=ranks, machines=machines.nodes)
        number_bytes = 4.0 if point["precision"] == "fp32" else 2.0
        numbers = sum(block.numbers for block in self.blocks) or 1
        train, execution = (self.settings[point["name"]].get(part) or {} for part in ("train", "execution"))
        augment = self.settings[point["name"]].get("augment") or {}
        unit = Augment(mixup=augment.get("mixup", 0.0), cutmix=augment.get("cutmix", 0.0)).row_unit
        rows = Asked(batch, microbatches, unit).rows(layout.data_ranks)
        asked = Asked(
            batch, microbatches, unit, weight_bytes=number_bytes, activation_bytes=number_bytes,
            update_s=own.optimizer_s / numbers, host_s=own.rest_s + own.input_s * sum(rows),
            sync_every=train.get("sync_every") or SYNC_EVERY,
            gradient_bytes=2.0 if train.get("compress_gradients") else 4.0,
            bucket_bytes=buckets.size_of(layout, machines, asked_mb=execution.get("bucket_mb")),
        )  # fmt: skip
        return Case(layout, tuple(self._timed(own)), asked, machines)

    def here(self, point: Doc, learned: Learned) -> Case | str:
        """A step of the point itself, where it was measured."""
        return self.case(
            point, learned, ranks=point["ranks"], devices=point["ranks"], batch=point["batch_size"],
            microbatches=point["microbatches"],
        )  # fmt: skip

    def layout(self, point: Doc, *, ranks: int, machines: int) -> Layout:
        execution = self.settings[point["name"]].get("execution") or {}
        return layouts.parse(
            point["layout"], ranks=ranks, schedule=execution.get("pipeline_schedule"),
            stages_per_rank=execution.get("stages_per_rank"), machines=machines, recompute=bool(execution.get("recompute")),
        )  # fmt: skip

    def alone(self, threads: int, *, device: str) -> Alone | str:
        """One process on `threads` cores, or one GPU; or which point is missing."""
        serial = sorted((p for p in self.points if p["layout"] == "serial" and p["shares"]), key=lambda p: p["cores"])
        if device == "cuda":
            return _alone(serial[0]) if serial else "the serial run on one GPU was not measured"
        exact = [p for p in serial if p["cores"] == threads]
        if exact:
            return _alone(exact[0])
        if len(serial) < 2 or not serial[0]["cores"] < threads < serial[-1]["cores"]:
            return f"no serial run tells what one process takes on {count_text(threads, 'core')}"
        low, high = serial[0], serial[-1]
        at = math.log(threads / low["cores"]) / math.log(high["cores"] / low["cores"])
        ends = [asdict(_alone(each)) for each in (low, high)]
        return Alone(**{key: _between(ends[0][key], ends[1][key], at) for key in ends[0]})

    def learned(self, points: Sequence[Doc]) -> Learned:
        """Medians of what these points say; nothing where there are none. Of sending, each counts by how long it should wait for
        messages: where that is little, the noise of a difference is all that its share of communication says."""
        said = [self._said(point) for point in points]
        contention = [each for each, _ in said if each is not None]
        sending = [each for _, each in said if each is not None]
        return Learned(
            statistics.median(contention) if contention else 0.0, _weighted_median(sending) if sending else 1.0
        )

    def _said(self, point: Doc) -> tuple[float | None, tuple[float, float] | None]:
        """Contention, and slower sending with its weight, by one point; None where it cannot tell."""
        if point["name"] not in self.known:
            contention = self._contention(point)
            self.known[point["name"]] = contention, self._sending(point, contention or 0.0)
        return self.known[point["name"]]

    @property
    def spread(self) -> float:
        """Standard deviation of a step's time in one process, relative."""
        return statistics.median(
            [p["scatter"] for p in self.points if p["layout"] == "serial" and p["scatter"]] or [0.0]
        )

    def _contention(self, point: Doc) -> float | None:
        seconds = point["seconds"]
        own = sum(seconds[cause] for cause in ("compute", "launch", "optimizer", "rest"))
        layout = self.layout(point, ranks=point["ranks"], machines=1)
        beside = busy(layout, point["ranks"], microbatches=point["microbatches"]) - 1
        return max(0.0, seconds["contention"]) / own / beside if beside > 0 and own > 0 else None

    def _sending(self, point: Doc, contention: float) -> tuple[float, float] | None:
        """Times as slow as the measured link, so that a simulated step waits as long for messages as the measured one; and the
        seconds that it would wait on the measured link."""
        factor, wanted_s, at_once_s = 1.0, max(0.0, point["seconds"]["communication"]), 0.0
        for _ in range(SENDING_TRIES):
            case = self.here(point, Learned(contention, factor))
            if isinstance(case, str):
                return None
            free = replace(case.machines, within=_free(case.machines), between=_free(case.machines), overhead_s=0.0)
            waits_s = case.asked.batch / case.rate() - case.asked.batch / case.rate(free)
            if waits_s < UNTOLD_S:
                return None
            at_once_s = at_once_s or waits_s
            factor = min(SENDING_MOST, max(1 / SENDING_MOST, factor * wanted_s / waits_s))
        return factor, at_once_s

    def _machines(self, point: Doc, learned: Learned, *, devices: int) -> Cluster | None:
        """Machines of `devices` ranks each, joined by links like the one that was measured inside this one."""
        found = point.get("link") or self._link(point)
        if found is None:
            return None
        overhead_s, latency_s, rate = cost.collective(
            {int(k): v for k, v in found["all_reduce_s"].items()}, found["gather_s"]
        )
        hop = cost.hop_of(latency_s * learned.sending, rate / learned.sending, ranks=found["ranks"])
        return Cluster(
            "machines like this one", 1, devices, Device(point["device"]), hop, hop, spread=self.spread,
            contention=learned.contention, steals=found["steals"], overhead_s=overhead_s * learned.sending,
        )  # fmt: skip

    def _link(self, point: Doc) -> Doc | None:
        """Measured for another point, with the nearest number of ranks."""
        others = [p for p in self.points if p.get("link")]
        return min(others, key=lambda p: abs(p["ranks"] - point["ranks"]))["link"] if others else None

    def _timed(self, own: Alone) -> list[Block]:
        flop, tensors = sum(b.flop for b in self.blocks), sum(len(b.tensors) for b in self.blocks) or 1
        found = []
        for block in self.blocks:
            calls = len(block.tensors) / tensors
            line = Line(own.launch_s * calls, own.row_s * (block.flop / flop if flop else calls))
            found.append(replace(block, forward=line * own.forward, backward=line * (1 - own.forward)))
        return found


def blocks_of(documents: Sequence[Doc]) -> list[Block]:
    """Counted pieces as a study's folder has them."""
    found: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()} for each in documents
    ]
    return [Block(**each) for each in found]


def _alone(point: Doc) -> Alone:
    seconds, timers = point["seconds"], point["timers"]
    passes = timers["forward"] + timers["backward"]
    # The line that parts the two may leave less than nothing to either. They keep their sum.
    work_s = max(0.0, seconds["launch"] + seconds["compute"])
    launch_s = min(max(0.0, seconds["launch"]), work_s)
    return Alone(
        launch_s / point["microbatches"], (work_s - launch_s) / point["batch_size"],
        max(0.0, seconds["optimizer"]), max(0.0, seconds["rest"]), max(0.0, seconds["input"]) / point["batch_size"],
        timers["forward"] / passes if passes else 1 / 3,
    )  # fmt: skip


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """Of (value, weight): the least value that has half of all weight at or below it."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    below = 0.0
    for value, weight in ordered:
        below += weight
        if below >= half:
            return value
    return ordered[-1][0]


def _between(low: float, high: float, at: float) -> float:
    return low ** (1 - at) * high**at if low > 0 and high > 0 else low * (1 - at) + high * at


def _free(machines: Cluster) -> Any:
    return replace(machines.within, latency_s=0.0, bytes_per_s=1e30)
