"""Which rank computes what: a frozen value, whose product of degrees is the number of ranks. Imports no torch.

Rank order, outermost to innermost: pp, dp_replicate, dp_shard, tp. Neighbours thus share a tensor-parallel group, which
talks most, and the stages of a pipeline, which talk least, lie furthest apart.
"""

from dataclasses import dataclass

from fanlight.errors import ConfigError, near

NAMES = ("serial", "ddp")


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
        for field in ("pp", "dp_replicate", "dp_shard", "tp", "stages_per_rank"):
            value = getattr(self, field)
            if value < 1:
                raise ConfigError(f"layout {self.name}: {field} is {value}; it counts ranks or stages, so 1 or more")

    @property
    def ranks(self) -> int:
        """The world size."""
        return self.pp * self.dp_replicate * self.dp_shard * self.tp

    @property
    def data_ranks(self) -> int:
        """How many parts a microbatch is cut into."""
        return self.dp_replicate * self.dp_shard

    def data_rank(self, rank: int) -> int:
        """Which part of a microbatch `rank` sees, 0 … data_ranks-1.

        Ranks that differ only in pp or tp see the same part; every part is seen by pp·tp ranks; without pp and tp it is
        the rank itself.
        """
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is not one of the {self.ranks} ranks of layout {self.name}")
        return rank // self.tp % self.data_ranks


def parse(text: str, *, ranks: int | None) -> Layout:
    """The layout that `--layout` names, over `ranks` processes; None: as many as the layout says by itself.

    Raises ConfigError for an unknown name, and where the product of the degrees is not `ranks`.
    """
    if ranks is not None and ranks < 1:
        raise ConfigError(f"ranks: {ranks} processes cannot train; use --ranks 1 or more")
    if text == "serial":
        if ranks not in (None, 1):
            raise ConfigError(f"layout serial with ranks {ranks}: serial is one process; use --layout ddp or --ranks 1")
        return Layout()
    if text == "ddp":
        if ranks is None or ranks < 2:
            raise ConfigError(
                f"layout ddp with ranks {ranks}: ddp is two or more processes; use --ranks 2 or --layout serial"
            )
        return Layout(dp_replicate=ranks, name="ddp")
    raise ConfigError(f"layout {text!r} does not exist; layouts that exist: {', '.join(NAMES)}.{near(text, NAMES)}")
