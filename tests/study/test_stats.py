"""The statistics of the study: laws are recovered, intervals cover as they say, and what cannot be told is not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import least_squares

import interval_coverage as simulated
from fanlight.study import accuracy, comparison, laws, scaling, stats
from fanlight.study.accuracy import Difference
from fanlight.study.laws import LawFit
from fanlight.study.scaling import Point
from fanlight.study.stats import Estimate, Untold

CELL = (0.92, 0.98)  # coverage of one cell of 300 draws: .95 ± 2.4 standard errors
POOLED = (0.935, 0.965)  # of cells together, where a wrong method shows
RATES = st.floats(1e-3, 1e6)
RANK_SETS = st.sets(st.integers(2, 512), min_size=2, max_size=8).map(lambda more: [1, *sorted(more)])


def exact(law, theta, ranks, *, rounds=3):
    """Rates without noise, with drift."""
    return 50 * simulated.speedups(law, theta, ranks)[:, None] * np.linspace(1.0, 0.7, rounds)


def values(fit):
    assert isinstance(fit, LawFit), fit
    return [each.value for each in fit.parameters]


def point(name, rates, *, units=1, device="cpu", precision="fp32"):
    return Point(name, device, units, precision, tuple(rates))


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


# speedup over resources


def test_efficiency_is_per_core():
    one, both = point("one core", [10, 10, 10]), point("all cores", [18, 18, 18], units=2)
    ranks = point("ddp", [19, 19, 19], units=2)
    over_one, over_both = scaling.speedup(ranks, one), scaling.speedup(ranks, both)
    assert over_one.speedup.value == pytest.approx(1.9) and over_one.efficiency.value == pytest.approx(0.95)
    assert over_both.efficiency.value == over_both.speedup.value == pytest.approx(19 / 18)
    assert over_one.serial_fraction.value == pytest.approx((1 / 1.9 - 0.5) / 0.5)
    assert over_both.serial_fraction == Untold("a serial fraction needs more cores than the baseline's 2")


def test_karp_flatt_of_published_figures():
    """NVIDIA DeepLearningExamples, ResNet-50 on DGX A100, 1 and 8 devices."""
    for one, eight, fraction in ((2470, 16621, 0.027), (938, 7248, 0.005)):
        found = scaling.speedup(point("8", [eight] * 3, units=8, device="cuda"), point("1", [one] * 3, device="cuda"))
        assert found.serial_fraction.value == pytest.approx(fraction, abs=5e-4)


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
    found = scaling.speedup(point("4", [37, 37], units=4), point("1", [10, 10]), scaling="weak")
    assert found.serial_fraction.value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point("p", [1.0], units=0), "p: units must be a whole number of cores or devices from 1, got 0"),
        (lambda: point("p", [-1.0]), "p: rates must be finite and above 0, got -1"),
        (
            lambda: scaling.speedup(point("g", [9.0], device="cuda"), point("c", [1.0])),
            "g runs on cuda, c on cpu: that is a gain of the device, not parallel speedup; use device_gain",
        ),
        (
            lambda: scaling.speedup(point("b", [9.0], precision="bf16"), point("f", [1.0])),
            "b computes in bf16, f in fp32: take a baseline of the same precision",
        ),
        (lambda: scaling.speedup(point("a", [9.0]), point("b", [1.0]), scaling="both"), "scaling is strong or weak"),
        (lambda: scaling.device_gain(point("a", [9.0]), cpu=point("b", [1.0])), "got cpu over cpu; use speedup"),
        (lambda: scaling.karp_flatt(Estimate(1.0, None, 1), ranks=1), "needs more than 1 rank, got 1"),
        (lambda: scaling.karp_flatt(Estimate(1.0, None, 1), ranks=math.nan), "needs more than 1 rank, got nan"),
    ],
)
def test_gains_of_another_kind_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_gain_of_a_device_is_its_own_figure():
    gain = scaling.device_gain(point("g", [90.0, 45.0], device="cuda"), cpu=point("c", [10.0, 5.0]))
    assert gain.value == pytest.approx(9)


# laws


@settings(max_examples=60, deadline=None)
@given(RANK_SETS, st.floats(0, 1), st.floats(0, 0.1), st.sampled_from(["strong", "weak"]))
@example([1, 2, 3], 0.0, 0.0, "strong")
@example([1, 511, 512], 1.0, 0.1, "weak")
def test_every_law_is_recovered_from_rates_without_noise(ranks, share, kappa, way):
    usl = laws.fit("usl", ranks, exact("usl", [share, kappa], ranks), scaling=way)
    assert values(usl) == pytest.approx([share, kappa], rel=1e-4, abs=1e-6)
    law = "amdahl" if way == "strong" else "gustafson"
    fit = laws.fit(law, ranks, exact(law, [share], ranks), scaling=way)
    assert values(fit) == pytest.approx([share], rel=1e-6, abs=1e-8)
    assert [fit.speedup(each) for each in ranks] == pytest.approx(list(simulated.speedups(law, [share], ranks)))


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(1, 10)))
def test_best_values_are_those_of_a_general_solver(noise_PN):
    """scipy's bounded least squares on all rates, with a free level per round, started at many places."""
    p = np.array([1.0, 2, 4, 8])
    logs = np.log(noise_PN) + np.log(p)[:, None] / 2

    def residuals(theta):
        rest = logs - np.log(p / (1 + theta[0] * (p - 1) + theta[1] * p * (p - 1)))[:, None]
        return (rest - rest.mean(0)).ravel()

    starts = [(0.01, 0.001), (0.9, 0.001), (0.01, 1.0), (0.5, 0.1)]
    best = min(least_squares(residuals, at, bounds=([0, 0], [1, np.inf])).cost for at in starts)
    found = values(laws.fit("usl", [1, 2, 4, 8], np.exp(logs), scaling="strong"))
    assert (residuals(np.array(found)) ** 2).sum() / 2 <= best * (1 + 1e-5) + 1e-9


