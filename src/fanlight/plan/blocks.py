"""What a network asks of a machine, piece by piece: arithmetic, weights, activations, messages. Pieces lie between cuts.

Imports no torch: counting.py finds the pieces of a model, measure.py their seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fanlight.plan.cost import Line

NOTHING = Line(0.0, 0.0)


@dataclass(frozen=True)
class Block:
    """What lies between two cuts. Bytes are of fp32 and of one row, unless said otherwise."""

    name: str
    tensors: tuple[int, ...]  # numbers in each trained parameter, in module order
    flop: float = 0.0  # of a forward
    backward_flop: float = 0.0  # none where neither the block nor anything before it trains
    frozen: int = 0  # numbers in parameters that do not train
    sent_bytes: float = 0.0  # its output
    sent_short: float = 0.5  # share of these bytes in a number format of two bytes: some outputs stay in four
    kept_bytes: float = 0.0  # what its forward keeps for the backward
    kept_short: float = 0.5  # likewise
    norms: tuple[int, ...] = ()  # channels of each norm that ranks synchronise
    buffers: int = 0  # numbers in running statistics
    divided: float = 0.0  # share of its time that tensor parallelism divides; of its arithmetic where no time is known
    divided_numbers: int = 0  # of its parameters, likewise
    pairs: tuple[float, ...] = ()  # bytes that each divided pair's ranks add up in a forward: its output
    pairs_backward: tuple[float, ...] = ()  # in a backward: the gradient of its input; none told: as in a forward
    pairs_short: tuple[float, float] = (0.5, 0.5)  # of `pairs` and `pairs_backward`, as sent_short
    forward: Line = NOTHING  # seconds by rows, of one rank that computes alone
    backward: Line = NOTHING

    @property
    def numbers(self) -> int:
        """That train."""
        return sum(self.tensors)

    def timed(self, flop_per_s: float) -> Block:
        """With seconds from arithmetic alone: a device at the rate that it was found to reach in training."""
        return replace(
            self, forward=Line(0.0, self.flop / flop_per_s), backward=Line(0.0, self.backward_flop / flop_per_s)
        )
