"""What was measured of a machine, and the file that keeps it: the calibration of every prediction. Imports no torch.

A file is written under another name first and carries a sum of what is in it: a torn or changed one is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fanlight import console, machine
from fanlight.plan import cost
from fanlight.plan.blocks import NOTHING, Block
from fanlight.plan.cluster import Cluster, Device
from fanlight.plan.cost import Line


@dataclass(frozen=True)
class Steps:
    """Of one rank among as many as ran, in one number format."""

    forward: Line  # seconds by rows
    backward: Line
    optimizer_s: float
    rest_s: float  # of the loop and of preparing the batch on its device
    alone: float  # times as long as with the other ranks asleep
    noise: float  # standard deviation of a step's time, relative: of a minute, in which the machine's pace changes
    joined: tuple[float, float] = (1.0, 1.0)  # times as long as with nothing sent, of the smaller and the larger batch
    norms: tuple[float, float] = (
        1.0,
        1.0,
    )  # times as long, a forward and a backward, as with norms that no ranks share
    spread: float = 0.0  # of ranks' step times, relative, by which simulated steps take as long (waiting.py)
    sending: float = 1.0  # times as long as without anything beside it that what is sent takes, likewise
    missed: float = (
        0.0  # by how much simulated steps still differ from measured ones, relative: nothing within bounds is exact
    )


@dataclass(frozen=True)
class Measured:
    """One machine, one network, one batch."""

    ranks: int
    threads: int
    steps: dict[str, Steps]  # by precision
    base_bytes: int  # of a rank's process without model and batch
    peak_bytes: int  # of a rank's process after steps of `peak_batch` images over all ranks, in fp32
    peak_batch: int
    overhead_s: float = 0.0
    latency_s: float = 0.0
    bytes_per_s: float = 1e30
    steals: float = 0.0
    sizes: tuple[int, int] = (1, 1)  # images over all ranks of the smaller and the larger steps
    passes: tuple[Line, Line] = (
        NOTHING,
        NOTHING,
    )  # seconds of a sharded block's forward and backward, by bytes (sharding.py)
    gpu: str = ""  # its name; empty: ranks compute on CPUs
    gpu_bytes: float = 0.0  # of its memory
    microbatches: int = 1  # of all these steps

    def cluster(self, name: str, *, number_format: str | None = None) -> Cluster:
        """This machine as a cluster of one node, `ranks` ranks on it, as it was measured in a number format; None: in the
        first of them."""
        steps = self.steps[number_format or next(iter(self.steps))]
        slower = steps.sending
        hop = cost.hop_of(self.latency_s * slower, self.bytes_per_s / slower, ranks=max(2, self.ranks))
        share = (max(1.0, steps.alone) - 1) / (self.ranks - 1) if self.ranks > 1 else 0.0
        device = Device("cpu", machine.cpu_name(), machine.memory_available(), speed=1.0)
        if self.gpu:
            device = Device("cuda", self.gpu, self.gpu_bytes, speed=1.0)
        return Cluster(
            name, 1, self.ranks, device, hop, hop, spread=steps.spread,
            contention=share, steals=self.steals, overhead_s=self.overhead_s * slower, is_measured=True,
        )  # fmt: skip


class Piece(NamedTuple):
    """What lies between two cuts, on one rank that computes alone."""

    forward_s: float
    backward_s: float
    divided: float  # share of its forward in what tensor parallelism divides


@dataclass(frozen=True)
class Calibration:
    """Everything that was measured here."""

    fingerprint: str
    took_s: float
    shares: dict[str, list[Piece]]  # by precision, of each block
    by_ranks: dict[int, Measured]
    input_s: float  # of making one image of its canvas, on one thread

    def nearest(self, ranks: int) -> Measured:
        """What was measured with that many ranks, or with the number nearest to it."""
        return self.by_ranks[min(self.by_ranks, key=lambda each: abs(each - ranks))]

    @property
    def beside(self) -> Measured | None:
        """The fewest ranks that were measured beside each other."""
        return min(
            (each for each in self.by_ranks.values() if each.ranks > 1), key=lambda each: each.ranks, default=None
        )

    def library_s(self, number_format: str) -> float:
        """Of an all-reduce of nothing inside this machine, in a step: there is next to no wire, so it is the library's own time,
        and that of waking those who wait."""
        found = self.beside
        if found is None:
            return 0.0
        return found.steps[number_format].sending * (found.overhead_s + found.latency_s / (found.ranks - 1))

    def blocks(
        self, counted: Sequence[Block], *, ranks: int, number_format: str, are_norms_shared: bool = True
    ) -> list[Block]:  # fmt: skip
        """The counted blocks with their seconds on one rank of `ranks`, as if it computed alone: what the pieces take in
        proportion, scaled to what whole steps take. One rank alone has no norms to share: those of several tell what it costs."""
        measured = self.by_ranks[ranks]
        steps, shares = measured.steps[number_format], self.shares[number_format]
        forward_s, backward_s = (sum(share[i] for share in shares) for i in (0, 1))
        shared = (self.beside or measured).steps[number_format].norms
        norms = [1.0 if are_norms_shared == (ranks > 1) else 1 / each if are_norms_shared else each for each in shared]
        slower = [max(1.0, steps.alone) * each for each in norms]
        return [
            replace(
                block, forward=steps.forward * (share.forward_s / forward_s / slower[0]),
                backward=steps.backward * (share.backward_s / backward_s / slower[1]), divided=share.divided,
            )
            for block, share in zip(counted, shares)
        ]  # fmt: skip


def write(path: Path, found: Calibration) -> None:
    """Where the cache cannot take it, the next plan measures again."""
    part = path.with_suffix(f".{os.getpid()}.part")  # of this process: two may measure at a time
    text = json.dumps(asdict(found))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"sum": _sum(json.loads(text)), "found": json.loads(text)}), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # what a full disk took of it
        why = f"{path.parent}: {os.strerror(error.errno or 0)}"
        console.warn(
            "what this machine was measured to do cannot be kept", why=f"{why}, so the next plan measures again",
            do="Free some room there, or set FANLIGHT_CACHE to a folder that can be written",
        )  # fmt: skip


def _sum(found: Any) -> str:
    """Of a document as JSON has it: a torn or changed file is told from a whole one."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Calibration | None:
    """What was kept; None where there is nothing, or it is not what was written."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        told = kept["found"]
        if kept["sum"] != _sum(told):
            raise ValueError("not what was written")
        by_ranks = {}
        for ranks, each in told["by_ranks"].items():
            steps = {
                name: Steps(
                    **{
                        **one,
                        "forward": Line(**one["forward"]),
                        "backward": Line(**one["backward"]),
                        "joined": tuple(one["joined"]),
                        "norms": tuple(one["norms"]),
                    }
                )
                for name, one in each["steps"].items()
            }
            passes = tuple(Line(**line) for line in each["passes"])
            by_ranks[int(ranks)] = Measured(**{**each, "steps": steps, "passes": passes, "sizes": tuple(each["sizes"])})
        shares = {name: [Piece(*row) for row in rows] for name, rows in told["shares"].items()}
        return Calibration(told["fingerprint"], told["took_s"], shares, by_ranks, told["input_s"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        console.say(f"  {path} is damaged: what was measured before is measured again")
        return None