def test_amdahls_interval_of_two_points_is_karp_flatts():
    rates = np.array([[10.0, 11.0, 9.5], [18.0, 19.5, 17.5]])
    law = laws.fit("amdahl", [1, 2], rates, scaling="strong")
    found = scaling.speedup(point("2", rates[1], units=2), point("1", rates[0])).serial_fraction
    assert law.parameters[0].interval == pytest.approx(found.interval, rel=1e-4)
    assert law.misfit_p is None


@pytest.mark.parametrize(
    ("law", "way", "theta", "cells"),
    [
        ("amdahl", "strong", (0.05,), [(3, 3), (5, 5), (8, 7)]),
        ("gustafson", "weak", (0.1,), [(3, 3), (5, 5), (8, 7)]),
        ("usl", "strong", (0.05, 0.001), [(3, 3), (5, 5), (8, 7)]),
    ],
)
def test_intervals_cover_the_law_that_made_the_rates(law, way, theta, cells):
    found = []
    for points, rounds in cells:
        held, middle = simulated.law_coverage(law, way, theta, points=points, rounds=rounds, draws=300)
        assert all(CELL[0] <= each <= CELL[1] for each in held), (points, rounds, held)
        if points > 3:
            assert middle == pytest.approx(theta, rel=0.1)
        found.extend(held)
    assert POOLED[0] <= np.mean(found) <= POOLED[1]


def test_intervals_at_the_bounds_cover_no_less():
    """Truth on a bound: what an interval without bounds would miss on the far side is cut to the bound itself."""
    for law, theta in (("amdahl", (0.0,)), ("usl", (0.05, 0.0))):
        held, _ = simulated.law_coverage(law, "strong", theta, points=5, rounds=3, draws=300)
        assert held[-1] >= 0.95


