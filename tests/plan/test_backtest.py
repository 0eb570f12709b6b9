"""The published curves: what the page says of them holds."""

from statistics import fmean

import pytest

import plan_backtest as backtest

QUICK = (
    "lung and colon, 10–28 CPUs", "lung and colon, AMP, 1–4 GPUs", pytest.param("glaucoma, 1–32 CPUs", marks=pytest.mark.slow)
)  # fmt: skip


def errors(curve: backtest.Curve) -> tuple[float, float, float]:
    told = backtest.foretold(curve, backtest.borrowed(curve))
    return tuple(backtest.error(curve, how) for how in (told.__getitem__, lambda n: 0.0, lambda n: 0.1))  # type: ignore[return-value]


@pytest.mark.parametrize("name", QUICK)
def test_curves_of_cpus_are_foretold_twice_as_well_as_naively(name):
    own, linear, constant = errors(backtest.curves()[name])
    assert own <= 0.5 * min(linear, constant)


def test_the_first_point_is_met_and_no_curve_lends_to_itself():
    curve = backtest.curves()["glaucoma, 1–32 CPUs"]
    assert set(backtest.foretold(curve, 0.04)) == {2, 4, 8, 16, 24, 32}
    for name, each in backtest.curves().items():
        assert name not in each.others and each.others


def test_tables_of_one_publisher_lend_all_they_have_of_a_kind():
    every = {each.name: each for each in backtest.resnets()}
    kinds = {where: mixed for where, (_, mixed, _) in backtest.RESNETS.items()}
    for name, each in every.items():
        mixed = kinds[name.partition(", ")[2]]
        assert set(each.others) == {other for other in every if kinds[other.partition(", ")[2]] == mixed} - {name}
        assert set(each.seconds) == {1, 8}


def test_a_rate_meets_the_first_point():
    """Where it is one rank's, by arithmetic; else by halving."""
    for name in ("resnet50, 1–40 V100", "lung and colon, DDP, 2–4 GPUs"):
        curve = backtest.curves()[name]
        total_s = backtest.alone_s(curve, 1e-4)
        assert backtest.step_s(name, curve.first, 1e-4, total_s) == pytest.approx(curve.seconds[curve.first], rel=1e-6)


def test_a_band_says_where_in_it_the_published_point_lies():
    """Inside, below and above; with more noise a band is wider on both sides by as much."""
    assert backtest.inside([(1.2, 0.9), (0.9, 0.7), (1.4, 1.1)]) == 1
    curve = backtest.curves()["lung and colon, AMP, 1–4 GPUs"]
    value = backtest.borrowed(curve)
    narrow, wide = (backtest.bands(curve, value, noise=noise) for noise in (0.03, 0.15))
    assert set(narrow) == {2, 3, 4}
    for n in narrow:
        assert wide[n][0] == pytest.approx(narrow[n][0] * 1.15 / 1.03)
        assert wide[n][1] == pytest.approx(narrow[n][1] / 1.15 * 1.03)


@pytest.mark.slow
def test_all_points_together_are_foretold_twice_as_well_as_naively():
    found = [errors(curve) for curve in backtest.curves().values()]
    own, linear, constant = (fmean(column) for column in zip(*found))
    assert own <= 0.5 * min(linear, constant)
