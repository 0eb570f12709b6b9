"""Every layout that could train this network on these machines: what a step would take and hold, and which fit.

Predictions all come from program.py and simulate.py; nothing here knows what a layout costs. The band is band.py's; choice.py
takes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fanlight.config import Config
from fanlight.console import bytes_text
from fanlight.errors import ConfigError
from fanlight.parallel import layout as layouts
from fanlight.parallel.layout import Layout
from fanlight.plan import band, buckets, cost, memory, possible, sharding
from fanlight.plan.blocks import Block
from fanlight.plan.calibration import Calibration, Measured
from fanlight.plan.cluster import Cluster
from fanlight.plan.memory import Kept
from fanlight.plan.operations import Asked, Op
from fanlight.plan.program import STATISTICS, program
from fanlight.plan.simulate import Timeline, simulate
from fanlight.train import batchsize, layouting

NAMES = ("ddp", "fsdp", "hsdp", "pipeline", "model-parallel", "tensor", "local-sgd")
PRODUCTS = (
    ("replicate", "shard"),
    ("replicate", "pipe"),
    ("replicate", "tensor"),
    ("shard", "tensor"),
    ("pipe", "tensor"),
)  # of two degrees
FILE_NOISE = 0.15  # of a rate that a file tells, of another network and found by others: ResNets differ by as much
# Of a CPU rank's process beside a step, where nothing was measured: 539 to 564 MB with small-cnn, ResNet-18, ResNet-50 and
# MobileNetV3 (n = 1 each; torch 2.15.0+cu132 on Linux, one thread: its peak in steps of 8 images less what those hold).
PROCESS_BYTES = 560e6
MEMORY_SHARE = batchsize.MEMORY_SHARE  # of what is there: fragments need the rest


@dataclass(frozen=True)
class Candidate:
    """One way to compute, predicted."""

    layout: str
    ranks: int
    precision: str
    batch: int
    microbatches: int
    images_per_s: float
    band: tuple[float, float]
    bytes: float  # of the rank that holds most
    fits: bool
    reason: str  # why it does not fit or cannot be; else what of its step is not computing
    source: str = "simulated"
    turns_s: tuple[float, ...] = ()  # of steps that were run in turns with others', turn by turn
    batch_reason: str = ""  # why its batch is no larger; empty where the batch was not left open

    @property
    def is_other(self) -> bool:
        """Whether it is another algorithm than the serial run."""
        return self.layout in layouts.OTHER

    def document(self) -> dict[str, Any]:
        return {
            "layout": self.layout, "ranks": self.ranks, "precision": self.precision, "batch_size": self.batch,
            "microbatches": self.microbatches, "images_per_s": self.images_per_s, "band": list(self.band),
            "bytes": round(self.bytes), "fits": self.fits, "reason": self.reason, "source": self.source,
            "batch_reason": self.batch_reason,
        }  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is planned: a network, its data and the machines."""

    config: Config  # resolved, serial
    counted: Sequence[Block]
    images: int  # in training
    cluster: Cluster
    calibration: Calibration | None  # of this machine; None where the cluster's file says how fast its devices are
    rows: int  # of a rank's part of a batch, where the batch is open
    is_weak: bool = False  # the batch grows with the ranks
    undivided: Callable[[int], str] = lambda ranks: ""  # why so many ranks cannot divide the network's layers
    asked: Config | None = None  # what a run would be, besides its layout; None: as `config`
    unrecomputed: str = ""  # why training could not recompute the network's blocks; empty: it can


def candidates(
    about: Question, *, ranks: int, precisions: Sequence[str], predict: Callable[..., Candidate] | None = None
) -> list[Candidate]:
    """Every layout over `ranks` ranks in every number format, fastest first; those that cannot be come last. `predict`: as
    `predicted`, which None is; batches.py has another."""
    predict = predict or predicted
    names = [each for each in NAMES if each != "hsdp" or ranks >= 4] if ranks > 1 else ["serial"]
    names += products(ranks, stages=len(about.counted), devices=about.cluster.over(ranks).devices)
    found = [predict(about, name, ranks=ranks, number_format=each) for name in names for each in precisions]
    return sorted(found, key=lambda each: (not each.fits, -each.images_per_s))