def test_superlinear_points_are_told_as_such():
    rates = exact("amdahl", [0.0], [1, 2, 4]) * np.array([[1], [1.2], [1.5]]) * [1, 1.01, 0.99]
    fit = laws.fit("amdahl", [1, 2, 4], rates * [[1, 1.01, 1], [1, 1, 1.01], [1.01, 1, 1]], scaling="strong")
    (sigma,) = fit.parameters
    assert sigma.interval == (0, 0) and sigma.value == 0
    assert sigma.note.startswith("the points ask for -0.") and "beyond the bound 0 by more" in sigma.note


def test_more_ranks_that_are_slower_are_told_as_such():
    rates = np.array([[10.0, 10.1, 9.9], [6.0, 6.1, 5.9]])
    (sigma,) = laws.fit("amdahl", [1, 2], rates, scaling="strong").parameters
    assert sigma.interval == (1, 1) and "beyond the bound 1" in sigma.note


def test_a_peak_is_told_only_with_coherency():
    peak = laws.fit("usl", [1, 2, 4, 8, 16], exact("usl", [0.1, 0.01], [1, 2, 4, 8, 16]), scaling="strong").peak_ranks()
    assert peak == pytest.approx(math.sqrt(0.9 / 0.01))
    assert isinstance(
        laws.fit("amdahl", [1, 2, 4], exact("amdahl", [0.1], [1, 2, 4]), scaling="strong").peak_ranks(), Untold
    )


@pytest.mark.parametrize(
    ("law", "ranks", "rounds", "way", "reason"),
    [
        ("usl", [1, 2], 5, "strong", "usl needs 3 numbers of ranks with 1 among them, got 2"),
        ("amdahl", [1], 5, "strong", "amdahl needs 2 numbers of ranks with 1 among them, got 1"),
        ("usl", [2, 4, 8], 5, "strong", "usl needs the rate on 1 rank; measured were 2, 4, 8"),
        ("usl", [1, 2, 4], 1, "strong", "1 round of 3 points leaves nothing to tell the noise by; measure 2 rounds"),
        ("amdahl", [1, 2, 4], 3, "weak", "amdahl is a law of strong scaling, and these points scale weakly"),
        ("gustafson", [1, 2, 4], 3, "strong", "gustafson is a law of weak scaling, and these points scale strongly"),
    ],
)
def test_too_little_is_a_reason_and_not_a_number(law, ranks, rounds, way, reason):
    found = laws.fit(law, ranks, np.ones((len(ranks), rounds)), scaling=way)
    assert isinstance(found, Untold) and found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("law", "ranks", "rates", "way", "message"),
    [
        ("moore", [1, 2], np.ones((2, 3)), "strong", "no law 'moore'; there are linear, amdahl, gustafson, usl"),
        (
            "usl",
            [0, 1, 2],
            np.ones((3, 3)),
            "strong",
            r"ranks must be whole numbers from 1, each once, got \[0, 1, 2\]",
        ),
        ("usl", [1, 1, 2], np.ones((3, 3)), "strong", "each once"),
        ("usl", [1, 1.5, 2], np.ones((3, 3)), "strong", "whole numbers"),
        ("usl", [1, math.nan, 2], np.ones((3, 3)), "strong", "whole numbers"),
        ("usl", [1, 2], np.ones((3, 3)), "strong", "one row per number of ranks, got 3 rows and 2 ranks"),
        ("usl", [1, 2, 4], -np.ones((3, 3)), "strong", "rates must be finite and above 0, got -1"),
        ("usl", [1, 2, 4], np.full((3, 3), math.nan), "strong", "must be finite"),
        ("usl", [1, 2, 4], np.ones((3, 3)), "sideways", "scaling is strong or weak, got 'sideways'"),
    ],
)
def test_nonsense_for_a_law_is_refused(law, ranks, rates, way, message):
    with pytest.raises(ValueError, match=message):
        laws.fit(law, ranks, rates, scaling=way)


def test_a_law_off_its_bounds_cannot_be_asked():
    fit = laws.fit("amdahl", [1, 2], exact("amdahl", [0.1], [1, 2]), scaling="strong")
    with pytest.raises(ValueError, match="ranks must be 1 or more, got 0"):
        fit.speedup(0)


# which law


