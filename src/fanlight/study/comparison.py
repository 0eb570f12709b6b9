"""Which law of scaling explains the points best, said only where it can be told."""

from collections.abc import Sequence
from dataclasses import dataclass

from fanlight.console import count_text
from fanlight.study.laws import LawFit
from fanlight.study.stats import Untold

LEAD = 4.0  # AICc by which a law must lead: "considerably less support" begins there (Burnham and Anderson 2002)
MISFIT = 0.01  # below this probability of the deviations by noise alone, a law does not explain the points


@dataclass(frozen=True)
class Comparison:
    """Which law explains the points best, if that can be told."""

    best: str | None
    enough: str | None  # the simplest law that the best does not lead; None where too little was measured, or none fits
    reason: str
    aicc: dict[str, float]  # by law; lower explains better


def compare(fits: Sequence[LawFit | Untold]) -> Comparison:
    """The law with the least AICc, if it leads the next by `LEAD`, explains the points, and could have failed to.

    A law with as many parameters as there are speedups passes through any points, so with it nothing is told. A law that
    holds another (usl holds amdahl) never loses to it by more than its parameter's price: then the simpler one is named
    as enough, not as best. ValueError for fits of other points or fewer than two laws.
    """
    told = [each for each in fits if isinstance(each, LawFit)]
    if len(fits) < 2 or len({(each.ranks, each.rounds, each.scaling) for each in told}) > 1:
        raise ValueError("a comparison needs two laws or more, fitted to the same points")
    scores = {each.law: each.aicc for each in told if each.aicc is not None}
    if reason := next(filter(None, map(_unknowable, fits)), ""):
        return Comparison(None, None, reason, scores)
    order = sorted(told, key=lambda each: scores[each.law])
    best, lead = order[0], scores[order[1].law] - scores[order[0].law]
    if best.misfit_p is not None and best.misfit_p < MISFIT:
        far = f"off by {best.off:.1%} at {count_text(best.off_ranks, 'rank')}, more than the scatter of rounds explains"
        return Comparison(None, None, f"no law explains the points: the nearest, {best.law}, is {far}", scores)
    if lead >= LEAD:
        said = f"AICc {lead:.1f} below {order[1].law}'s; off by {best.off:.1%} at most"
        return Comparison(best.law, best.law, said, scores)
    level = [each for each in order if scores[each.law] - scores[best.law] < LEAD]
    simplest = min(level, key=lambda each: (len(each.parameters), scores[each.law]))
    names = " and ".join(sorted(each.law for each in level))
    apart = f"{names} explain the points alike (AICc {lead:.1f} apart, {LEAD:g} would tell)"
    return Comparison(None, simplest.law, f"{apart}; {simplest.law} is enough", scores)


def _unknowable(fit: LawFit | Untold) -> str:
    """Why this law could not be compared, or an empty string."""
    if isinstance(fit, Untold):
        return fit.reason
    points, need = len(fit.ranks), len(fit.parameters) + 2
    if points < need:
        passes = f"{fit.law} passes through any {points}"
        return f"{count_text(points, 'point')} cannot tell: {passes}; measure {need} numbers of ranks or more"
    if fit.aicc is None:
        return f"{count_text(fit.rounds, 'round')} of {count_text(points, 'point')} cannot tell: measure more rounds"
    return ""
