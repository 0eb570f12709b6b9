"""Laws of scaling are recovered, their intervals cover as they say, and what cannot be told is not."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import least_squares

import interval_coverage as simulated
from fanlight.study import comparison, laws, scaling, stats
from fanlight.study.laws import LawFit
from fanlight.study.stats import Untold

CELL = (0.92, 0.98)  # coverage of one cell of 300 draws: .95 ± 2.4 standard errors
POOLED = (0.935, 0.965)  # of cells together, where a wrong method shows
RANK_SETS = st.sets(st.integers(2, 512), min_size=2, max_size=8).map(lambda more: [1, *sorted(more)])


def exact(law, theta, ranks, *, rounds=3):
    """Rates without noise, with drift."""
    return 50 * simulated.speedups(law, theta, ranks)[:, None] * np.linspace(1.0, 0.7, rounds)


def values(fit):
    assert isinstance(fit, LawFit), fit
    return [each.value for each in fit.parameters]


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
    found = scaling.karp_flatt(stats.ratio(rates[1], rates[0]), ranks=2)
    assert law.parameters[0].interval == pytest.approx(found.interval, rel=1e-4)
    assert law.misfit_p is None


@pytest.mark.parametrize(
    ("law", "way", "theta", "cells"),
    [
        ("amdahl", "strong", (0.05,), [(3, 3), (5, 5), (8, 7)]),
        ("gustafson", "weak", (0.1,), [(3, 3), (5, 5), (8, 7)]),
        pytest.param("usl", "strong", (0.05, 0.001), [(3, 3), (5, 5), (8, 7)], marks=pytest.mark.slow),
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