def fits(law, theta, ranks, *, noise=0.01, names=("linear", "amdahl", "usl"), way="strong"):
    random = np.random.default_rng(3)
    measured = simulated.rates(simulated.speedups(law, theta, ranks), 5, random, noise=noise)
    return [laws.fit(name, ranks, measured, scaling=way) for name in names]


def test_three_points_cannot_tell():
    found = comparison.compare(fits("usl", (0.05, 0.05), [1, 2, 4]))
    assert found.best is None and found.enough is None and set(found.aicc) == {"linear", "amdahl", "usl"}
    assert found.reason == (
        "3 points cannot tell: usl passes through any 3; measure 4 numbers of ranks or more"
    )  # fmt: skip


def test_what_can_be_told_is():
    found = comparison.compare(fits("usl", (0.05, 0.01), [1, 2, 4, 8]))
    assert found.best == found.enough == "usl" and "below amdahl's; off by" in found.reason
    weak = comparison.compare(
        fits("gustafson", (0.3,), [1, 2, 4, 8, 16], names=("linear", "gustafson", "usl"), way="weak")
    )
    assert weak.best == "gustafson"


def test_a_law_within_a_larger_one_is_enough():
    found = comparison.compare(fits("amdahl", (0.1,), [1, 2, 4, 8]))
    assert found.best is None and found.enough == "amdahl"
    assert found.reason.startswith("amdahl and usl explain the points alike") and found.reason.endswith(
        "amdahl is enough"
    )


def test_points_that_no_law_explains():
    measured = exact("amdahl", [0.05], [1, 2, 4, 8, 16], rounds=5)
    measured[2] *= 0.7  # such as 4 ranks on one socket
    measured *= np.exp(np.random.default_rng(0).normal(0, 0.01, measured.shape))
    found = comparison.compare([laws.fit(n, [1, 2, 4, 8, 16], measured, scaling="strong") for n in ("amdahl", "usl")])
    assert found.best is None and found.enough is None
    assert found.reason.startswith("no law explains the points: the nearest, ") and "at 4 ranks" in found.reason


def test_one_law_is_no_comparison_and_an_untold_one_tells_why():
    (amdahl,) = fits("amdahl", (0.1,), [1, 2, 4], names=("amdahl",))
    with pytest.raises(ValueError, match="two laws or more, fitted to the same points"):
        comparison.compare([amdahl])
    with pytest.raises(ValueError, match="two laws or more, fitted to the same points"):
        comparison.compare([amdahl, *fits("amdahl", (0.1,), [1, 2, 4, 8], names=("usl",))])
    assert comparison.compare([amdahl, Untold("why")]).reason == "why"


def test_the_criterion_is_hurvich_and_tsais():
    ranks, (amdahl,) = np.array([1.0, 2, 4, 8]), fits("amdahl", (0.1,), [1, 2, 4, 8], names=("amdahl",))
    measured = simulated.rates(simulated.speedups("amdahl", (0.1,), ranks), 5, np.random.default_rng(3), noise=0.01)
    rest = np.log(measured) - np.log([[amdahl.speedup(each)] for each in ranks])
    square = ((rest - rest.mean(0)) ** 2).sum()
    assert amdahl.aicc == pytest.approx(
        15 * math.log(square / 15) + 2 * 2 + 2 * 2 * 3 / (15 - 2 - 1)
    )  # σ and the noise
    assert amdahl.noise == pytest.approx(math.sqrt(square / 14))


def test_a_law_that_made_the_rates_is_seldom_refused():
    random, true = np.random.default_rng(8), simulated.speedups("amdahl", (0.1,), [1, 2, 4, 8])
    drawn = [simulated.rates(true, 5, random, noise=0.02) for _ in range(400)]
    chances = [laws.fit("amdahl", [1, 2, 4, 8], each, scaling="strong").misfit_p for each in drawn]
    assert 0.02 < np.mean(np.array(chances) < 0.05) < 0.08 and np.mean(chances) == pytest.approx(0.5, abs=0.05)


