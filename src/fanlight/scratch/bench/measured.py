"""From a subject to its rows: right or not, seconds by round, the share of the limit, and ratios over NumPy and PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fanlight.scratch import operators
from fanlight.scratch.bench import clock, contestants, networks, subjects
from fanlight.scratch.bench.contestants import FORMATS, Contestant, Field
from fanlight.scratch.bench.limits import Limit
from fanlight.scratch.bench.subjects import Subject

Doc = dict[str, Any]


def of_operator(subject: Subject, field: Field, found: Sequence[Limit], *, rounds: int) -> list[Doc]:
    """Of an operator."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(FORMATS[field.number_format][1])
    try:
        return _of_operator(subject, field, found, rounds=rounds)
    finally:
        torch.set_float32_matmul_precision(before)


def _of_operator(subject: Subject, field: Field, found: Sequence[Limit], *, rounds: int) -> list[Doc]:
    given = subjects.calls(subject)
    dtype = FORMATS[field.number_format][0]
    exact = _exact(given, dtype)
    answers = clock.arrays(exact())
    bytes_ = _bytes(given, answers, itemsize=torch.empty(0, dtype=dtype).element_size())
    small = clock.arrays(_exact(subjects.calls(subject.part()), dtype)()) if "loops" in field.backends else []
    most = FORMATS[field.number_format][2]
    ones = list(contestants.of(subject, given, field))
    off = [_error(one, small if one.backend == "loops" else answers) for one in ones]
    del answers, exact
    what = {
        "op": subject.op,
        "shape": subject.shape,
        "direction": subject.direction,
        "flop": subject.flop,
        "bytes": bytes_,
    }
    return _timed(ones, off, most=most, what=what, field=field, limits_=found, rounds=rounds)


