"""What a network asks of a machine, piece by piece: arithmetic, weights, activations, messages. Pieces lie between cuts.

Imports no torch: counting.py finds the pieces of a model, measure.py their seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fanlight.plan.cost import Line

NOTHING = Line(0.0, 0.0)
BACKWARD = 2.0  # times a forward's arithmetic: one product for the input's gradient, one for the weights'


@dataclass(frozen=True)
class Block:
    """What lies between two cuts. Bytes are of fp32 and of one row, unless said otherwise."""

    name: str
    tensors: tuple[int, ...]  # numbers in each trained parameter, in module order
    flop: float = 0.0  # of a forward
    sent_bytes: float = 0.0  # its output
    kept_bytes: float = 0.0  # what its forward keeps for the backward
    norms: tuple[int, ...] = ()  # channels of each norm that ranks synchronise
    buffers: int = 0  # numbers in running statistics
    divided: float = 0.0  # share of its arithmetic that tensor parallelism divides
    divided_numbers: int = 0  # of its parameters, likewise
    pairs: tuple[float, ...] = ()  # bytes that each divided pair's ranks add up in a forward, and again in a backward
    forward: Line = NOTHING  # seconds by rows, of one rank that computes alone
    backward: Line = NOTHING
    convert_s: float = 0.0  # of its weights to a short format, once in a step

    @property
    def numbers(self) -> int:
        return sum(self.tensors)

    def timed(self, flop_per_s: float) -> Block:
        """With seconds from arithmetic alone: a device at the rate that it was found to reach in training."""
        forward = Line(0.0, self.flop / flop_per_s)
        return replace(self, forward=forward, backward=forward * BACKWARD)
