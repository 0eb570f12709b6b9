"""Which rank computes what: a frozen value, whose product of degrees is the number of ranks. Imports no torch.

Rank order, outermost to innermost: pp, dp_replicate, dp_shard, tp. Neighbours thus share a tensor-parallel group, which
talks most, and the stages of a pipeline, which talk least, lie furthest apart.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fanlight.config import Execution
from fanlight.errors import ConfigError, near, shown

AXES = ("pp", "dp_replicate", "dp_shard", "tp")
DEGREES = {"pipe": "pp", "replicate": "dp_replicate", "shard": "dp_shard", "tensor": "tp"}  # words of a product
SAME = ("serial", "ddp", "fsdp", "hsdp", "model-parallel", "pipeline", "tensor")  # the mathematics of the serial run
PERIODIC = ("local-sgd", "diloco")  # ranks that train apart and meet every few steps
OTHER = (*PERIODIC, "dataparallel")  # other algorithms, and they say so
NAMES = (*SAME, *OTHER)
DIGITS_MOST = 18  # of a degree; Python itself refuses to read thousands of them
SCHEDULES = ("gpipe", "1f1b", "interleaved", "sequential")


class Place(NamedTuple):
    """Where a rank stands on each axis."""

    pp: int
    dp_replicate: int
    dp_shard: int
    tp: int


@dataclass(frozen=True)
class Layout:
    """Degrees of each kind of parallelism. Decides who computes, never what is computed."""

    pp: int = 1  # pipeline stages' ranks: each holds some of the layers
    dp_replicate: int = 1  # whole copies of the weights, each with its own rows of a batch
    dp_shard: int = 1  # ranks that see their own rows and hold a share of the weights
    tp: int = 1  # ranks that hold a share of each layer's channels and see the same rows
    schedule: str = ""  # order of a pipeline's forwards and backwards; empty without a pipeline
    stages_per_rank: int = 1  # pipeline stages that one rank holds
    recompute: bool = False  # forget activations in the forward, compute them again in the backward
    name: str = "serial"  # what the user calls it

    def __post_init__(self) -> None:
        for field in (*AXES, "stages_per_rank"):
            value = getattr(self, field)
            if value < 1:
                raise ConfigError(f"layout {self.name}: {field} is {value}; it counts ranks or stages, so 1 or more")

    @property
    def ranks(self) -> int:
        """The world size."""
        return self.pp * self.dp_replicate * self.dp_shard * self.tp

    @property
    def stages(self) -> int:
        """Parts that a pipeline cuts the model into."""
        return self.pp * self.stages_per_rank

    @property
    def data_ranks(self) -> int:
        """How many parts a microbatch is cut into."""
        return self.dp_replicate * self.dp_shard

    @property
    def is_whole(self) -> bool:
        """Whether every rank holds all of the model."""
        return self.pp == self.dp_shard == self.tp == 1

    @property
    def is_periodic(self) -> bool:
        """Whether ranks train apart for some steps."""
        return self.name in PERIODIC

    def data_rank(self, rank: int) -> int:
        """Which part of a microbatch `rank` sees, 0 … data_ranks-1.

        Ranks that differ only in pp or tp see the same part; every part is seen by pp·tp ranks; without pp and tp it is
        the rank itself.
        """
        place = self.place(rank)
        return place.dp_replicate * self.dp_shard + place.dp_shard

    def place(self, rank: int) -> Place:
        """Where `rank` stands on each axis; `rank_at` is its inverse."""
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is not one of the {self.ranks} ranks of layout {self.name}")
        rest, tp = divmod(rank, self.tp)
        rest, shard = divmod(rest, self.dp_shard)
        pp, replica = divmod(rest, self.dp_replicate)
        return Place(pp, replica, shard, tp)

    def rank_at(self, place: Place) -> int:
        """The rank that stands there."""
        return (
            (place.pp * self.dp_replicate + place.dp_replicate) * self.dp_shard + place.dp_shard
        ) * self.tp + place.tp

    def groups(self, *axes: str) -> list[list[int]]:
        """All ranks, parted into those that differ only along `axes`; each group in rank order, groups by their first.

        Every rank is in one group; the groups have equal sizes, the product of the axes' degrees."""
        fixed = [range(1) if axis in axes else range(getattr(self, axis)) for axis in AXES]
        return [self.peers(self.rank_at(Place(*kept)), *axes) for kept in itertools.product(*fixed)]

    def peers(self, rank: int, *axes: str) -> list[int]:
        """`rank` and those that differ from it only along `axes`, in rank order."""
        place = self.place(rank)
        ways = [range(getattr(self, axis)) if axis in axes else (at,) for axis, at in zip(AXES, place)]
        return [self.rank_at(Place(*each)) for each in itertools.product(*ways)]


