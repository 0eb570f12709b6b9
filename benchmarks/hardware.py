"""The line that every result carries: hardware, versions, date, command. And the statistics that all benchmarks quote."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import date

import numpy as np

from fanlight import machine


def heading(title: str) -> str:
    """A Markdown heading with what a number needs beside it."""
    import torch

    facts = machine.describe()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return (
        f"# {title}\n\n"
        f"{facts['cpu']}, {facts['cores_usable']} usable cores, {device}; torch {torch.__version__}, "
        f"Python {facts['python']}; {date.today().isoformat()}\n\n"
        f"`python {shlex.join(sys.argv)}`\n"
    )


def median_interval(values: Sequence[float], *, draws: int = 2000) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval (Efron 1979, percentiles), from a fixed seed."""
    data = np.asarray(values, np.float64)
    picks = np.random.default_rng(0).integers(0, len(data), (draws, len(data)))
    medians = np.median(data[picks], axis=1)
    return float(np.median(data)), float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def ratio_interval(
    values: Sequence[float], others: Sequence[float], *, draws: int = 2000
) -> tuple[float, float, float]:
    """Ratio of two medians, values over others, and its 95 % bootstrap interval.

    The two series are of the same rounds, one entry each, and rounds are drawn whole: what slowed both cancels."""
    a, b = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a ratio needs two series of the same rounds, got {len(a)} and {len(b)} values")
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    ratios = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    return float(np.median(a) / np.median(b)), float(np.quantile(ratios, 0.025)), float(np.quantile(ratios, 0.975))
