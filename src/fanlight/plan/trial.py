"""The best of a plan's candidates and the plainest one, run for real steps on this machine: their rates are then measured ones.

The pace of a machine that others use changes within seconds by more than layouts differ. So candidates take turns
(train/autotune.py), each on ranks that wait for it, and what counts is the ratio of a turn's own rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from fanlight import console, machine
from fanlight.config import Config
from fanlight.errors import FanlightError
from fanlight.plan import confirm, measure
from fanlight.plan.choice import plainest
from fanlight.plan.choose import MEMORY_SHARE, Candidate, Question
from fanlight.plan.pools import Pools
from fanlight.train import autotune

BEST = 3  # of those that are fastest by prediction
TURN_S, STEPS_MOST = 0.8, 8  # of a turn: quick steps by the dozen, slow ones singly
QUICK_S = 20.0  # further turns, after the fewest that tell a gain from noise
START_S, BUILD_S = (
    8.0,
    3.0,
)  # of ranks; of a model on ranks that are there: with these it is guessed what there is time for


def tried(
    found: Sequence[Candidate], about: Question, *, classes: int, most: int, pools: Pools, budget: autotune.Budget
) -> list[Candidate]:
    """`found`, with measured rates of those that were run; `most`: ranks that this machine has room for. What cannot be run does
    not fit, whatever was predicted."""
    told: dict[int, Candidate] = {}
    ready: dict[int, autotune.Step] = {}
    wanted = _affordable(worth(found, most=most), about, pools=pools, budget=budget)
    pools.keep({_ranks(each, about) for each in wanted})
    for each in wanted:
        pools.of(*_ranks(each, about))  # all of them start before any works
    for each in wanted:
        step = _step(each, about, classes=classes, pools=pools)
        try:
            step()  # the first turn builds and warms up
            ready[id(each)] = step
        except FanlightError as error:
            told[id(each)] = _refused(each, error)
    taking = [each for each in wanted if id(each) in ready]
    if taking:
        told |= _in_turns(taking, ready, budget=budget)
    return [told.get(id(each), each) for each in found]


def worth(found: Sequence[Candidate], *, most: int) -> list[Candidate]:
    """Which to run, the plainest first: what wins is held against it. Serial in every format, and the best of fp32, as a shorter
    format must pay against what was measured, too."""
    able = [each for each in found if each.fits and not each.is_other and each.ranks <= most]
    ranked = sorted(able, key=lambda each: -each.images_per_s)
    if not ranked:
        return []
    exact = [each for each in ranked if each.precision == "fp32"]
    chosen = [plainest(exact or ranked), *ranked[:BEST], *(each for each in ranked if each.ranks == 1), *exact[:1]]
    return [each for index, each in enumerate(chosen) if each not in chosen[:index]]


def config_of(one: Candidate, about: Question) -> Config:
    """The config that trains so on this machine."""
    return about.config.with_values({
        "execution.layout": one.layout, "execution.ranks": one.ranks, "execution.threads": _ranks(one, about)[1],
        "train.precision": one.precision, "train.batch_size": one.batch, "train.microbatches": one.microbatches,
    })  # fmt: skip


def _ranks(one: Candidate, about: Question) -> tuple[int, int]:
    """How many, and threads of each."""
    return one.ranks, measure.threads_of(about.config, ranks=one.ranks, cores=machine.cores_usable())


def _affordable(
    wanted: Sequence[Candidate], about: Question, *, pools: Pools, budget: autotune.Budget
) -> list[Candidate]:
    """Those that there is time, and room at the same time, for: the first of them in any case."""
    chosen: list[Candidate] = []
    late, large = [], []
    took_s, held, there = 0.0, 0.0, set()
    for each in wanted:
        ranks = _ranks(each, about)
        start_s = BUILD_S + (0.0 if ranks in there or pools.has(*ranks) else START_S)
        turns_s = autotune.TURNS_LEAST * max(TURN_S, each.batch / each.images_per_s)
        cost_s = start_s + (confirm.WARMUP + 1) * each.batch / each.images_per_s + turns_s
        is_gpu = about.cluster.device.kind == "cuda"
        holds = each.bytes * (1 if is_gpu else each.ranks)  # of one GPU; of all of a machine's memory
        if chosen and took_s + cost_s > budget.left_s:
            late.append(each)
        elif chosen and held + holds > MEMORY_SHARE * about.cluster.device.memory_bytes:
            large.append(each)
        else:
            chosen.append(each)
            there.add(ranks)
            took_s, held = took_s + cost_s, held + holds
    for what, left_out in (("time", late), ("memory, beside the others,", large)):
        if left_out:
            names = ", ".join(f"{each.layout} on {each.ranks} in {each.precision}" for each in left_out)
            console.say(f"  not run, there is no {what} for it: {names}")
    return chosen


def _step(one: Candidate, about: Question, *, classes: int, pools: Pools) -> Callable[[], float]:
    """A turn of it: seconds of a step."""
    config = config_of(one, about)
    steps = min(STEPS_MOST, max(1, round(TURN_S * one.images_per_s / one.batch)))
    return lambda: confirm.turn(pools.of(*_ranks(one, about)), config, classes=classes, steps=steps).step_s


def _in_turns(
    taking: Sequence[Candidate], steps: dict[int, autotune.Step], *, budget: autotune.Budget
) -> dict[int, Candidate]:
    """By identity, what was measured. One that fails is left out, and the others begin anew."""
    failed: list[tuple[Candidate, FanlightError]] = []

    def watched(each: Candidate) -> autotune.Step:
        def step() -> float:
            try:
                return steps[id(each)]()
            except FanlightError as error:
                failed.append((each, error))
                raise

        return step

    told: dict[int, Candidate] = {}
    left = list(taking)
    while left:
        try:
            base, *others = map(watched, left)
            times = autotune.in_turns(base, others, budget=budget, quick_s=QUICK_S)
        except FanlightError:
            lost, error = failed[-1]
            told[id(lost)] = _refused(lost, error)
            left.remove(lost)
            continue
        return told | {id(each): _measured(each, own) for each, own in zip(left, times)}
    return told


def _measured(one: Candidate, turns_s: tuple[float, ...]) -> Candidate:
    rates = sorted(one.batch / each for each in turns_s)
    rate = median(rates)
    n = f"n = {len(rates)} turns"
    console.say(
        f"  {one.layout} on {one.ranks} rank(s), {one.precision}: {rate:.4g} images/s measured ({n}), {one.images_per_s:.4g} "
        "predicted"
    )
    reason = f"simulated: {one.reason}" if one.reason else ""  # what of its step is not computing
    return replace(
        one, images_per_s=rate, band=(rates[0], rates[-1]), source="measured", turns_s=turns_s, reason=reason
    )


def _refused(one: Candidate, error: FanlightError) -> Candidate:
    console.say(f"  {one.layout} on {one.ranks} could not be run: {error}")
    return replace(one, fits=False, reason=str(error))