def parse(
    text: str, *, ranks: int | None, schedule: str | None = None, stages_per_rank: int | None = None, machines: int = 1,
    recompute: bool = False,
) -> Layout:  # fmt: skip
    """The layout that `--layout` names, over `ranks` processes; None: as many as the layout says by itself.

    `schedule` and `stages_per_rank` are of a pipeline; None: 1f1b with one stage a rank, interleaved with two. `machines`
    are the copies that hsdp keeps. Raises ConfigError for an unknown name, where the product of the degrees is not `ranks`,
    and where a setting belongs to another layout.
    """
    if ranks is not None and ranks < 1:
        raise ConfigError(f"ranks: {ranks} processes cannot train; use --ranks 1 or more")
    found = _product(text, ranks) if "=" in text else _named(text, ranks, machines=machines)
    return replace(_with_schedule(found, schedule, stages_per_rank), recompute=recompute)


def of(execution: Execution, *, ranks: int | None, machines: int = 1) -> Layout:
    """The layout of a resolved config's section over `ranks` processes."""
    return parse(
        execution.layout or "serial", ranks=ranks, schedule=execution.pipeline_schedule,
        stages_per_rank=execution.stages_per_rank, machines=machines, recompute=execution.recompute,
    )  # fmt: skip


def degrees_of(text: str) -> int | None:
    """How many ranks a product such as replicate=2,pipe=2 asks for; None where the name leaves it open."""
    return parse(text, ranks=None).ranks if "=" in text else None


def _named(text: str, ranks: int | None, *, machines: int) -> Layout:
    if text not in NAMES:
        words = ", ".join(f"{word}=N" for word in DEGREES)
        raise ConfigError(
            f"layout {text!r} does not exist; layouts that exist: {', '.join(NAMES)}, and products of {words}."
            f"{near(text, NAMES)}"
        )
    if text in ("serial", "dataparallel"):
        if ranks not in (None, 1):
            way = (
                "--layout ddp or --ranks 1" if text == "serial" else "--layout ddp, which is also faster, or --ranks 1"
            )
            raise ConfigError(f"layout {text} with ranks {ranks}: {text} is one process; use {way}")
        return Layout(name=text)
    if ranks is None or ranks < 2:
        raise ConfigError(
            f"layout {text} with ranks {ranks}: {text} is two or more processes; use --ranks 2 or --layout serial"
        )
    if text == "hsdp":
        copies = machines if machines > 1 else 2
        if ranks % copies or ranks == copies:
            raise ConfigError(
                f"layout hsdp with ranks {ranks}: each of {copies} copies is sharded over two or more ranks; use --ranks "
                f"{2 * copies}, --layout fsdp, or say replicate=R,shard=S"
            )
        return Layout(dp_replicate=copies, dp_shard=ranks // copies, name=text)
    axis = {"fsdp": "dp_shard", "model-parallel": "pp", "pipeline": "pp", "tensor": "tp"}.get(text, "dp_replicate")
    schedule = {"model-parallel": "sequential", "pipeline": "1f1b"}.get(text, "")
    degrees: dict[str, Any] = {axis: ranks}
    return Layout(name=text, schedule=schedule, **degrees)


def _product(text: str, ranks: int | None) -> Layout:
    degrees: dict[str, Any] = {}
    for part in text.split(","):
        word, _, number = (piece.strip() for piece in part.partition("="))
        if word not in DEGREES:
            raise ConfigError(
                f"layout {text!r}: {word!r} is no degree; use {', '.join(DEGREES)}, as in replicate=2,pipe=2."
                f"{near(word, DEGREES)}"
            )
        if DEGREES[word] in degrees:
            raise ConfigError(f"layout {text!r} says {word} twice; leave one out")
        if not number.isdecimal() or len(number) > DIGITS_MOST or int(number) < 1:
            raise ConfigError(f"layout {shown(text)!r}: {word}={shown(number)} is no number of ranks; write {word}=2")
        degrees[DEGREES[word]] = int(number)
    found = Layout(name=text, schedule="1f1b" if degrees.get("pp", 1) > 1 else "", **degrees)
    if ranks is not None and found.ranks != ranks:
        raise ConfigError(
            f"layout {text!r} is {found.ranks} ranks, the product of its degrees, and there are {ranks}; start "
            f"{found.ranks} of them (--ranks, torchrun's --nproc-per-node), or use other degrees"
        )
    return found


def _with_schedule(found: Layout, schedule: str | None, stages_per_rank: int | None) -> Layout:
    """The pipeline's order and stages, where there is a pipeline."""
    asked = schedule is not None or stages_per_rank is not None
    if found.pp == 1 or found.name == "model-parallel":
        if asked and not (
            found.name == "model-parallel" and schedule in (None, "sequential") and stages_per_rank in (None, 1)
        ):
            raise ConfigError(
                f"layout {found.name} has no pipeline to schedule; leave --pipeline-schedule and --stages-per-rank out, or use "
                "--layout pipeline"
            )
        return found
    order = schedule or ("interleaved" if (stages_per_rank or 1) > 1 else found.schedule)
    if order not in SCHEDULES:
        raise ConfigError(f"execution.pipeline_schedule is {order!r}; use one of {', '.join(SCHEDULES)}")
    each = stages_per_rank or (2 if order == "interleaved" else 1)
    if (order == "interleaved") != (each > 1):
        raise ConfigError(
            f"schedule {order} with {each} stage(s) per rank: interleaved is two or more, the others one; change "
            "--pipeline-schedule or --stages-per-rank"
        )
    return replace(found, schedule=order, stages_per_rank=each)
