"""Right before fast, and how time is taken.

A result is compared with NumPy's in float64, and only what is right is timed. Then rounds: in each, every contestant in turn
waits until the threads of the one before are asleep, runs once unmeasured, so that its own arrays are near, and then so many
times that a measurement takes some milliseconds. Who begins changes from round to round. What takes long has fewer rounds, the
first ones; ratios are of whole rounds, so what slowed both cancels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fanlight.scratch import backends
from fanlight.scratch.bench.contestants import Contestant

MEASURE_S = 5e-3
REST_S = (
    0.15  # OpenBLAS's threads spin for nearly a tenth of a second after a product: what came next took twice as long
)
SLOW_S, VERY_SLOW_S = 0.4, 4.0  # a call that takes longer has 3 rounds and no unmeasured call before, or the one call
REPEATS_MOST = 1000


@contextmanager
def threads(count: int | None, *, backend: str = "numpy") -> Iterator[None]:
    """Inside, `backend` and PyTorch compute with so many threads, NumPy's BLAS too unless it is `numba`, whose kernels divide
    products themselves; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with backends.threads("numba" if backend == "numba" else "numpy", count):
            yield
    finally:
        torch.set_num_threads(before)


def arrays(results: Any) -> list[np.ndarray]:
    """Whatever a contestant gives, in float64; of a step, nothing."""
    if results is None:
        return []
    several = results if isinstance(results, tuple) else (results,)
    found = []
    for each in several:
        if isinstance(each, torch.Tensor):
            each = (each.double() if each.is_floating_point() else each).cpu().numpy()
        found.append(np.asarray(each, np.float64))
    return found


def error(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest ‖got − wanted‖ / ‖wanted‖ of the results; NaN where one is not a number, or of another shape, or
    nothing was given. PyTorch may give fewer than we do."""
    if not got:  # nothing is off, and nothing was computed
        return math.nan
    worst = 0.0
    for one, other in zip(got, wanted):
        if one.shape != other.shape or not np.isfinite(one).all():
            return math.nan
        norm = float(np.linalg.norm(other.ravel()))
        worst = max(worst, float(np.linalg.norm((one - other).ravel())) / (norm or 1.0))
    return worst


def measure(contestants: Sequence[Contestant], *, rounds: int) -> list[list[float]]:
    """Seconds of one call of each contestant, by round."""
    first = [_timed(each, repeats=1) for each in contestants]
    found: list[list[float]] = [[s] if s > VERY_SLOW_S else [] for s in first]
    calls_s = [s / each.scale for s, each in zip(first, contestants)]
    repeats = [min(REPEATS_MOST, max(1, round(MEASURE_S / max(s, 1e-7)))) for s in calls_s]
    most = [0 if s > VERY_SLOW_S else min(rounds, 3) if s > SLOW_S else rounds for s in first]
    for turn in range(rounds):
        order = [index for index in range(len(contestants)) if turn < most[index]]
        begin = turn % len(order) if order else 0
        for index in order[begin:] + order[:begin]:
            one = contestants[index]
            assert one.call is not None
            time.sleep(REST_S)
            if calls_s[index] <= SLOW_S:
                with threads(one.threads, backend=one.backend):
                    one.call()
            found[index].append(_timed(one, repeats=repeats[index]))
    return found


def _timed(one: Contestant, *, repeats: int) -> float:
    """Seconds of the whole."""
    assert one.call is not None
    with threads(one.threads, backend=one.backend):
        if one.timed is not None:
            return one.timed()
        return one.scale * seconds(one.call, repeats=repeats, device=one.device)


def seconds(call: Callable[[], Any], *, repeats: int, device: str) -> float:
    """Of one call: by the host's clock on a CPU, by the device's on a GPU."""
    if device == "cuda" and torch.cuda.is_available():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """How many times as long `values` took as `others`: the median over the rounds that both have."""
    return float(np.median([a / b for a, b in zip(values, others)]))


def spread(values: Sequence[float]) -> float | None:
    """Half of what lies between the quartiles, as a share of the median; None of one round."""
    if len(values) < 2:
        return None
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float((high - low) / 2 / middle)
