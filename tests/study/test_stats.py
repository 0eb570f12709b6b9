"""Rates of rounds: intervals cover as they say; and what of the work is serial."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import interval_coverage as simulated
from fanlight.study import scaling, stats
from fanlight.study.stats import Estimate

CELL = (0.92, 0.98)  # coverage of one cell of 300 draws: .95 ± 2.4 standard errors
POOLED = (0.935, 0.965)  # of cells together, where a wrong method shows
RATES = st.floats(1e-3, 1e6)


# central values, ratios


def test_a_ratio_is_taken_within_each_round():
    drift = np.array([1.0, 0.5, 0.8, 0.6])
    found = stats.ratio(300 * drift, 100 * drift)
    assert found.value == pytest.approx(3) and found.half_width < 1e-9 and found.n == 4
    assert stats.center(300 * drift).half_width > 0.3  # which the rates themselves are not


def test_the_interval_is_students_on_logarithms():
    logs = np.array([0.0, 0.1, 0.5])
    found = stats.center(np.exp(logs))
    half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom, from any table
    assert found.value == pytest.approx(math.exp(0.1))
    assert found.interval == pytest.approx((math.exp(0.2 - half), math.exp(0.2 + half)))


def test_one_busy_round_moves_the_interval_and_not_the_value():
    quiet, busy = stats.center([100, 101, 99, 100, 100]), stats.center([100, 101, 99, 100, 50])
    assert busy.value == quiet.value == pytest.approx(100)
    assert busy.half_width > 10 * quiet.half_width


def test_one_round_has_no_interval():
    assert stats.center([7.0]) == Estimate(pytest.approx(7.0), None, 1) and stats.center([7.0]).half_width is None


@given(st.lists(st.tuples(RATES, RATES), min_size=2, max_size=12))
def test_a_ratio_turned_over_is_the_inverse(rounds):
    above, below = zip(*rounds)
    there, back = stats.ratio(above, below), stats.ratio(below, above)
    assert there.interval[0] <= there.value <= there.interval[1]
    assert [back.value, *back.interval] == pytest.approx([1 / there.value, *(1 / e for e in there.interval[::-1])])


@pytest.mark.parametrize("busy", [0.0, 0.05, 0.1])
def test_speedups_are_covered_under_drift_noise_and_busy_moments(busy):
    found = [simulated.ratio_coverage(rounds=rounds, draws=600, busy=busy)[0] for rounds in range(3, 10)]
    assert min(found) > 0.925 and np.mean(found) > 0.94
    if not busy:
        assert np.mean(found) < 0.96  # with outliers they may cover more, without they must not


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.center([]), r"rates needs values in 1 dimension\(s\), got shape \(0,\)"),
        (lambda: stats.center([1.0, -2.0]), "rates must be finite and above 0, got -2; leave out a round that failed"),
        (lambda: stats.center([1.0, math.nan]), "must be finite and above 0, got nan"),
        (lambda: stats.ratio([1.0, 2.0], [1.0, math.inf]), "baseline rates must be finite and above 0, got inf"),
        (lambda: stats.ratio([1.0, 2.0], [1.0]), "a ratio needs the same rounds of both, got 2 and 1"),
        (lambda: stats.enough([1.0, 2.0]), r"needs values in 2 dimension\(s\), got shape \(2,\)"),
        (lambda: stats.enough([[1.0]], half_width=5), "half_width is a share between 0 and 1, got 5; 0.05 is ± 5 %"),
        (lambda: stats.enough([[1.0]], rounds_min=9, rounds_max=5), "rounds_min ≤ rounds_max, got 9 and 5"),
        (lambda: stats.enough([[1.0]], baseline=1), "baseline is a row of 1, got 1"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# when to stop


def test_enough_waits_for_the_widest_point():
    steady, shaky = [100, 100.1, 99.9, 100, 100], [50, 60, 40, 55, 45]
    found = stats.enough([steady, shaky])
    assert not found.done and found.half_width == stats.center(shaky).half_width
    assert "5 rounds: ±" in found.reason and found.reason.endswith("asked for ± 5.0%")
    assert stats.enough([steady, steady]).done
    assert stats.enough([shaky, 3 * np.array(shaky)], baseline=0).done  # the ratio is steady
    assert not stats.enough([shaky, steady], baseline=0).done


def test_enough_keeps_to_its_limits():
    few = stats.enough([[100.0] * 4, [100.0] * 4])
    assert not few.done and few.reason == "4 of at least 5 rounds"
    assert not stats.enough([[100.0]], rounds_min=2).done
    last = stats.enough([[50, 60, 40, 55, 45, 70, 30, 50, 50]])
    assert last.done and not last.narrow and last.reason.startswith("9 rounds, the most allowed: ±")


def test_stopping_early_costs_coverage_as_told_and_biases_nothing():
    five, three = (simulated.stopped_coverage(noise=0.04, draws=600, rounds_min=least) for least in (5, 3))
    assert 0.915 < five["coverage"] < 0.96 and three["coverage"] < five["coverage"]
    assert abs(five["bias"]) < 0.004 and abs(three["bias"]) < 0.004


# serial fractions


def test_karp_flatt_of_published_figures():
    """NVIDIA DeepLearningExamples, ResNet-50 on DGX A100, 1 and 8 devices."""
    for one, eight, fraction in ((2470, 16621, 0.027), (938, 7248, 0.005)):
        found = scaling.karp_flatt(stats.ratio([eight] * 3, [one] * 3), ranks=8)
        assert found.value == pytest.approx(fraction, abs=5e-4)


@given(st.integers(2, 4096), st.floats(0, 1))
def test_serial_fractions_invert_their_laws(ranks, share):
    amdahl, gustafson = (
        Estimate(float(simulated.speedups(law, [share], [ranks])[0]), None, 3) for law in ("amdahl", "gustafson")
    )
    assert scaling.karp_flatt(amdahl, ranks=ranks).value == pytest.approx(share, abs=1e-9)
    assert scaling.scaled_serial_fraction(gustafson, ranks=ranks).value == pytest.approx(share, abs=1e-9)


def test_the_interval_of_a_serial_fraction_turns_over():
    found = scaling.karp_flatt(Estimate(3.0, (2.5, 4.2), 5), ranks=4)
    assert found.interval == pytest.approx(((1 / 4.2 - 0.25) / 0.75, (1 / 2.5 - 0.25) / 0.75))
    assert found.interval[0] < 0  # faster than 4 ranks can be by sharing work: told as it is


def test_weak_scaling_has_gustafsons_share():
    assert scaling.scaled_serial_fraction(stats.ratio([37, 37], [10, 10]), ranks=4).value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaling.check_scaling("both"), "scaling is strong or weak, got 'both'"),
        (lambda: scaling.karp_flatt(Estimate(1.0, None, 1), ranks=1), "needs more than 1 rank, got 1"),
        (lambda: scaling.scaled_serial_fraction(Estimate(1.0, None, 1), ranks=math.nan), "more than 1 rank, got nan"),
    ],
)
def test_serial_fractions_of_nothing_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
