"""Speedup over resources, efficiency, serial fractions; and the gain of a device, which is not parallel speedup.

A point is one layout on a number of cores or devices; baselines are points too: one core, all cores in one process, one
device. Rates are images per second, one per round, all points in the same rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from fanlight.study.stats import Estimate, Untold, positive, ratio

Scaling = Literal["strong", "weak"]  # the whole batch stays as it is; the batch per rank stays as it is


@dataclass(frozen=True)
class Point:
    """One point of the grid, as it was measured."""

    name: str
    device: str  # kind: cpu, cuda
    units: int  # cores, or devices, that it computes on
    precision: str
    rates: tuple[float, ...]  # images per second, one per round

    def __post_init__(self) -> None:
        if self.units < 1 or self.units != int(self.units):
            raise ValueError(f"{self.name}: units must be a whole number of cores or devices from 1, got {self.units}")
        positive(self.rates, name=f"{self.name}: rates")


@dataclass(frozen=True)
class Speedup:
    """What more resources of one kind bought. Efficiency is speedup per core or device: 1 is all that there was to get."""

    point: str
    baseline: str
    resources: float  # units of the point over the baseline's
    speedup: Estimate
    efficiency: Estimate
    serial_fraction: Estimate | Untold  # Karp–Flatt for strong scaling, Gustafson's for weak


def speedup(point: Point, baseline: Point, *, scaling: Scaling = "strong") -> Speedup:
    """Rate of `point` over that of `baseline`, by rounds, and what follows from it.

    ValueError where the device or the precision differs, since that is another gain than that of parallel work, where
    the rounds differ, and for an unknown scaling.
    """
    if point.device != baseline.device:
        raise ValueError(
            f"{point.name} runs on {point.device}, {baseline.name} on {baseline.device}: "
            "that is a gain of the device, not parallel speedup; use device_gain"
        )
    if point.precision != baseline.precision:
        raise ValueError(
            f"{point.name} computes in {point.precision}, {baseline.name} in {baseline.precision}: "
            "take a baseline of the same precision"
        )
    check_scaling(scaling)
    resources = point.units / baseline.units
    found = ratio(point.rates, baseline.rates)
    interval = found.interval and (found.interval[0] / resources, found.interval[1] / resources)
    per_unit = Estimate(found.value / resources, interval, found.n)
    fraction: Estimate | Untold
    if resources > 1:
        fraction = (karp_flatt if scaling == "strong" else scaled_serial_fraction)(found, ranks=resources)
    else:
        fraction = Untold(f"a serial fraction needs more {_units(point)} than the baseline's {baseline.units}")
    return Speedup(point.name, baseline.name, resources, found, per_unit, fraction)


def device_gain(point: Point, *, cpu: Point) -> Estimate:
    """Rate on a device over the rate on a CPU, by rounds. Never called speedup: the resources are not of one kind.

    ValueError where the device is the same, or `cpu` is none.
    """
    if cpu.device != "cpu" or point.device == "cpu":
        raise ValueError(f"the gain of a device is over a CPU, got {point.device} over {cpu.device}; use speedup")
    return ratio(point.rates, cpu.rates)


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


def _units(point: Point) -> str:
    return "cores" if point.device == "cpu" else "devices"
