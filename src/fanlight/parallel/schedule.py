"""In which order each rank of a pipeline computes its forwards and backwards. Pure; imports no torch.

P ranks, V stages on each, S = P·V stages, M microbatches. Stage s lies on rank s mod P. A backward of stage s waits for
the backward of stage s+1 on the same microbatch and for its own forward; a forward for that of stage s-1. On every stage
backwards come in the order of microbatches, so gradients are summed as the serial run sums them, to the bit.

gpipe: Huang et al. 2019. 1f1b: Narayanan et al. 2019 (PipeDream), with a flush at every step. interleaved: Narayanan et al. 2021
(Megatron-LM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fanlight.errors import ConfigError

BACKWARD_COST = 2  # of a forward: two matrix products for one; decides the interleaved order only


class Action(NamedTuple):
    """One forward or backward of one stage."""

    is_forward: bool
    stage: int
    microbatch: int


Order = tuple[Action, ...]  # of one rank


@dataclass(frozen=True)
class Orders:
    """What every rank does, in order. Every forward and backward of every stage occurs once, on the rank of its stage."""

    ranks: int
    stages: int
    microbatches: int
    by_rank: tuple[Order, ...]

    def rank_of(self, stage: int) -> int:
        return stage % self.ranks

    def channel(self, source: int, target: int, *, is_forward: bool) -> tuple[Action, ...]:
        """The actions of `source` whose result goes to `target`, in the order of sending: the order of receiving, too."""
        step = 1 if is_forward else -1
        return tuple(
            action
            for action in self.by_rank[source]
            if action.is_forward == is_forward
            and 0 <= action.stage + step < self.stages
            and self.rank_of(action.stage + step) == target
        )

    def in_flight(self, rank: int) -> int:
        """The most forwards of `rank` that wait for their backward at one time: what its activations take."""
        now = most = 0
        for action in self.by_rank[rank]:
            now += 1 if action.is_forward else -1
            most = max(most, now)
        return most


def orders(schedule: str, *, ranks: int, stages_per_rank: int, microbatches: int) -> Orders:
    """The orders of a named schedule. ConfigError for an unknown name."""
    make = {"sequential": _sequential, "gpipe": _gpipe, "1f1b": _one_forward_one_backward, "interleaved": _interleaved}
    if schedule not in make:
        raise ConfigError(f"execution.pipeline_schedule is {schedule!r}; use one of {', '.join(make)}")
    by_rank = make[schedule](ranks, stages_per_rank, microbatches)
    return Orders(ranks, ranks * stages_per_rank, microbatches, tuple(tuple(order) for order in by_rank))


def makespan(found: Orders, *, forward_s: Sequence[float], backward_s: Sequence[float], send_s: float = 0.0) -> float:
    """Seconds from the first forward to the last backward, where stage s takes forward_s[s] and backward_s[s] for a
    microbatch and a message `send_s`. With equal stages and no messages, gpipe and 1f1b take (M + P - 1)·(f + b)."""
    ends: dict[Action, float] = {}
    free_s, places = [0.0] * found.ranks, [0] * found.ranks
    while any(place < len(order) for place, order in zip(places, found.by_rank)):
        before = len(ends)
        for rank, order in enumerate(found.by_rank):
            while places[rank] < len(order):
                action = order[places[rank]]
                needed = needs(action, stages=found.stages)
                if any(other not in ends for other in needed):
                    break
                arrivals = [ends[o] + (send_s if found.rank_of(o.stage) != rank else 0.0) for o in needed]
                cost_s = (forward_s if action.is_forward else backward_s)[action.stage]
                ends[action] = free_s[rank] = max([free_s[rank], *arrivals]) + cost_s
                places[rank] += 1
        if len(ends) == before:
            raise ValueError("the schedule waits for itself: no rank's next action can begin")
    return max(ends.values(), default=0.0)


def needs(action: Action, *, stages: int) -> list[Action]:
    """What must be done before it."""
    forward, stage, microbatch = action
    if forward:
        return [Action(True, stage - 1, microbatch)] if stage else []
    own = [Action(True, stage, microbatch)]
    return own + ([Action(False, stage + 1, microbatch)] if stage + 1 < stages else [])


def _sequential(ranks: int, each: int, microbatches: int) -> list[list[Action]]:
    """One microbatch at a time: layers lie on several devices, and nothing overlaps."""
    assert each == 1
    return [
        [Action(is_forward, rank, m) for m in range(microbatches) for is_forward in (True, False)]
        for rank in range(ranks)
    ]


def _gpipe(ranks: int, each: int, microbatches: int) -> list[list[Action]]:
    """All forwards, then all backwards: M microbatches in flight."""
    assert each == 1
    return [
        [Action(is_forward, rank, m) for is_forward in (True, False) for m in range(microbatches)]
        for rank in range(ranks)
    ]


def _one_forward_one_backward(ranks: int, each: int, microbatches: int) -> list[list[Action]]:
    """A backward as soon as there is one: at most P - rank microbatches in flight, the bubble of gpipe."""
    assert each == 1
    found = []
    for rank in range(ranks):
        ahead = min(microbatches, ranks - rank - 1)
        order = [Action(True, rank, m) for m in range(ahead)]
        for m in range(microbatches):
            if ahead + m < microbatches:
                order.append(Action(True, rank, ahead + m))
            order.append(Action(False, rank, m))
        found.append(order)
    return found


def _interleaved(ranks: int, each: int, microbatches: int) -> list[list[Action]]:
    """1f1b over V stages a rank: a bubble of 1/V, for V times the messages.

    Forwards go by groups of P microbatches through a rank's stages, backwards likewise from the last stage; which of the
    two a rank does next comes out of playing the step once with backwards of BACKWARD_COST, so M need not divide by P.
    """
    groups = [range(first, min(first + ranks, microbatches)) for first in range(0, microbatches, ranks)]
    chunks = range(each)
    forwards = [(chunk, m) for group in groups for chunk in chunks for m in group]
    backwards = [(chunk, m) for group in groups for chunk in reversed(chunks) for m in group]
    limit = [(ranks - rank - 1) * 2 + (each - 1) * ranks + 1 for rank in range(ranks)]
    stages = ranks * each
    played: list[list[Action]] = [[] for _ in range(ranks)]
    done_at: dict[Action, int] = {}
    free_at, next_f, next_b = [0] * ranks, [0] * ranks, [0] * ranks

    def ready(action: Action | None, now: int) -> bool:
        return action is not None and all(done_at.get(o, now + 1) <= now for o in needs(action, stages=stages))

    def at(order: list[tuple[int, int]], place: int, rank: int, *, is_forward: bool) -> Action | None:
        if place == len(order):
            return None
        chunk, microbatch = order[place]
        return Action(is_forward, chunk * ranks + rank, microbatch)

    now = 0
    while any(place < len(backwards) for place in next_b):
        moved = False
        for rank in range(ranks):
            if free_at[rank] > now:
                continue
            forward = at(forwards, next_f[rank], rank, is_forward=True)
            backward = at(backwards, next_b[rank], rank, is_forward=False)
            full = next_f[rank] - next_b[rank] >= limit[rank]
            if ready(backward, now) and (full or not ready(forward, now) or _follows_forward(played[rank])):
                chosen = backward
            elif ready(forward, now) and not full:
                chosen = forward
            else:
                continue
            assert chosen is not None
            played[rank].append(chosen)
            free_at[rank] = now + (1 if chosen.is_forward else BACKWARD_COST)
            done_at[chosen] = free_at[rank]
            next_f[rank] += chosen.is_forward
            next_b[rank] += not chosen.is_forward
            moved = True
        if not moved and all(free <= now for free in free_at):  # a last, smaller group needs more in flight
            limit = [value + 1 for value in limit]
            continue
        now += 1
    return played


def _follows_forward(order: list[Action]) -> bool:
    """Whether a forward was the last thing done: in the steady state forwards and backwards take turns."""
    return bool(order) and order[-1].is_forward