def _exact(given: Sequence[subjects.Call], dtype: torch.dtype) -> Any:
    """NumPy in float64, on numbers as the format has them."""

    def wide(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype != np.float32:
            return value
        return torch.from_numpy(value).to(dtype).double().numpy()

    seen: dict[int, Any] = {}
    calls = [
        subjects.Call(
            each.operator, [seen.setdefault(id(value), wide(value)) for value in each.args],
            {key: wide(value) for key, value in each.options.items()},
        )
        for each in given
    ]  # fmt: skip
    if calls[0].operator == "conv2d_pooled":
        call, numpy = calls[0], operators.NUMPY
        return lambda: numpy.max_pool2d_index(numpy.conv2d(*call.args, relu=True, **call.options), 2)
    return contestants.run(operators.NUMPY, calls)


def _bytes(given: Sequence[subjects.Call], answers: Sequence[np.ndarray], *, itemsize: int) -> float:
    """Of arguments and results, each once: what has to move at least."""
    values = {id(v): v for call in given for v in (*call.args, *call.options.values()) if isinstance(v, np.ndarray)}
    read = sum(v.size * (itemsize if v.dtype == np.float32 else v.itemsize) for v in values.values())
    written = len(given[0].args) - 1 if given[0].operator in ("sgd", "adamw") else 0  # parameter and state, in place
    return float(read + (written * given[0].args[0].size if written else sum(each.size for each in answers)) * itemsize)


def _error(one: Contestant, wanted: Sequence[np.ndarray]) -> float | None:
    """Of a first call; None where it cannot run."""
    found = _first(one)
    return None if found is None else clock.error(found, wanted)


def _first(one: Contestant) -> list[np.ndarray] | None:
    """Results of a first call; None where it cannot run, and its reason says why."""
    if one.call is None:
        return None
    try:
        with clock.threads(one.threads, backend=one.backend):
            return clock.arrays(one.call())
    except Exception as error:  # a library's own refusal, of any kind: a row with its words, and the others go on
        one.call, one.reason = None, contestants.reason_of(error)
        return None


def of_step(subject: networks.StepSubject, field: Field, found: Sequence[Limit], *, rounds: int) -> list[Doc]:
    """Of a training step; who is right is known by the gradient."""
    with torch.enable_grad():
        ways = list(networks.steps(subject, field))
        wanted = {batch: networks.wanted(batch) for batch in {way.batch for way in ways if way.contestant.call}}
        off = []
        for way in ways:
            off.append(None if _first(way.contestant) is None else clock.error(way.gradient(), wanted[way.batch]))
        what: Doc = {"op": subject.op, "shape": subject.shape, "direction": subject.direction}
        what |= {"flop": subject.flop, "bytes": 0.0}
        ones = [way.contestant for way in ways]
        return _timed(ones, off, most=networks.GRADIENT_MOST, what=what, field=field, limits_=found, rounds=rounds)


def of_epoch(field: Field, *, rounds: int) -> list[Doc]:
    """Of a steady epoch of `digits`."""
    with torch.enable_grad():
        found = list(networks.epochs(field, rounds=rounds))
    what = {"op": "epoch", "shape": "digits", "direction": "steady", "flop": 0.0, "bytes": 0.0}
    rows = []
    for one, seconds, off in found:
        if seconds and off is not None and not off <= networks.LOSS_MOST:
            one.reason, seconds = f"its losses are {off:.0e} off NumPy's, at most {networks.LOSS_MOST:.0e} is right", []
        rows.append(_row(one, seconds, off, what=what, field=field, limits_=()))
    return _compared(rows)


def _timed(
    ones: Sequence[Contestant], off: Sequence[float | None], *, most: float, what: Doc, field: Field,
    limits_: Sequence[Limit], rounds: int,
) -> list[Doc]:  # fmt: skip
    """Rows in the order of `ones`; who is wrong is not timed."""
    right = []
    for one, error in zip(ones, off):
        if one.call is not None and error is not None:
            if error <= most:
                right.append(one)
            else:
                one.reason = f"wrong: {error:.1e} off, at most {most:.0e} is right"
    seconds = {id(one): values for one, values in zip(right, clock.measure(right, rounds=rounds))}
    rows = [
        _row(one, seconds.get(id(one), []), error, what=what, field=field, limits_=limits_)
        for one, error in zip(ones, off)
    ]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _compared(rows)


def _row(
    one: Contestant, seconds: list[float], off: float | None, *, what: Doc, field: Field, limits_: Sequence[Limit]
) -> Doc:
    middle = float(np.median(seconds)) if seconds else None
    limit = next(
        (each for each in limits_ if each.device == one.device
         and (each.threads == one.threads if one.device == "cpu" else each.number_format == field.number_format)), None,
    )  # fmt: skip
    least = limit.seconds(bytes_=what["bytes"], flop=what["flop"]) if limit else 0.0
    return {
        **what, "backend": one.name, "kind": one.backend, "threads": one.threads, "device": one.device, "layout": one.layout,
        "kernel": one.version or None, "format": field.number_format, "ms": None if middle is None else 1e3 * middle,
        "spread": clock.spread(seconds) if seconds else None, "n": len(seconds), "rounds_ms": [1e3 * s for s in seconds],
        "share_of_limit": least / middle if middle and least else None, "vs_numpy": None, "vs_torch": None,
        "max_error": None if off is None or math.isnan(off) else off,
        "is_part": one.scale != 1.0 or one.timed is not None, "reason": one.reason or None,
    }  # fmt: skip


def _compared(rows: list[Doc]) -> list[Doc]:
    """How many times as fast as NumPy, and as PyTorch's eager best on the same device."""
    numpy = next((row for row in rows if row["kind"] == "numpy" and row["ms"]), None)
    for row in rows:
        if row["ms"] is None:
            continue
        peers = [
            other for other in rows if other["kind"] == "torch" and other["ms"] and other["device"] == row["device"]
        ]
        best = min(peers, key=lambda other: other["ms"], default=None)
        for key, base in (("vs_numpy", numpy), ("vs_torch", best)):
            if base is not None:
                row[key] = clock.ratio(base["rounds_ms"], row["rounds_ms"])
    return rows
