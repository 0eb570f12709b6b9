"""Accuracies over seeds: differences are flagged as seldom as they say, and times to an accuracy hold."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import interval_coverage as simulated
from fanlight.study import accuracy
from fanlight.study.accuracy import Difference
from fanlight.study.stats import Untold


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
