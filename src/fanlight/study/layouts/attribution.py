"""Where a step's time goes, by differences between blocks of real steps (probe.py). Arithmetic only; no torch.

Of one repetition, in seconds per step: F full, M batch in memory, N_r rank r with nothing sent while all compute, A_r the
same alone, o_r and q_r its optimizer and what is neither, c_r a step's forward and backward on fewer rows.

    input          F − M
    communication  M − the slowest rank's N          (pipeline: M − the schedule's span with the stages' own times)
    straggler      the slowest rank's N − the usual rank's; of a pipeline or divided layers − what an even cut would take
    bubble         what an even pipeline's span is longer than one rank's work; 0 elsewhere
    contention     N − A
    optimizer, rest  o, q
    launch         what of A is left at no rows: (b·c − s·A') / (b − s) for b and s rows, A' without optimizer and rest
    compute        A' − launch

They sum to F. Shares are of W, the training run's own steady step, so 1 − their sum is how far the run and the probe
disagree: `unexplained`. A difference may come out below 0, launch and compute among them: that is noise (of launch also a line
that is none), and is left as it is, since a cause that noise could only add to would be too large in every median.

A machine that others use as well is now faster, now slower, by more than most causes take. Two things keep that out:
what computing takes in the probe is divided by its `drift`, how much longer the same forward took in its full steps than in
the run's (of a single rank forward and backward, which holds no exchange there). Of input, that is what preparing images takes
from computing: waiting for them is left as it is. And of several repetitions and rounds a cause has its median, of which
compute is what makes their sum the median of the sums.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fanlight.parallel import schedule

CAUSES = (
    "input", "compute", "contention", "communication", "straggler", "bubble", "optimizer", "launch", "rest",
)  # fmt: skip
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pipe:
    """The pipeline of a layout."""

    schedule: str
    ranks: int  # of one pipe
    stages_per_rank: int
    microbatches: int
    place: tuple[int, ...]  # of each rank of the world, on its pipe


def seconds(rows: Sequence[Row], *, pipe: Pipe | None, is_divided: bool = False) -> dict[str, float]:
    """What a step of one repetition was made of, by CAUSES. `rows`: every rank's blocks; `is_divided`: ranks share layers, so
    that unequal ranks are an uneven cut of equal work and not a slow machine."""
    kinds = _by_kind(rows)
    full, memory = (statistics.fmean(row["step_s"] for row in kinds[kind].values()) for kind in ("full", "memory"))
    alone = kinds.get("alone") or kinds["memory"]  # a single rank is alone
    together = kinds.get("together") or alone
    together = {rank: together[rank] for rank in alone}  # of many ranks only some are measured alone
    tail = {rank: row["optimizer_s"] + row["rest_s"] for rank, row in alone.items()}
    launch = {rank: _launch(alone[rank], kinds["few"][rank]) for rank in alone}
    found = dict.fromkeys(CAUSES, 0.0) | {"input": full - memory}
    if pipe is None:
        usual = statistics.fmean if is_divided else statistics.median_low
        slowest = max(row["step_s"] for row in (kinds.get("together") or alone).values())
        own, apart = (usual([row["step_s"] for row in group.values()]) for group in (alone, together))
        found |= {"communication": memory - slowest, "straggler": slowest - apart, "contention": apart - own}
        work = own - usual(list(tail.values()))
        found |= _inside(alone, tail, launch, work=work, mean=usual)
        return found
    costs = _schedule(alone, together, tail, pipe)
    own = statistics.fmean(row["step_s"] for row in alone.values())
    longest, mean = max(tail.values()), statistics.fmean(tail.values())
    found |= {
        "communication": memory - costs.span - longest, "straggler": costs.span - costs.even + longest - mean,
        "bubble": costs.even - costs.busy, "contention": costs.busy - (own - mean),
    }  # fmt: skip
    return found | _inside(alone, tail, launch, work=own - mean, mean=statistics.fmean)


def shares(parts: Mapping[str, float], *, wall_s: float) -> tuple[dict[str, float], float]:
    """Of the wall time of a step, and what of it they leave unexplained."""
    found = {cause: parts[cause] / wall_s for cause in CAUSES}
    return found, 1.0 - sum(found.values())


def drift(full: Sequence[Row], run_s: float, *, parts: Sequence[str] = ("forward_s",)) -> float:
    """By how much the machine was slower (above 1) in the probe than in the run: what `parts` of a step, which compute and
    nothing else, took in the `full` blocks, over `run_s`, the mean over the ranks of what they usually took in the run. 1 where
    their time was not measured."""
    probe_s = statistics.fmean(sum(row[part] for part in parts) for row in full)
    return probe_s / run_s if min(probe_s, run_s) > 0 else 1.0


def waited(rows: Sequence[Row]) -> float:
    """Seconds of a step in which ranks waited for a batch, by their own timers, of one repetition."""
    kinds = _by_kind(rows)
    full, memory = (statistics.fmean(row["input_s"] for row in kinds[kind].values()) for kind in ("full", "memory"))
    return full - memory


def undrifted(parts: Mapping[str, float], drift: float, *, waited_s: float) -> dict[str, float]:
    """Seconds as they would have been at the run's pace. A link and a disk do not get slower where the processor does: of
    input, what exceeds the wait is what preparing takes from computing."""
    least, most = sorted((0.0, parts["input"]))
    wait_s = min(max(waited_s, least), most)
    paced = {cause: value / drift for cause, value in parts.items()}
    return paced | {"communication": parts["communication"], "input": wait_s + (parts["input"] - wait_s) / drift}


def middle(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several repetitions or rounds: the median of each cause, and compute so that they sum to the median of the sums."""
    medians = {cause: statistics.median(each[cause] for each in found) for cause in CAUSES}
    others = sum(value for cause, value in medians.items() if cause != "compute")
    return medians | {"compute": statistics.median(sum(each.values()) for each in found) - others}


