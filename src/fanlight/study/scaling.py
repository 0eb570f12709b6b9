"""The two ways of scaling, and what of the work is serial by a speedup over so many times the cores or devices."""

from collections.abc import Callable
from typing import Literal, get_args

from fanlight.study.stats import Estimate

Scaling = Literal["strong", "weak"]  # the whole batch stays as it is; the batch per rank stays as it is


def karp_flatt(speedup: Estimate, *, ranks: float) -> Estimate:
    """The experimentally determined serial fraction (1/S − 1/p) / (1 − 1/p) of speedup S on p ranks, with its interval.

    Karp and Flatt 1990, CACM 33(5). For strong scaling. Growing with p: a cost that grows with ranks; constant: serial
    work. Below 0: faster than p ranks can be by sharing work (caches). ValueError where `ranks` is not above 1.
    """
    _check_ranks(ranks)
    return _falling(speedup, lambda s: (1 / s - 1 / ranks) / (1 - 1 / ranks))


def scaled_serial_fraction(speedup: Estimate, *, ranks: float) -> Estimate:
    """The serial share (p − S) / (p − 1) of the time on p ranks, of scaled speedup S, with its interval.

    Gustafson 1988, CACM 31(5), S = p − α(p − 1), solved for α. For weak scaling. ValueError as `karp_flatt`.
    """
    _check_ranks(ranks)
    return _falling(speedup, lambda s: (ranks - s) / (ranks - 1))


def _falling(estimate: Estimate, of: Callable[[float], float]) -> Estimate:
    """A falling function of an estimate: the ends of its interval change places, its coverage stays."""
    interval = estimate.interval and (of(estimate.interval[1]), of(estimate.interval[0]))
    return Estimate(of(estimate.value), interval, estimate.n)


def check_scaling(scaling: str) -> None:
    """ValueError for a word that is no scaling."""
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling is {' or '.join(get_args(Scaling))}, got {scaling!r}")


def _check_ranks(ranks: float) -> None:
    if not 1 < ranks < float("inf"):
        raise ValueError(f"a serial fraction needs more than 1 rank, got {ranks:g}")
