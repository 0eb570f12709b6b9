"""What the tables of the planner's benchmarks say of made-up measurements."""

from dataclasses import replace

import pytest

import plan_auto
import plan_error
import plan_link
from plan.test_choose import candidate, question


def job(layout: str, rate: float, **more) -> plan_error.Job:
    told = replace(candidate(layout, rate), band=(rate * 0.9, rate * 1.1), ranks=1, **more)
    return plan_error.Job("resnet18", told, question(), 3)


def test_errors_bands_memory_and_the_choice():
    jobs = [job("serial", 100), job("ddp", 160), job("fsdp", 150)]
    took = {"serial": 32 / 100, "ddp": 32 / 128, "fsdp": 32 / 150}
    measured = {each.key: [(each, {"steps_s": [took[each.told.layout]] * 3, "peak_bytes": 1.25e9})] for each in jobs}
    rows, failed = plan_error.rows_of(measured)
    assert not failed and [round(row.images_per_s) for row in rows] == [100, 128, 150]
    text = plan_error.report(rows, failed)
    assert (
        "n = 3 configurations" in text
        and "median 0.0%, 90th percentile 20.0%; of single" in text
        and "2 of 3 inside" in text
    )
    assert "3 of 3 within 20% of peak resident" in text
    assert "resnet18, fp32, 32: ddp, 85.3% of the best of 3" in text and "in 0 of 1 groups" in text


def test_errors_are_of_medians_over_rounds_and_of_single_rounds():
    """Foretold 80, 100, 120 in a slow, a usual and a quick half minute; measured 100, 100, 90."""
    jobs = [job("serial", rate) for rate in (80, 100, 120)]
    real = [{"steps_s": [32 / rate], "peak_bytes": 1e9} for rate in (100, 100, 90)]
    rows, _ = plan_error.rows_of({"one": list(zip(jobs, real))})
    assert rows[0].error < 1e-9 and [round(each, 3) for each in rows[0].errors] == [0.2, 0, 0.333]
    text = plan_error.report(rows, [])
    assert "3 round(s)" in text and "median 20.0%" in text and "| 20%, 0%, 33% |" in text


def test_what_could_not_be_run_is_named_and_not_counted():
    jobs = [job("serial", 100), job("tensor", 90)]
    good, bad = {"steps_s": [0.32], "peak_bytes": 1e9}, {"error": "no memory"}
    measured = {jobs[0].key: [(jobs[0], good)], jobs[1].key: [(jobs[1], bad)]}
    text = plan_error.report(*plan_error.rows_of(measured))
    assert "n = 1 configurations" in text and "Could not be run: resnet18 tensor 1 fp32 32: no memory." in text


def test_planning_is_repaid_by_images():
    """100 against 80 images/s: 2.5 ms of an image; 50 s are repaid by 20,000 of them."""
    pair = plan_auto.Pair("resnet18:a", "a", "resnet18", "fp32", 480)
    run = {"layout": "ddp", "ranks": 2, "wall_s": 9.0}
    rows = [
        {
            "pair": pair, "plan": {"layout": "ddp", "ranks": 2, "microbatches": 1, "s": 50.0},
            "auto": [{**run, "images_per_s": 100.0}], "default": [{**run, "layout": "serial", "ranks": 1, "images_per_s": 80.0}],
        },
        {
            "pair": replace(pair, name="b"), "plan": {"layout": "serial", "ranks": 1, "microbatches": 1, "s": 40.0},
            "auto": [], "default": [{**run, "layout": "serial", "ranks": 1, "images_per_s": 70.0}],
        },
        {"pair": replace(pair, name="c"), "plan": {"error": "nothing fits"}, "auto": [], "default": []},
        {
            "pair": replace(pair, name="d"), "plan": {"layout": "fsdp", "ranks": 2, "microbatches": 1, "s": 9.0},
            "auto": [], "default": [{**run, "layout": "serial", "ranks": 1, "images_per_s": 70.0}],
        },
    ]  # fmt: skip
    text = plan_auto.report(rows)
    assert "2 pairs: more than 1.05 times as fast in 1; the least ratio is 1.00." in text
    assert "| ddp on 2 | 100 | serial on 1 | 80 | 1.25 (1.25) | 1 | 50 | 20,000 |" in text
    assert "1 (the same)" in text and "| c | fp32 | nothing fits |" in text and "| d | fp32 | not reached" in text


def test_slow_links_are_compared_by_what_their_rounds_gained():
    """The second round's machine is half as fast: speedups are of one round, and stay."""
    rates = {"serial": 10.0, "ddp": 12.0, "pipeline": 40.0}
    told = {("200mbit", "net", name): candidate(name, rate) for name, rate in rates.items()}
    first = {"net serial": [3.2, 3.2], "net ddp": [1.6, 1.6], "net pipeline": [1.0, 0.8]}
    rounds = [{"200mbit": first}, {"200mbit": {key: [2 * each for each in value] for key, value in first.items()}}]
    text = plan_link.report(told, rounds)
    assert "n = 2 configurations of two ranks, 2 rounds" in text
    assert "median 26.2%, largest 40.0%, 1 of 2 within 15%" in text
    assert "| ddp | 1.200 | 2.000 (2.000 … 2.000) | 40.0% | 12 |" in text
    assert "| serial | 1 | 1 |  | 10 |" in text and "pipeline, 100.0% of the best of 2" in text


def test_rounds_take_turns_in_both_orders_and_tell_of_failure(monkeypatch):
    """Every job at every rate, whose link is changed first; one that cannot be run ends it."""
    changed, ran = [], []

    class Ranks:
        def run(self, what, *, config, classes, steps):
            ran.append((what, config))
            return [{"steps_s": [1.0, 2.0], "error": config.get("error", "")}, {"steps_s": [3.0, 1.0], "error": ""}]

    monkeypatch.setenv("OTHER_PLACE", "/proc/1/ns/net")
    monkeypatch.setattr(plan_link.subprocess, "run", lambda words, check: changed.append(" ".join(words)))
    names = ("net serial", "net ddp")
    work = {
        rate: {name: {"config": {"is": name}, "classes": 2, "steps": 2} for name in names} for rate in plan_link.RATES
    }
    found = plan_link.round_of(Ranks(), work, order=1)
    assert found["1gbit"] == {"net serial": [2.0, 1.5], "net ddp": [3.0, 2.0]}, "the mean place, the slowest rank"
    assert [what for what, _ in ran] == [plan_link.two_places.ALONE, plan_link.confirm.TURN] * 2
    assert ["rate 200mbit" in each for each in changed] == [True, True, False, False]
    assert changed[1].startswith("nsenter --net=/proc/1/ns/net tc qdisc change")
    changed.clear(), ran.clear()
    assert plan_link.round_of(Ranks(), work, order=-1) == found
    assert "rate 1gbit" in changed[0] and ran[0][0] == plan_link.confirm.TURN
    work["1gbit"]["net ddp"]["config"]["error"] = "no memory"
    with pytest.raises(SystemExit, match="net ddp at 1gbit: no memory"):
        plan_link.round_of(Ranks(), work, order=1)


def test_the_described_cluster_is_a_file_that_can_be_read():
    from plan.test_measure import made

    calibration = made(alone=1.25)
    found = plan_link.described("200 Mbit/s", calibration)
    assert (found.nodes, found.devices, found.between.bytes_per_s) == (2, 1, 25e6)
    assert found.device.speed == 0.8
    assert found.steals < 0.5 * 25e6 / 1e9 * 1.01, "so much of a byte, not of a second"