def lasting(parts: Mapping[str, float], together: Sequence[Sequence[float]]) -> dict[str, float]:
    """Causes with the straggler of all rounds. `together`: of each round, every rank's step with nothing sent, in the unit of
    `parts`. In one round some rank is always the slowest; who is slower in most is a straggler, and waiting for who is late now
    and then is communication, as in `seconds`. Without `together` (pipelines, divided layers) nothing changes."""
    if not together:
        return dict(parts)
    ranks = [statistics.median(steps) for steps in zip(*together, strict=True)]
    waiting = parts["communication"] + parts["straggler"]
    # With messages a step takes at least as long as the slowest rank's without: who is slower by more was so in one block.
    straggler = min(max(ranks) - statistics.median_low(ranks), max(0.0, waiting))
    return dict(parts) | {"straggler": straggler, "communication": waiting - straggler}


def _by_kind(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    kinds: dict[str, dict[int, Row]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], {})[row["rank"]] = row
    return kinds


def _launch(alone: Row, few: Row) -> float:
    """Seconds of forward and backward that do not shrink with the rows: two points, and the line through them at no rows. Below
    0 where rows of the larger batch take longer each, by noise or as they fit no cache; compute is then more than the whole."""
    many_s, few_s = (row["step_s"] - row["optimizer_s"] - row["rest_s"] for row in (alone, few))
    return (alone["rows"] * few_s - few["rows"] * many_s) / (alone["rows"] - few["rows"])


def _inside(
    alone: Mapping[int, Row], tail: Mapping[int, float], launch: Mapping[int, float], *, work: float,
    mean: Callable[[list[float]], float],
) -> dict[str, float]:  # fmt: skip
    """What a rank alone does: `work` seconds of forward and backward, and after them the optimizer and the loop."""
    anyway, after = mean(list(launch.values())), mean(list(tail.values()))
    optimizer = mean([row["optimizer_s"] for row in alone.values()])
    return {"compute": work - anyway, "launch": anyway, "optimizer": optimizer, "rest": after - optimizer}


@dataclass(frozen=True)
class _Costs:
    """Seconds of a pipeline's step: as it is cut, cut evenly, and a rank's own work in it."""

    span: float
    even: float
    busy: float


def _schedule(
    alone: Mapping[int, Row], together: Mapping[int, Row], tail: Mapping[int, float], pipe: Pipe
) -> _Costs:  # fmt: skip
    """Ranks that wait for each other compute side by side only part of the time, and only then share what they share: of the
    difference between together and alone they pay that part."""
    orders = schedule.orders(
        pipe.schedule, ranks=pipe.ranks, stages_per_rank=pipe.stages_per_rank, microbatches=pipe.microbatches
    )

    def span(busy: Mapping[int, float]) -> float:
        each = pipe.stages_per_rank * pipe.microbatches
        forward, backward = [], []
        for stage in range(orders.stages):
            place = orders.rank_of(stage)
            forward.append(busy[place] * ahead[place] / each)
            backward.append(busy[place] * (1 - ahead[place]) / each)
        return schedule.makespan(orders, forward_s=forward, backward_s=backward)

    def by_place(values: Mapping[int, float]) -> dict[int, float]:
        return {
            place: statistics.fmean(value for rank, value in values.items() if pipe.place[rank] == place)
            for place in range(pipe.ranks)
        }

    ahead = by_place({rank: _forward_share(row) for rank, row in alone.items()})
    own = by_place({rank: row["step_s"] - tail[rank] for rank, row in alone.items()})
    beside = by_place({rank: row["step_s"] - row["optimizer_s"] - row["rest_s"] for rank, row in together.items()})
    work = sum(own.values())
    part = (1 - span(own) / work) * pipe.ranks / (pipe.ranks - 1)  # 0 where one works at a time, 1 where all always do
    busy = {place: own[place] + part * (beside[place] - own[place]) for place in own}
    mean = statistics.fmean(busy.values())
    return _Costs(span(busy), span(dict.fromkeys(busy, mean)), mean)


def _forward_share(row: Row) -> float:
    """Of a stage's own time, what its forwards take."""
    forward, backward = row["copy_s"] + row["forward_s"], row["backward_s"]
    return forward / (forward + backward)
