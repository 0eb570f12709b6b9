"""Which of the candidates to train with, and why in words. What was measured counts before what is only foretold."""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.errors import ConfigError
from fanlight.plan import remedies
from fanlight.plan.choose import NAMES, Candidate, Question
from fanlight.train import batchsize, precision
from fanlight.train.autotune import Gain


def choose(
    found: Sequence[Candidate], *, precision_is_open: bool, about: Question | None = None
) -> tuple[Candidate, str]:
    """The fastest that fits and computes what the serial run does, and why. ConfigError where nothing fits: by how much, and
    what of the question `about` would."""
    fitting = [each for each in found if each.fits and not each.is_other]
    if not fitting:
        raise ConfigError(remedies.nothing_fits(found, about))
    exact = [each for each in fitting if each.precision == "fp32"]
    fitting = [each for each in fitting if each.turns_s] or fitting
    best, told = _clearest(fitting)
    exact = [each for each in fitting if each.precision == "fp32"] or exact
    if precision_is_open and best.precision != "fp32" and exact:
        whole, why = _clearest(exact)
        if best.images_per_s < precision.PAYS * whole.images_per_s:  # a shorter format costs accuracy
            best, told = whole, why
    told += f"; of its step, {best.reason}" if best.reason else ""
    return best, f"{told}; batch {best.batch} by {best.batch_reason}" if best.batch_reason else told


def compared(best: Candidate, found: Sequence[Candidate]) -> str:
    """What a choice was made among, in words."""
    others = sorted((each for each in found if each.fits and each != best), key=lambda each: -each.images_per_s)
    measured = [
        f"{each.layout} on {each.ranks} rank(s) in {each.precision} {each.images_per_s:.4g} images/s"
        + (f" at batch {each.batch}" if each.batch != best.batch else "")
        for each in others
        if each.turns_s
    ]
    told = [f"{', '.join(measured)} measured ({len(best.turns_s)} turns each)"] if measured else []
    rest = len(others) - len(measured)
    told += [f"{rest} that {'was' if rest == 1 else 'were'} only simulated"] if rest else []
    return f"compared with {' and '.join(told)}" if told else "nothing else fits"


def plainest(of: Sequence[Candidate]) -> Candidate:
    """The one that needs no reason: of fewest ranks, in fp32, of the layout that is named first."""
    order = ("serial", *NAMES)

    def key(one: Candidate) -> tuple[int, bool, int, float]:
        place = order.index(one.layout) if one.layout in order else len(order)
        return one.ranks, one.precision != "fp32", place, -one.images_per_s

    return min(of, key=key)


def _clearest(of: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The fastest, and what it is held against in words. Where they were measured, another than the plainest must be clearly
    faster, in turns: ranks take seconds to start, and what noise chose is another one tomorrow."""
    best = _fastest(of)
    others = [each for each in of if each != best and each.precision == best.precision]
    if not best.turns_s:
        told = f"{best.images_per_s:.4g} images/s {best.source}"
        if others:
            second = max(others, key=lambda each: each.images_per_s)
            told += f", {best.images_per_s / second.images_per_s:.2f}× of {second.layout} on {second.ranks} rank(s)"
            told += f" at batch {second.batch}" if second.batch != best.batch else ""
        return best, told
    base = plainest(of)
    gains = [(each, _gain(each, base)) for each in of if each != base]
    clear = [(each, gain) for each, gain in gains if gain.is_clear()]
    if clear:
        return _simplest(clear, of)
    told = f"{base.images_per_s:.4g} images/s measured"
    if gains:
        told += f"; nothing is clearly faster: {max(gains, key=lambda each: each[1].ratio)[1].words()}"
    return base, told


def _simplest(clear: Sequence[tuple[Candidate, Gain]], of: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Of those that are clearly faster than the plainest of all, the fastest, and why. As simulated ones, a larger batch must be
    worth its fewer steps; and a format's plainest, where that is one of them, is held against its others, too."""
    best, gain = max(clear, key=lambda each: each[1].ratio)
    alike = [each for each in clear if each[0].precision == best.precision]
    if best.batch_reason:
        near = [each for each in alike if batchsize.WORTH * each[1].ratio > gain.ratio]
        best, gain = min(near, key=lambda each: (each[0].batch, -each[1].ratio))
    plain, rest = plainest([each for each in of if each.precision == best.precision]), ""
    for each, its in alike:
        if each == plain != best and not (more := _gain(best, plain)).is_clear():
            best, gain, rest = plain, its, f"; nothing is clearly faster: {more.words()}"
            break
    return best, f"{best.images_per_s:.4g} images/s measured: {gain.words()}{rest}"


def _fastest(of: Sequence[Candidate]) -> Candidate:
    """Where each has a batch of its own, a larger one must be worth its fewer steps: as much faster as a doubling must be."""
    best = max(of, key=lambda each: each.images_per_s)
    if not best.batch_reason:
        return best
    near = [
        each
        for each in of
        if each.precision == best.precision and batchsize.WORTH * each.images_per_s > best.images_per_s
    ]
    return min(near, key=lambda each: (each.batch, -each.images_per_s))


def _gain(one: Candidate, base: Candidate) -> Gain:
    """Of its rate, turn by turn."""
    name, of = (
        f"{each.layout} on {each.ranks} rank(s) in {each.precision}"
        + (f" at batch {each.batch}" if one.batch != base.batch else "")
        for each in (one, base)
    )
    rates = [[each.batch / turn_s for turn_s in each.turns_s] for each in (one, base)]
    return Gain("execution.layout", name, of, tuple(mine / its for mine, its in zip(*rates, strict=True)))
