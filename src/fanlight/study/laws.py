"""Laws of scaling, fitted to rates. P numbers of ranks, N rounds, K parameters; S(p) is rate on p ranks over rate on 1.

linear     S = p
amdahl     S = p / (1 + σ(p − 1))                 strong; Amdahl 1967, AFIPS 30: σ is the serial fraction
gustafson  S = p − α(p − 1)                       weak; Gustafson 1988, CACM 31(5): α is the serial share of the time
usl        S = p / (1 + σ(p − 1) + κ p(p − 1))    Gunther 1993 and 2008 (arXiv:0808.1431): contention σ, coherency κ

Each is log S = log p ± log(1 + X θ) with rows of X known. Least squares on log rates, one free level per round: drift, and
the noise of the rate on 1 rank, which all speedups share, are taken out. Intervals: profile.py; which law: comparison.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from fanlight.study.profile import Curve
from fanlight.study.scaling import Scaling, check_scaling
from fanlight.study.stats import Untold, positive

FLOOR = 1e-20  # variance of a log rate below which it is rounding


@dataclass(frozen=True)
class Law:
    """One row of the table above."""

    name: str
    parameters: tuple[str, ...]
    highest: tuple[float, ...]  # of each parameter; the lowest is 0
    scalings: tuple[Scaling, ...]
    sign: int  # of log(1 + X θ)
    columns: Callable[[np.ndarray], tuple[np.ndarray, ...]]  # ranks [P] -> columns of X


LAWS = {
    law.name: law
    for law in (
        Law("linear", (), (), ("strong", "weak"), -1, lambda p: ()),
        Law("amdahl", ("sigma",), (1.0,), ("strong",), -1, lambda p: (p - 1,)),
        Law("gustafson", ("alpha",), (1.0,), ("weak",), 1, lambda p: ((1 - p) / p,)),
        Law("usl", ("sigma", "kappa"), (1.0, np.inf), ("strong", "weak"), -1, lambda p: (p - 1, p * (p - 1))),
    )
}


@dataclass(frozen=True)
class Parameter:
    """The best value within the bounds, and the 95 % profile interval cut to them."""

    name: str
    value: float
    interval: tuple[float, float]
    note: str = ""  # why an interval is a bound alone


@dataclass(frozen=True)
class LawFit:
    """A law on the points it was fitted to."""

    law: str
    scaling: Scaling
    parameters: tuple[Parameter, ...]
    ranks: tuple[int, ...]
    rounds: int
    noise: float  # standard deviation of one rate in its round, relative
    off: float  # the largest relative distance of a point from the law
    off_ranks: int  # where that is
    misfit_p: float | None  # chance of such distances by noise alone; None where the law passes through any points
    aicc: float | None  # Hurvich and Tsai 1989; None with too few rates

    def speedup(self, ranks: float) -> float:
        """S(ranks) of the fitted law, without an interval."""
        if not 1 <= ranks < np.inf:
            raise ValueError(f"ranks must be 1 or more, got {ranks:g}")
        law, p = LAWS[self.law], np.array([ranks], np.float64)
        terms = sum(column[0] * each.value for column, each in zip(law.columns(p), self.parameters))
        return float(ranks * (1 + terms) ** law.sign)

    def peak_ranks(self) -> float | Untold:
        """Ranks of the highest speedup, √((1 − σ)/κ) (Gunther 2008), where κ's interval leaves 0 out."""
        of = {each.name: each for each in self.parameters}
        if "kappa" not in of or of["kappa"].interval[0] <= 0:
            return Untold("a peak is told by usl with κ above 0 by its whole interval; measure more ranks or rounds")
        return float(np.sqrt((1 - of["sigma"].value) / of["kappa"].value))