def test_a_false_law_is_seldom_named():
    assert simulated.told("amdahl", (0.05,), points=5, rounds=5, draws=80)["usl"] <= 0.05
    assert simulated.told("usl", (0.05, 0.01), points=5, rounds=5, draws=40)["usl"] >= 0.9


# accuracies


def scores(*gaps, seeds=3, base=0.9):
    shared = [base + 0.01 * seed for seed in range(seeds)]
    wobble = [0.0, 0.001, -0.001, 0.0005, -0.0005, 0.0002, -0.0002, 0.0001]
    rows = {f"p{at}": [each + gap + wobble[s] for s, each in enumerate(shared)] for at, gap in enumerate(gaps)}
    rows["serial"] = shared
    return {name: dict(enumerate(row)) for name, row in rows.items()}


def test_a_point_that_differs_is_flagged_and_others_are_not():
    found = accuracy.differences(scores(-0.2, 0.0), baseline="serial", images=1000)
    assert found["p0"].differs and not found["p1"].differs and "serial" not in found
    assert found["p0"].mean == pytest.approx(-0.2) and found["p0"].interval[1] < 0
    assert found["p0"].method == "t" and found["p0"].seeds == (0, 1, 2)


def test_a_few_images_by_which_all_seeds_are_apart_flag_nothing():
    """Three times one image of 200, in the same direction: without the floor of the variance, p would be 0."""
    apart = {"a": dict.fromkeys(range(3), 0.9 + 0.005), "serial": dict.fromkeys(range(3), 0.9)}
    (found,) = accuracy.differences(apart, baseline="serial", images=200).values()
    assert found.p > 0.2 and not found.differs
    same = accuracy.differences({"a": apart["serial"], "serial": apart["serial"]}, baseline="serial", images=200)["a"]
    assert same.p == 1 and same.mean == 0 and same.interval == (0, 0)


def test_from_six_seeds_the_test_is_exact():
    found = accuracy.differences(scores(0.01, seeds=6), baseline="serial", images=10_000)["p0"]
    assert found.method == "sign-flip" and found.p == 2 / 64 and found.differs
    assert accuracy.differences(scores(0.01, seeds=5), baseline="serial", images=10_000)["p0"].method == "t"
    assert accuracy.differences(scores(0.01, 0.01, seeds=6), baseline="serial", images=10_000)["p0"].method == "t"


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7))
def test_the_sign_flip_test_tries_every_sign(gaps):
    sums = [abs(sum(s * g for s, g in zip(signs, gaps))) for signs in itertools.product((1, -1), repeat=len(gaps))]
    share = sum(each >= abs(sum(gaps)) for each in sums) / len(sums)
    assert accuracy.sign_flip(np.array(gaps) / 1000) == pytest.approx(share)


def test_holms_correction():
    assert accuracy.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert accuracy.holm([0.9, 0.8]) == [1, 1] and accuracy.holm([]) == []


def test_seeds_pair_by_their_number():
    found = accuracy.differences(
        {"serial": {1: 0.5, 2: 0.6, 3: 0.7, 9: 0.1}, "a": {3: 0.7, 2: 0.6, 1: 0.5, 8: 1.0}},
        baseline="serial",
        images=50,
    )["a"]
    assert isinstance(found, Difference) and found.mean == 0 and found.seeds == (1, 2, 3)
    few = accuracy.differences({"serial": {1: 0.5, 2: 0.6}, "a": {1: 0.5, 2: 0.6}}, baseline="serial", images=50)["a"]
    assert few == Untold("2 seeds in common with serial, 3 are needed; train more")


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_points_that_do_not_differ_are_seldom_flagged(seeds):
    assert simulated.flagged(seeds=seeds, points=1, draws=500) < 0.075  # .05 and 2.5 standard errors
    assert simulated.flagged(seeds=seeds, points=5, draws=300) < 0.08
    assert simulated.flagged(seeds=seeds, points=5, draws=40, gap=0.1) > 0.8


# time to accuracy