def products(ranks: int, *, stages: int, devices: int) -> list[str]:
    """Layouts of two degrees over `ranks` ranks. Tensor parallelism stays inside a node of `devices`, and a pipeline has at most
    as many `stages` as the network has pieces."""
    most = {"replicate": ranks, "shard": ranks, "pipe": stages, "tensor": devices}
    return [
        f"{outer}={ranks // inner_ranks},{inner}={inner_ranks}"
        for outer, inner in PRODUCTS
        for inner_ranks in range(2, min(most[inner], ranks // 2) + 1)
        if ranks % inner_ranks == 0 and ranks // inner_ranks <= most[outer]
    ]


def layout_of(about: Question, name: str, *, ranks: int, machines: Cluster) -> Layout:
    """ConfigError where the layout cannot have so many ranks."""
    of_ranks = None if name == "serial" else ranks
    return layouts.parse(name, ranks=of_ranks, machines=machines.nodes, recompute=about.config.execution.recompute)


def machines_of(about: Question, *, ranks: int, number_format: str) -> Cluster:
    """What `ranks` ranks run on. Of the machine that was measured, as it was in that number format with as many ranks; of a file
    of CPUs like the measured ones that says no overhead, with the library's as it was measured."""
    if about.cluster.is_measured and about.calibration is not None:
        measured = about.calibration.nearest(ranks).cluster(about.cluster.name, number_format=number_format)
        return replace(measured, device=about.cluster.device).over(ranks)
    described = about.cluster
    if about.calibration is not None and described.device.kind == "cpu" and not described.overhead_s:
        described = replace(described, overhead_s=about.calibration.library_s(number_format))
    return described.over(ranks)


def batch_of(about: Question, *, ranks: int) -> int:
    """Images in a step of so many ranks."""
    return about.rows * ranks if about.is_weak else about.config.train.batch_size or 1


def predicted(
    about: Question, name: str, *, ranks: int, number_format: str, batch: int | None = None, has_band: bool = True
) -> Candidate:
    """One of them. `batch`: None: as the question has it. Without a band it takes a ninth of the time."""
    machines = machines_of(about, ranks=ranks, number_format=number_format)
    batch = batch or batch_of(about, ranks=ranks)

    def refused(reason: str) -> Candidate:
        return Candidate(name, ranks, number_format, batch, 1, 0.0, (0.0, 0.0), 0.0, False, reason, "")

    try:
        layout = layout_of(about, name, ranks=ranks, machines=machines)
        trained = {"execution.layout": name, "execution.ranks": ranks, "train.precision": number_format}
        layouting.check(
            (about.asked or about.config).with_values(trained)
        )  # what training would refuse is no candidate
    except ConfigError as error:
        return refused(str(error))
    if why := possible.why_not(
        layout,
        about.counted,
        machines,
        batch=batch,
        microbatches=about.config.train.microbatches,
        row_unit=about.config.augment.row_unit,
        undivided=about.undivided(layout.tp),
    ):
        return refused(why)
    blocks = blocks_of(about, layout, number_format=number_format)
    if blocks is None:
        return refused(f"{about.cluster.name}: its file does not say what it achieves in {number_format}")
    room, kept = MEMORY_SHARE * machines.memory_bytes, kept_of(about, machines, number_format)
    each = [
        asked_of(about, layout, batch=batch, number_format=number_format, machines=machines, microbatches=count)
        for count in _microbatches(about, layout, batch=batch)
    ]
    sizes = [memory.of(layout, blocks, asked, kept).total for asked in each]
    played = [simulate(program(layout, blocks, asked, machines)) for asked in each]
    asked, size, timeline = each[0], sizes[0], played[0]
    for other in range(1, len(each)):  # fewer must be clearly faster than what training takes by itself, and fit
        worth = batchsize.WORTH if asked is each[0] else 1.0
        if sizes[other] <= room and worth * played[other].step_s <= timeline.step_s:
            asked, size, timeline = each[other], sizes[other], played[other]
    rate = batch / timeline.step_s
    low = high = rate
    if has_band:
        low, high = band.around(
            lambda other: batch / simulate(program(layout, blocks, asked, other)).step_s, machines,
            noise=_noise(about, number_format, ranks=ranks),
        )  # fmt: skip
    why = too_few(about, batch=batch)
    if size > room:
        why = f"takes {bytes_text(size)} of the {bytes_text(room)} that a rank may have, {bytes_text(size - room)} too much"
    return Candidate(
        name,
        ranks,
        number_format,
        batch,
        asked.microbatches,
        rate,
        (low, high),
        size,
        not why,
        why or lost(timeline),
    )


def timeline_of(about: Question, chosen: Candidate) -> Timeline:
    """The step of a candidate, for a trace."""
    machines = machines_of(about, ranks=chosen.ranks, number_format=chosen.precision)
    layout = layout_of(about, chosen.layout, ranks=chosen.ranks, machines=machines)
    blocks = blocks_of(about, layout, number_format=chosen.precision)
    assert blocks is not None
    asked = asked_of(
        about, layout, batch=chosen.batch, number_format=chosen.precision, machines=machines,
        microbatches=chosen.microbatches,
    )  # fmt: skip
    ops: list[Op] = program(layout, blocks, asked, machines)
    return simulate(ops)


def lost(timeline: Timeline) -> str:
    """What of the slowest rank's step is not forward and backward, in words."""
    step_s = timeline.step_s
    rank = max({op.ranks[0] for op in timeline.ops}, key=lambda each: timeline.busy_s(each, "compute"))
    shares: dict[str, float] = {"waiting": timeline.idle_s(rank) / step_s}
    for op, begin, end in zip(timeline.ops, timeline.begins, timeline.ends):
        share = (end - begin) / step_s
        if rank in op.ranks and op.name == STATISTICS:  # sent while the rank waits
            shares["waiting"] -= share
            shares[op.name] = shares.get(op.name, 0.0) + share
        elif op.lane == "compute" and rank in op.ranks and not op.name.startswith(("forward", "backward")):
            shares[op.name] = shares.get(op.name, 0.0) + share
    told = [f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda each: -each[1]) if share >= 0.01]
    return ", ".join(told[:3])


def blocks_of(about: Question, layout: Layout, *, number_format: str) -> list[Block] | None:
    """The network's pieces with their seconds on one rank. None where nobody knows how fast that is."""
    calibration = about.calibration
    if calibration is None:
        rate = about.cluster.device.flop_per_s.get(number_format)
        return None if rate is None else [block.timed(rate) for block in about.counted]
    measured = like(about, calibration, layout.ranks)
    blocks = calibration.blocks(
        about.counted, ranks=measured.ranks, number_format=number_format,
        are_norms_shared=layout.data_ranks > 1 and not layout.is_periodic,
    )  # fmt: skip
    speed = about.cluster.device.speed or 1.0
    return [replace(b, forward=b.forward * (1 / speed), backward=b.backward * (1 / speed)) for b in blocks]


def like(about: Question, calibration: Calibration, ranks: int) -> Measured:
    """What was measured that a rank is like: of the machine itself, beside as many others; of a file's nodes, alone with all
    cores where a node has one rank, else one of as many as this machine has cores or GPUs."""
    if about.cluster.is_measured:
        return calibration.nearest(ranks)
    return calibration.by_ranks[1 if about.cluster.devices == 1 else max(calibration.by_ranks)]


def _microbatches(about: Question, layout: Layout, *, batch: int) -> list[int]:
    """How many a step may be cut into: first what training takes by itself; of a pipeline where they are open, also the powers
    of two below that, with longer bubbles and less that is fixed."""
    config = about.config
    if layout.pp == 1 or layout.schedule == "sequential" or "train.microbatches" in config.asked:
        return [config.train.microbatches]
    most = batch // (layouting.ROWS_LEAST * layout.data_ranks)
    usual = max(1, min(layouting.MICROBATCHES_PER_STAGE * layout.pp, most))
    return [usual, *(1 << power for power in reversed(range((usual - 1).bit_length())))]


def asked_of(
    about: Question,
    layout: Layout,
    *,
    batch: int,
    number_format: str,
    machines: Cluster,
    microbatches: int | None = None,
) -> Asked:
    """The step that the layout would make on the `machines`. `microbatches`: None: as training takes them by itself."""
    config, calibration = about.config, about.calibration
    is_short = number_format != "fp32"
    asked = Asked(
        batch, microbatches or _microbatches(about, layout, batch=batch)[0], config.augment.row_unit,
        weight_bytes=2.0 if is_short else 4.0, activation_bytes=2.0 if is_short else 4.0,
        gradient_bytes=2.0 if config.train.compress_gradients else 4.0,
        sync_every=config.train.sync_every or layouting.SYNC_EVERY,
        bucket_bytes=buckets.size_of(layout, machines, asked_mb=config.execution.bucket_mb),
    )  # fmt: skip
    if calibration is None:
        return asked
    measured = like(about, calibration, layout.ranks)
    steps = measured.steps[number_format]
    numbers = sum(block.numbers for block in about.counted)
    slower, speed = max(1.0, steps.alone), about.cluster.device.speed or 1.0
    cropping_s = calibration.input_s * sum(asked.rows(layout.data_ranks))
    host_s = steps.rest_s / slower + (cropping_s / measured.threads if about.cluster.device.kind == "cpu" else 0.0)
    threads = 1 if about.cluster.device.kind == "cpu" else max(1, config.execution.workers or 1)
    own = measured.cluster("here", number_format=number_format)  # where the blocks were sharded
    gathering, scattering = sharding.beyond(measured.passes, cost.route(own, list(range(measured.ranks))))
    return replace(
        asked, update_s=steps.optimizer_s / numbers / slower / speed, host_s=host_s / speed,
        input_s=calibration.input_s / threads / speed,
        gathering=gathering * (1 / speed), scattering=scattering * (1 / speed),
    )  # fmt: skip


def too_few(about: Question, *, batch: int) -> str:
    """Why a batch that grew with its ranks is too large for the data; empty where it is not, or did not grow."""
    if about.is_weak and batch > about.rows and batch * batchsize.STEPS_PER_EPOCH > about.images:
        return (
            f"{batch} images a step, {about.rows} on each rank, leave fewer than {batchsize.STEPS_PER_EPOCH} steps of an epoch "
            f"of {about.images}; use fewer ranks, or say a --batch-size"
        )
    return ""


def kept_of(about: Question, machines: Cluster, number_format: str) -> Kept:
    config = about.config
    kept = Kept(config.data.image_px or 0, config.optim.name, config.train.ema is not None)
    base = PROCESS_BYTES if machines.device.kind == "cpu" else 0.0
    if about.calibration is not None and machines.device.kind == "cpu":  # on a GPU the process is not in its memory
        measured = like(about, about.calibration, machines.devices)
        name, ranks = ("ddp", measured.ranks) if measured.ranks > 1 else ("serial", None)
        layout = layouts.parse(name, ranks=ranks)
        unit = config.augment.row_unit
        asked = Asked(measured.peak_batch // unit * unit, measured.microbatches, unit)
        told = memory.of(layout, about.counted, asked, kept)
        # What a process takes beside a step: measured at a small batch, less what the arithmetic says of that.
        base = max(measured.base_bytes, measured.peak_bytes - (told.total - told.batches))
    return replace(kept, is_short=number_format != "fp32", base=base, on_device=machines.device.kind == "cuda")


def _noise(about: Question, number_format: str, *, ranks: int) -> float:
    """Of measured steps; of several ranks, also by how much those of ddp are missed."""
    if about.calibration is None:
        return FILE_NOISE
    steps = [each.steps[number_format] for each in about.calibration.by_ranks.values()]
    return max(max(each.noise, each.missed if ranks > 1 else 0.0) for each in steps)