def fit(
    law: str, ranks: Sequence[int], rates_PN: Sequence[Sequence[float]] | np.ndarray, *, scaling: Scaling
) -> LawFit | Untold:
    """`law` fitted to rates [P, N], images per second, of `ranks` [P] (cores or devices over the baseline's).

    Untold, with the reason, where the law is not of this scaling, where 1 is not among the ranks, and where too few
    numbers of ranks or rounds were measured. ValueError for an unknown law or scaling, ranks that repeat or are not whole numbers
    from 1, rates that are not above 0, and shapes that do not match.
    """
    if law not in LAWS:
        raise ValueError(f"no law {law!r}; there are {', '.join(LAWS)}")
    check_scaling(scaling)
    row, p, rates = LAWS[law], np.asarray(ranks, np.float64), positive(rates_PN, name="rates", dimensions=2)
    if p.shape != rates.shape[:1]:
        raise ValueError(f"rates need one row per number of ranks, got {rates.shape[0]} rows and {p.size} ranks")
    if not (np.isfinite(p) & (p >= 1) & (p == np.floor(p))).all() or len(set(p)) < p.size:
        raise ValueError(f"ranks must be whole numbers from 1, each once, got {list(ranks)}")
    parameters, rounds = len(row.parameters), rates.shape[1]
    if reason := _too_little(row, p, rounds=rounds, scaling=scaling):
        return Untold(reason)
    logs = np.log(rates) - np.log(p)[:, None]
    logs -= logs.mean(0)  # one free level per round
    means_P = logs.mean(1)
    pure = float(((logs - means_P[:, None]) ** 2).sum())
    curve = Curve(means_P, np.stack([*row.columns(p), p])[:parameters].T, sign=row.sign, highest=row.highest)
    free, bounded = curve.free(), curve.bounded()
    count = rounds * (p.size - 1)
    variance = max((pure + rounds * curve.square(free)) / (count - parameters), FLOOR)
    found = []
    for at, name in enumerate(row.parameters):
        low, high, note = curve.interval(at, variance=variance / rounds, freedom=count - parameters)
        found.append(Parameter(name, float(bounded[at]), (low, high), note))
    off_P = np.expm1(curve.residuals(bounded))
    worst = int(np.abs(off_P).argmax())
    square = rounds * curve.square(bounded)
    return LawFit(
        law, scaling, tuple(found), tuple(int(each) for each in p), rounds, float(np.sqrt(variance)),
        float(abs(off_P[worst])), int(p[worst]),
        _misfit(square, pure, freedom=p.size - 1 - parameters, count=p.size, rounds=rounds),
        _aicc(pure + square, count=count, parameters=parameters + 1),
    )  # fmt: skip


def _too_little(law: Law, p: np.ndarray, *, rounds: int, scaling: Scaling) -> str:
    if scaling not in law.scalings:
        return f"{law.name} is a law of {law.scalings[0]} scaling, and these points scale {scaling}ly"
    if 1 not in p:
        return f"{law.name} needs the rate on 1 rank; measured were {', '.join(f'{each:g}' for each in sorted(p))}"
    need = max(2, len(law.parameters) + 1)
    if p.size < need:
        return f"{law.name} needs {need} numbers of ranks with 1 among them, got {p.size}"
    if rounds * (p.size - 1) <= len(law.parameters):
        return f"{rounds} round of {p.size} points leaves nothing to tell the noise by; measure 2 rounds or more"
    return ""


def _misfit(square: float, pure: float, *, freedom: int, count: int, rounds: int) -> float | None:
    """F test of the points' distances from the law against the scatter of rounds (Fisher's lack of fit)."""
    repeats = (count - 1) * (rounds - 1)
    if freedom < 1 or repeats < 1:
        return None
    return float(fdtrc(freedom, repeats, (square / freedom) / max(pure / repeats, FLOOR)))


def _aicc(square: float, *, count: int, parameters: int) -> float | None:
    """Akaike's criterion with Hurvich and Tsai's correction, of `count` independent normal residuals."""
    left = count - parameters - 1
    if left < 1:
        return None
    spread = max(square / count, FLOOR)
    return float(count * np.log(spread) + 2 * parameters + 2 * parameters * (parameters + 1) / left)