def curve(*values_at, every_s=10.0):
    return [(every_s * (at + 1), value) for at, value in enumerate(values_at)]


def test_the_median_of_seeds_that_all_reached_it():
    curves = {1: curve(0.5, 0.9), 2: curve(0.9, 0.8), 3: curve(0.1, 0.2, 0.91)}
    found = accuracy.time_to_accuracy(curves, target=0.9)
    assert (found.median_s, found.range_s, found.said) == (20.0, (10.0, 30.0), "3 of 3 reached")
    assert found.range_level == 0.75


def test_a_seed_that_never_reached_it_counts_as_longer():
    curves = {1: curve(0.5, 0.9), 2: curve(0.9), 3: curve(0.1, 0.2, 0.3)}
    found = accuracy.time_to_accuracy(curves, target=0.9)
    assert (found.median_s, found.range_s, found.range_level, found.said) == (
        20.0,
        (10.0, 20.0),
        None,
        "2 of 3 reached",
    )


def test_too_many_that_never_reached_it_leave_no_median():
    curves = {1: curve(0.9), 2: curve(0.1, 0.2), 3: curve(0.1, 0.2, 0.3)}
    found = accuracy.time_to_accuracy(curves, target=0.9)
    assert found.median_s == Untold("1 of 3 reached; the median is above 20 s") and found.range_s == (10.0, 10.0)
    cut = accuracy.time_to_accuracy({1: curve(0.1, 0.1, 0.9), 2: curve(0.1), 3: curve(0.1, 0.9)}, target=0.9)
    assert cut.median_s == Untold("2 of 3 reached; the median is above 20 s")  # the one cut at 10 s might have taken 21
    none = accuracy.time_to_accuracy({1: curve(0.1), 2: curve(0.1), 3: curve(0.1), 4: curve(0.2)}, target=0.9)
    assert none.range_s is None and none.median_s == Untold("0 of 4 reached; the median is above 10 s")
    two = accuracy.time_to_accuracy({1: curve(0.9), 2: curve(0.9)}, target=0.9)
    assert two.median_s == Untold("2 of 2 reached; a median needs 3 seeds")


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans(), st.integers(0, 50)), min_size=3, max_size=7))
def test_a_median_that_is_told_holds_whenever_censored_runs_arrive(runs):
    """Each run ends at its first number, having arrived or not; the third is how much later it would have."""
    curves = {at: [(float(end), 0.9 if arrived else 0.1)] for at, (end, arrived, _) in enumerate(runs)}
    found = accuracy.time_to_accuracy(curves, target=0.5)
    true = float(np.median([end if arrived else end + later for end, arrived, later in runs]))
    if isinstance(found.median_s, Untold):
        assert true >= float(found.median_s.reason.rpartition("above ")[2].removesuffix(" s"))
    else:
        assert found.median_s == true


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy.differences({}, baseline="serial", images=9), "no baseline 'serial' among no points"),
        (lambda: accuracy.differences({"a": {0: 0.5}}, baseline="a", images=0), "images must be 1 or more, got 0"),
        (lambda: accuracy.differences({"a": {7: 1.5}}, baseline="a", images=9), "a, seed 7: accuracy must be a share"),
        (lambda: accuracy.differences({"a": {7: math.nan}}, baseline="a", images=9), "from 0 to 1, got nan"),
        (lambda: accuracy.time_to_accuracy({}, target=0.9), "needs one curve per seed, got none"),
        (lambda: accuracy.time_to_accuracy({1: curve(0.5)}, target=90), "target must be a share from 0 to 1, got 90"),
        (lambda: accuracy.time_to_accuracy({1: []}, target=0.9), "seed 1: seconds of evaluations must be finite"),
        (lambda: accuracy.time_to_accuracy({4: [(2.0, 0.1), (1.0, 0.2)]}, target=0.9), "seed 4: .* grow, got"),
        (lambda: accuracy.time_to_accuracy({4: [(-1.0, 0.1)]}, target=0.9), "from 0 on"),
    ],
)
def test_nonsense_about_accuracy_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
