"""How far a classifier's probabilities can be believed, and the one number that mends them: the temperature. No torch.

A temperature T divides the logits before the softmax (Guo et al. 2017); it changes no label. Everything is a function of
`predictions.parquet`. N samples, K classes; `confidence` is the probability of the class that was named.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fanlight.data import order
from fanlight.errors import ConfigError
from fanlight.tasks.classify_scores import class_ids, classes_of, share_text, wilson

BINS = 15  # of the calibration error, as Guo et al. 2017 have
COLDEST, HOTTEST = 0.05, 20.0  # temperatures looked at
STEPS_MOST = 60  # of the search; Newton needs about six
STEP_TOLERANCE = 1e-12  # of the temperature's logarithm
CHUNK = 8192  # rows whose softmax is in memory at once


@dataclass(frozen=True)
class Outputs:
    """The logits of one split, and what is true of them."""

    logits_NK: np.ndarray  # float32
    label_N: np.ndarray  # int64
    sample_N: np.ndarray  # int64, manifest rows: they decide the halves of a cross-fit

    @property
    def correct_N(self) -> np.ndarray:
        return self.logits_NK.argmax(1) == self.label_N


def outputs(table: pa.Table, *, split: str) -> Outputs | None:
    """Those of a predictions table; None where it keeps no logits, or none of this split that are finite."""
    if "logits" not in table.column_names:
        return None
    classes = classes_of(table)
    rows = table.filter(pc.equal(table["split"].cast(pa.string()), split)).combine_chunks()
    logits_NK = rows["logits"].combine_chunks().flatten().to_numpy().reshape(len(rows), len(classes))
    if not len(rows) or not np.isfinite(logits_NK).all():
        return None
    return Outputs(logits_NK, class_ids(rows["label"], classes, "label"), rows["sample"].to_numpy().astype(np.int64))


def probabilities(logits_NK: np.ndarray, temperature: float | np.ndarray = 1.0) -> np.ndarray:
    """float64 [N, K], softmax(logits / T); T is one number, or one per row."""
    scaled_NK = logits_NK.astype(np.float64) / np.reshape(temperature, (-1, 1))
    weight_NK = np.exp(scaled_NK - scaled_NK.max(1, keepdims=True))
    return weight_NK / weight_NK.sum(1, keepdims=True)


def confidence(logits_NK: np.ndarray, temperature: float | np.ndarray = 1.0) -> np.ndarray:
    """float64 [N], the probability of the class with the highest logit."""
    return probabilities(logits_NK, temperature).max(1)


def loss(found: Outputs, temperature: float | np.ndarray = 1.0) -> float:
    """Mean negative log-likelihood of the labels at a temperature."""
    scaled_NK = found.logits_NK.astype(np.float64) / np.reshape(temperature, (-1, 1))
    scaled_NK -= scaled_NK.max(1, keepdims=True)
    log_sum_N = np.log(np.exp(scaled_NK).sum(1))
    return float(np.mean(log_sum_N - scaled_NK[np.arange(len(scaled_NK)), found.label_N]))


def fit(found: Outputs | None) -> tuple[float, str]:
    """The temperature that minimises the loss, and what speaks for it; 1 where there is none to be had.

    It is kept only where it pays on images that it was not fitted on: two halves, each with the other's temperature.
    """
    if found is None:
        return 1.0, "no finite logits of validation images to fit a temperature on"
    if found.correct_N.all():
        return 1.0, "every validation image is right: nothing says how sure is too sure"
    crossed, before = loss(found, cross_fitted(found)), loss(found)
    words = f"the loss of validation images, cross-fitted in two halves, goes from {before:.4f} to {crossed:.4f}"
    if crossed >= before:
        return 1.0, f"a temperature does not pay: {words}"
    return minimum(found), f"{words}, n = {len(found.label_N)}"


def cross_fitted(found: Outputs) -> np.ndarray:
    """float64 [N], for each row the temperature of the half that it is not in. The halves are a hash of the samples."""
    place_N = np.argsort(np.argsort(order.bits(found.sample_N, seed=0, epoch=0, draws=1)[:, 0], kind="stable"))
    first_N = place_N < len(place_N) // 2
    temperature_N = np.ones(len(place_N))
    for half_N in (first_N, ~first_N):
        if half_N.any():
            part = Outputs(found.logits_NK[half_N], found.label_N[half_N], found.sample_N[half_N])
            temperature_N[~half_N] = minimum(part)
    return temperature_N


def minimum(found: Outputs) -> float:
    """The temperature of the lowest loss within COLDEST … HOTTEST; 1 where the loss falls all the way to COLDEST.

    In β = 1 / T the loss is convex, with slope mean(E[z] − z_label) and curvature mean(Var[z]) under softmax(β z):
    Newton on β between bounds that close in, halving log β where a step would leave them.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(found, high)[0] <= 0:
        return 1.0
    if _slope(found, low)[0] >= 0:
        return HOTTEST
    beta = 1.0
    for _ in range(STEPS_MOST):
        slope, curvature = _slope(found, beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        after = beta - slope / curvature if curvature > 0 else 0.0
        after = after if low < after < high else math.sqrt(low * high)
        if abs(math.log(after / beta)) < STEP_TOLERANCE:
            break
        beta = after
    return 1 / beta


def _slope(found: Outputs, beta: float) -> tuple[float, float]:
    """First and second derivative of the mean loss by β."""
    slope = curvature = 0.0
    count = len(found.label_N)
    for begin in range(0, count, CHUNK):
        z_NK = found.logits_NK[begin : begin + CHUNK].astype(np.float64)
        p_NK = probabilities(z_NK, 1 / beta)
        mean_N = (p_NK * z_NK).sum(1)
        slope += float((mean_N - z_NK[np.arange(len(z_NK)), found.label_N[begin : begin + CHUNK]]).sum())
        curvature += float((p_NK * (z_NK - mean_N[:, None]) ** 2).sum())
    return slope / count, curvature / count


def bins(confidence_N: np.ndarray, correct_N: np.ndarray) -> list[dict[str, Any]]:
    """At most BINS groups of neighbouring confidence and as equal size as ties allow, lowest first: count, mean
    confidence, accuracy and its 95 % interval. Equal confidences are in one group, so the order of rows is nothing."""
    bin_N, found = _bins(confidence_N), []
    for index in np.unique(bin_N):
        here = bin_N == index
        count, right = int(here.sum()), int(correct_N[here].sum())
        mean = float(np.sort(confidence_N[here]).mean())
        row = {"count": count, "confidence": mean, "accuracy": right / count, "interval": wilson(right, count)}
        found.append(row)
    return found


def error(confidence_N: np.ndarray, correct_N: np.ndarray) -> float | None:
    """Expected calibration error: the mean over images of |accuracy − confidence| of their bin (Guo et al. 2017), with
    bins of equal size (Nixon et al. 2019), which are all equally well measured and are less biased (Roelofs et al. 2022).
    """
    if not len(confidence_N):
        return None
    gaps = (row["count"] * abs(row["accuracy"] - row["confidence"]) for row in bins(confidence_N, correct_N))
    return sum(gaps) / len(confidence_N)


def chance_error(confidence_N: np.ndarray) -> float | None:
    """The calibration error that as many images would show by chance, were these confidences exactly right.

    A bin of n images is off by the sum of n Bernoulli variables less its mean: E|X| ≈ √(2/π · Σ p (1 − p)).
    """
    if not len(confidence_N):
        return None
    variance = np.bincount(_bins(confidence_N), weights=confidence_N * (1 - confidence_N))
    return float(np.sqrt(2 / math.pi * variance).sum() / len(confidence_N))


def _bins(confidence_N: np.ndarray) -> np.ndarray:
    """int64 [N], the bin of each, cut at the quantiles."""
    if not len(confidence_N):
        return np.empty(0, np.int64)
    inner = np.quantile(confidence_N, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return np.searchsorted(np.unique(inner), confidence_N, side="left")


def measure(found: Outputs | None, *, temperature: float, crossed: bool) -> dict[str, Any] | None:
    """What is said of one split: calibration error as the network gives it and with the temperature. `crossed`: these
    are the images that it was fitted on, so each half is scored with the other half's. None without logits."""
    if found is None:
        return None
    used = cross_fitted(found) if crossed and temperature != 1.0 else temperature
    before_N, after_N = confidence(found.logits_NK), confidence(found.logits_NK, used)
    return {
        "temperature": temperature,
        "count": len(before_N),
        "cross_fitted": crossed,
        "ece": error(before_N, found.correct_N),
        "ece_calibrated": error(after_N, found.correct_N),
        "ece_by_chance": chance_error(after_N),
    }


def of_run(tables: Mapping[str, pa.Table], *, temperature: float, reason: str) -> dict[str, Any]:
    """`calibration` of run.json: the temperature, why it is that, and `measure` of every split; val is cross-fitted."""
    splits = {
        split: measure(outputs(table, split=split), temperature=temperature, crossed=split == "val")
        for split, table in tables.items()
    }
    return {"temperature": temperature, "reason": reason, "splits": splits}


def selective(found: Outputs, *, temperature: float, below: float) -> dict[str, Any]:
    """What is left when every image whose calibrated confidence lies below `below` is called unknown."""
    covered_N = confidence(found.logits_NK, temperature) >= below
    count, right = int(covered_N.sum()), int(found.correct_N[covered_N].sum())
    return {
        "below": below,
        "covered": count,
        "coverage": count / len(covered_N),
        "correct": right,
        "accuracy": right / count if count else None,
        "interval": wilson(right, count),
    }


def check_threshold(below: float | None) -> None:
    """ConfigError for a probability that no answer, or every answer, lies below."""
    if below is not None and not 0 < below < 1:
        raise ConfigError(f"--unknown-below {below} should be a probability above 0 and below 1, such as 0.8")


def selective_words(found: dict[str, Any]) -> str:
    covered = f"{found['covered']} images ({share_text(found['coverage'])}) have a calibrated probability of"
    if not found["covered"]:
        return f"{covered} {found['below']:g} or more"
    low, high = found["interval"]
    return (
        f"{covered} {found['below']:g} or more; of those {found['correct']} are right, accuracy {found['accuracy']:.4f} "
        f"(95 % interval {low:.3f} … {high:.3f}); the others would be called unknown"
    )


def words(measured: dict[str, Any], *, split: str) -> str:
    """One sentence about `measure`."""
    n = f"n = {measured['count']}"
    chance = f"exact probabilities would show about {share_text(measured['ece_by_chance'])} by chance"
    if measured["temperature"] == 1.0:
        return f"calibration error of {split} {share_text(measured['ece'])} ({n}; {chance}), no temperature"
    how = "cross-fitted in two halves, " if measured["cross_fitted"] else ""
    return (
        f"calibration error of {split} {share_text(measured['ece'])}, {share_text(measured['ece_calibrated'])} with "
        f"temperature {measured['temperature']:.2f} ({how}{n}; {chance})"
    )
