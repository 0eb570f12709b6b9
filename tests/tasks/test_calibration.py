"""Temperature and calibration error: by inverting them, by hand, against SciPy, and what they must never change."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from fanlight.errors import ConfigError
from fanlight.tasks import calibration
from fanlight.tasks.calibration import Outputs

LOG_T_ATOL = 1e-5  # SciPy looks at the loss alone, whose minimum is flat: half its digits
SCALE_RTOL = 1e-6  # logits are stored as float32
SAMPLING = 0.05  # of T from 20,000 labels; the seed is fixed


def drawn(count: int, *, temperature: float = 1.0, k: int = 5, seed: int = 0) -> Outputs:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    draws = np.random.default_rng(seed)
    logits_NK = (draws.normal(size=(count, k)) * 2).astype(np.float32)
    below_NK = calibration.probabilities(logits_NK, temperature).cumsum(1)
    label_N = (draws.uniform(size=(count, 1)) > below_NK).sum(1).clip(0, k - 1)
    return Outputs(logits_NK, label_N, np.arange(count))


def scaled(found: Outputs, by: float) -> Outputs:
    return Outputs((found.logits_NK * np.float32(by)).astype(np.float32), found.label_N, found.sample_N)


def table_of(found: Outputs, *, split: str = "val", names: bool = True) -> pa.Table:
    k = found.logits_NK.shape[1]
    classes = [f"class {index}" for index in range(k)]
    columns = {
        "sample": found.sample_N,
        "split": [split] * len(found.label_N),
        "label": [classes[label] for label in found.label_N] if names else found.label_N,
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(found.logits_NK.reshape(-1)), k),
    }
    return pa.table(columns).replace_schema_metadata({b"classes": json.dumps(classes).encode()})


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    assert calibration.minimum(drawn(20_000, temperature=temperature)) == pytest.approx(temperature, rel=SAMPLING)


@given(st.integers(0, 200), st.integers(20, 80), st.floats(0.3, 3))
@settings(deadline=None, max_examples=30)
def test_the_minimum_is_scipys(seed, count, temperature):
    found = drawn(count, temperature=temperature, seed=seed, k=3)
    bounds = np.log([calibration.COLDEST, calibration.HOTTEST])
    theirs = optimize.minimize_scalar(
        lambda log_t: calibration.loss(found, float(np.exp(log_t))), bounds=bounds, method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    ours = calibration.minimum(found)
    if theirs.x == pytest.approx(bounds[0], abs=LOG_T_ATOL):  # every answer is right: the loss falls all the way
        assert ours == 1.0
        return
    assert calibration.loss(found, ours) <= theirs.fun + 1e-12
    assert np.log(ours) == pytest.approx(theirs.x, abs=LOG_T_ATOL) or ours == calibration.HOTTEST


@given(st.floats(0.25, 4))
@settings(deadline=None, max_examples=20)
def test_the_temperature_follows_the_scale_of_the_logits(by):
    found = drawn(500, temperature=1.3)
    assert calibration.minimum(scaled(found, by)) == pytest.approx(by * calibration.minimum(found), rel=SCALE_RTOL)


def test_many_rows_are_summed_in_parts(monkeypatch):
    found = drawn(1000)
    whole = calibration.minimum(found)
    monkeypatch.setattr(calibration, "CHUNK", 7)
    assert calibration.minimum(found) == pytest.approx(whole, rel=1e-9)


def test_a_temperature_changes_no_label_and_rows_sum_to_one():
    found = drawn(300)
    for temperature in (0.05, 0.7, 20.0, np.linspace(0.1, 5, 300)):
        p_NK = calibration.probabilities(found.logits_NK, temperature)
        assert np.array_equal(p_NK.argmax(1), found.logits_NK.argmax(1))
        np.testing.assert_allclose(p_NK.sum(1), 1, rtol=1e-12)
    assert np.isfinite(calibration.probabilities(found.logits_NK * 1e4, 0.05)).all()


def test_no_temperature_where_every_image_is_right():
    found = drawn(50)
    right = Outputs(found.logits_NK, found.logits_NK.argmax(1), found.sample_N)
    assert calibration.minimum(right) == 1.0
    assert calibration.fit(right) == (1.0, "every validation image is right: nothing says how sure is too sure")


def test_logits_that_say_nothing_are_flattened_to_the_bound():
    found = drawn(60, seed=1)
    wrong = Outputs(found.logits_NK, found.logits_NK.argmin(1), found.sample_N)
    assert calibration.minimum(wrong) == calibration.HOTTEST


def test_a_temperature_is_kept_only_where_it_pays_on_the_other_half():
    temperature, why = calibration.fit(drawn(2000, temperature=2.0))
    assert temperature == pytest.approx(2.0, rel=0.1) and "cross-fitted in two halves, goes from" in why
    exact = next(found for seed in range(50) if calibration.fit(found := drawn(40, seed=seed))[0] == 1.0)
    assert calibration.loss(exact, calibration.cross_fitted(exact)) >= calibration.loss(exact)
    assert calibration.fit(exact)[1].startswith("a temperature does not pay: the loss of validation images")
    assert calibration.minimum(exact) != 1.0


def test_without_logits_there_is_no_temperature():
    table = table_of(drawn(10))
    assert calibration.outputs(table, split="test") is None
    assert calibration.outputs(table.drop_columns("logits"), split="val") is None
    assert calibration.fit(None) == (1.0, "no finite logits of validation images to fit a temperature on")
    broken = drawn(10)
    broken.logits_NK[3, 1] = np.nan
    assert calibration.outputs(table_of(broken), split="val") is None
    assert calibration.measure(None, temperature=2.0, crossed=False) is None


@pytest.mark.parametrize("names", [True, False])
def test_outputs_come_back_from_a_table(names):
    val, test = drawn(10), drawn(7, seed=3)
    table = pa.concat_tables([table_of(val, names=names), table_of(test, split="test", names=names)])
    for split, there in (("val", val), ("test", test)):
        found = calibration.outputs(table, split=split)
        assert np.array_equal(found.logits_NK, there.logits_NK) and np.array_equal(found.label_N, there.label_N)
        assert np.array_equal(found.sample_N, there.sample_N)


def test_each_half_has_the_others_temperature():
    found = drawn(400, temperature=2.0)
    temperature_N = calibration.cross_fitted(found)
    values, counts = np.unique(temperature_N, return_counts=True)
    assert counts.tolist() == [200, 200]
    for value in values:
        other = temperature_N != value  # fitted on the rows that it is not used for
        part = Outputs(found.logits_NK[other], found.label_N[other], found.sample_N[other])
        assert calibration.minimum(part) == value
    shuffled = np.random.default_rng(0).permutation(400)
    again = Outputs(found.logits_NK[shuffled], found.label_N[shuffled], found.sample_N[shuffled])
    np.testing.assert_allclose(calibration.cross_fitted(again), temperature_N[shuffled], rtol=1e-9)


def test_the_error_by_hand():
    """30 images, two a bin: sure of .6 and right half the time, but the last bin is right always."""
    confidence_N = np.repeat(np.linspace(0.3, 1.0, 15), 2)
    correct_N = np.tile([True, False], 15)
    correct_N[-1] = True
    rows = calibration.bins(confidence_N, correct_N)
    assert [row["count"] for row in rows] == [2] * 15
    by_hand = (np.abs(np.linspace(0.3, 1.0, 15)[:-1] - 0.5).sum() + 0) / 15
    assert calibration.error(confidence_N, correct_N) == pytest.approx(by_hand)


def test_bins_hold_equal_confidences_together_whatever_the_order():
    confidence_N = np.array([1.0] * 20 + [0.5, 0.6, 0.7])
    correct_N = np.arange(23) % 3 > 0
    found = calibration.bins(confidence_N, correct_N)
    assert [row["count"] for row in found][-1] >= 20 and sum(row["count"] for row in found) == 23
    order = np.random.default_rng(1).permutation(23)
    assert calibration.bins(confidence_N[order], correct_N[order]) == found
    assert calibration.bins(np.empty(0), np.empty(0, bool)) == []
    assert calibration.error(np.empty(0), np.empty(0, bool)) is calibration.chance_error(np.empty(0)) is None


@given(st.integers(1, 300), st.integers(0, 20))
@settings(deadline=None)
def test_bins_are_of_equal_size_and_hold_every_image_once(count, seed):
    confidence_N = np.random.default_rng(seed).uniform(size=count)
    counts = [row["count"] for row in calibration.bins(confidence_N, confidence_N > 0.5)]
    assert sum(counts) == count and len(counts) == min(calibration.BINS, count) and max(counts) - min(counts) <= 1


def test_the_error_by_chance_is_what_exact_probabilities_show():
    draws = np.random.default_rng(0)
    confidence_N = draws.uniform(0.3, 1.0, 300)
    shown = [calibration.error(confidence_N, draws.uniform(size=300) < confidence_N) for _ in range(400)]
    assert calibration.chance_error(confidence_N) == pytest.approx(np.mean(shown), rel=0.05)


def test_measure_says_what_a_temperature_does():
    found = drawn(4000, temperature=2.0)
    fitted = calibration.measure(found, temperature=2.0, crossed=False)
    assert fitted["ece"] > 0.1 > 0.04 > fitted["ece_calibrated"] and fitted["count"] == 4000
    crossed = calibration.measure(found, temperature=2.0, crossed=True)
    after_N = calibration.confidence(found.logits_NK, calibration.cross_fitted(found))
    assert crossed["ece_calibrated"] == calibration.error(after_N, found.correct_N)
    text = calibration.words(crossed, split="val")
    assert text.startswith("calibration error of val .") and "with temperature 2.00 (cross-fitted in two halves" in text
    assert "cross-fitted" not in calibration.words(fitted, split="test")
    plain = calibration.measure(found, temperature=1.0, crossed=True)
    assert plain["ece"] == plain["ece_calibrated"]
    assert calibration.words(plain, split="val").endswith("no temperature")


def test_a_run_measures_every_split_and_cross_fits_only_val():
    table = pa.concat_tables([table_of(drawn(50)), table_of(drawn(20, seed=1), split="test")])
    found = calibration.of_run({"val": table, "test": table}, temperature=1.5, reason="so")
    assert (found["temperature"], found["reason"]) == (1.5, "so")
    assert {name: (row["cross_fitted"], row["count"]) for name, row in found["splits"].items()} == {
        "val": (True, 50), "test": (False, 20)
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_selective_accuracy_counts_what_is_sure():
    found = drawn(500)
    sure_N = calibration.confidence(found.logits_NK, 2.0)
    told = calibration.selective(found, temperature=2.0, below=0.7)
    assert told["covered"] == (sure_N >= 0.7).sum() == round(told["coverage"] * 500)
    assert told["correct"] == (found.correct_N & (sure_N >= 0.7)).sum()
    assert told["accuracy"] == told["correct"] / told["covered"] > found.correct_N.mean()
    assert "would be called unknown" in calibration.selective_words(told)
    none = calibration.selective(found, temperature=20.0, below=0.99)
    assert (none["covered"], none["accuracy"], none["interval"]) == (0, None, None)
    assert calibration.selective_words(none) == "0 images (.000) have a calibrated probability of 0.99 or more"


@pytest.mark.parametrize("below", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_thresholds_that_nothing_or_everything_lies_below(below):
    with pytest.raises(
        ConfigError, match=r"--unknown-below .* should be a probability above 0 and below 1, such as 0.8"
    ):
        calibration.check_threshold(below)
    calibration.check_threshold(None)
    calibration.check_threshold(0.5)
