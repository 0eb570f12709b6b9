"""The arithmetic of shares, on blocks whose causes are known."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.parallel import schedule
from fanlight.study.layouts import attribution
from fanlight.study.layouts.attribution import Pipe
from study.layouts import drawn

PLANTED = st.floats(0.0, 0.2)


def test_every_cause_is_found_as_it_was_planted():
    rows = drawn.step(contention=0.03, communication=0.02, input=0.05, slow=0.04)
    found = attribution.seconds(rows, pipe=None)
    expected = {
        "input": 0.05, "contention": 0.03, "communication": 0.02, "straggler": 0.04, "bubble": 0.0, "optimizer": 0.01,
        "launch": 0.01, "compute": 0.08, "rest": 0.0,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-12)


@given(contention=PLANTED, communication=PLANTED, input=PLANTED, slow=PLANTED, ranks=st.integers(2, 5))
def test_causes_add_up_to_the_full_step(contention, communication, input, slow, ranks):
    rows = drawn.step(ranks=ranks, contention=contention, communication=communication, input=input, slow=slow)
    found = attribution.seconds(rows, pipe=None)
    full = next(row["step_s"] for row in rows if row["kind"] == "full")
    assert sum(found.values()) == pytest.approx(full)
    shares, unexplained = attribution.shares(found, wall_s=full * 1.25)  # a run that the probe does not explain
    assert sum(shares.values()) + unexplained == pytest.approx(1.0) and unexplained == pytest.approx(0.2)


@given(st.lists(st.tuples(PLANTED, PLANTED, st.floats(0.5, 2.0)), min_size=1, max_size=6))
def test_medians_of_rounds_add_up(drawn_rounds):
    """To the median of what rounds took, whatever each of them found."""
    found = [
        attribution.seconds(drawn.slower(drawn.step(contention=contention, input=input), factor), pipe=None)
        for contention, input, factor in drawn_rounds
    ]
    middle = attribution.middle(found)
    assert sum(middle.values()) == pytest.approx(statistics.median(sum(each.values()) for each in found))
    assert middle["input"] == statistics.median(each["input"] for each in found)


def test_one_bad_round_of_three_moves_nothing():
    good, bad = (
        attribution.seconds(rows, pipe=None)
        for rows in (drawn.step(contention=0.02), drawn.step(contention=0.15, input=0.3))
    )
    assert attribution.middle([good, bad, good]) == pytest.approx(good)


def test_who_is_late_now_and_then_is_no_straggler():
    """Ranks that take turns at being the slowest make each other wait; one that always is, is slow."""
    parts = attribution.seconds(drawn.step(slow=0.04, communication=0.01), pipe=None)
    turns = attribution.lasting(parts, [[0.1, 0.14], [0.14, 0.1], [0.12, 0.12]])
    assert turns["straggler"] == pytest.approx(0.0) and turns["communication"] == pytest.approx(0.05)
    always = attribution.lasting(parts, [[0.1, 0.14], [0.1, 0.14], [0.12, 0.1]])
    assert always["straggler"] == pytest.approx(0.04) and always == pytest.approx(parts)
    assert attribution.lasting(parts, []) == parts


def test_no_rank_is_waited_for_longer_than_a_step_with_messages_takes():
    """A rank that a noisy block made slow by more than all waiting of a step is no cause of so much."""
    parts = attribution.seconds(drawn.step(slow=0.04, communication=0.01), pipe=None)
    noisy = attribution.lasting(parts, [[0.1, 0.19], [0.1, 0.2], [0.1, 0.18]])
    assert noisy["straggler"] == pytest.approx(0.05) and noisy["communication"] == pytest.approx(0.0)
    assert sum(noisy.values()) == pytest.approx(sum(parts.values()))


def test_drift_is_of_what_computes_and_sends_nothing():
    full = [row for row in drawn.step(communication=0.05) if row["kind"] == "full"]
    usual_s = full[0]["forward_s"]
    assert attribution.drift(drawn.slower(full, 1.3), usual_s) == pytest.approx(1.3)
    slower = [{**row, "backward_s": 2 * row["backward_s"]} for row in full]
    assert attribution.drift(slower, usual_s) == pytest.approx(1.0)
    both = ("forward_s", "backward_s")  # of a single rank, whose backward sends nothing
    assert attribution.drift(slower, sum(full[0][part] for part in both), parts=both) > 1.0
    assert attribution.drift(full, 0.0) == 1.0  # a forward that was not measured corrects nothing


def test_what_waits_does_not_drift():
    """A processor that gets slower makes no link slower, and no disk."""
    rows = drawn.step(communication=0.05, input=0.02, contention=0.04)
    found, waited_s = attribution.seconds(rows, pipe=None), attribution.waited(rows)
    at_pace = attribution.undrifted(found, 1.25, waited_s=waited_s)
    assert waited_s == pytest.approx(0.02)
    assert at_pace["communication"] == found["communication"] and at_pace["input"] == pytest.approx(found["input"])
    assert at_pace["compute"] == pytest.approx(found["compute"] / 1.25)
    assert at_pace["contention"] == pytest.approx(found["contention"] / 1.25)


@pytest.mark.parametrize(("waited_s", "expected_s"), [(0.0, 0.016), (0.01, 0.018), (0.5, 0.02), (-0.01, 0.016)])
def test_input_that_takes_from_computing_drifts(waited_s, expected_s):
    """Of .02 s, what is not waiting is the processor's: and no wait is longer than what steps take longer."""
    found = attribution.seconds(drawn.step(input=0.02), pipe=None)
    assert attribution.undrifted(found, 1.25, waited_s=waited_s)["input"] == pytest.approx(expected_s)


def test_one_rank_has_nobody_to_share_with():
    found = attribution.seconds(drawn.step(ranks=1, input=0.02), pipe=None)
    assert [found[cause] for cause in ("contention", "communication", "straggler", "bubble")] == [0.0] * 4
    assert found["input"] == pytest.approx(0.02) and found["compute"] == pytest.approx(0.08)


def test_fewer_rows_and_more_rows_tell_the_same_launch():
    """Where a batch is too small to be cut, the probe measures a larger one."""
    for few in (4, 64):
        found = attribution.seconds(drawn.step(ranks=1, few=few, launch=0.03), pipe=None)
        assert found["launch"] == pytest.approx(0.03) and found["compute"] == pytest.approx(0.08)


@pytest.mark.parametrize("few_s", [0.001, 0.1])
def test_launch_is_what_the_line_says_and_the_sum_closes(few_s):
    """Small batches that fit a cache leave less than none; ones that noise made slower than large ones leave it to compute."""
    rows = drawn.step(ranks=1, launch=0.0)
    for row in rows:
        if row["kind"] == "few":
            row["step_s"] = few_s + row["optimizer_s"]
    found = attribution.seconds(rows, pipe=None)
    assert found["launch"] == pytest.approx((16 * few_s - 4 * 0.08) / 12)
    assert found["compute"] == pytest.approx(0.08 - found["launch"]) and min(found["launch"], found["compute"]) < 0
    assert sum(found.values()) == pytest.approx(next(row["step_s"] for row in rows if row["kind"] == "full"))


def test_noise_adds_no_launch():
    """Of rounds in which a step of few rows is as often too quick as too slow, the median is what it is."""
    rounds = []
    for noise_s in (-0.02, -0.01, 0.0, 0.01, 0.02):
        rows = drawn.step(ranks=1, launch=0.0)
        for row in rows:
            row["step_s"] += noise_s * (row["kind"] == "few")
        rounds.append(attribution.seconds(rows, pipe=None))
    assert statistics.fmean(each["launch"] for each in rounds) == pytest.approx(0.0)
    assert attribution.middle(rounds)["launch"] == pytest.approx(0.0)


def pipeline(forward: list[float], backward: list[float], *, microbatches: int, slower: float = 1.0, send: float = 0.0):
    """Blocks of a 1f1b pipeline whose stages take so long, each `slower` times that when all compute; and its step."""
    ranks = len(forward)
    orders = schedule.orders("1f1b", ranks=ranks, stages_per_rank=1, microbatches=microbatches)
    span = schedule.makespan(orders, forward_s=forward, backward_s=backward, send_s=send)
    rows = []
    for rank in range(ranks):
        ahead, back = forward[rank] * microbatches, backward[rank] * microbatches
        parts = {"forward_s": ahead, "backward_s": back}
        rows += [drawn.block(kind, rank, span, **parts) for kind in ("full", "memory")]
        rows.append(drawn.block("alone", rank, ahead + back, **parts))
        rows.append(drawn.block("together", rank, slower * (ahead + back), **parts))
        rows.append(drawn.block("few", rank, (ahead + back) / 4, rows=4))
    pipe = Pipe("1f1b", ranks, 1, microbatches, tuple(range(ranks)))
    return attribution.seconds(rows, pipe=pipe), span


def test_an_even_pipeline_idles_by_its_schedule():
    found, span = pipeline([0.01, 0.01], [0.02, 0.02], microbatches=4)
    assert found["bubble"] / span == pytest.approx(1 / 5)  # (R-1) / (M+R-1)
    assert found["straggler"] == pytest.approx(0.0) and found["communication"] == pytest.approx(0.0)
    assert found["compute"] + found["launch"] == pytest.approx(0.12)


def test_a_bad_cut_is_told_from_the_bubble():
    even, _ = pipeline([0.015, 0.015], [0.03, 0.03], microbatches=8)
    uneven, span = pipeline([0.005, 0.025], [0.01, 0.05], microbatches=8)
    assert uneven["bubble"] == pytest.approx(even["bubble"])
    assert uneven["straggler"] / span > 0.3 and uneven["straggler"] == max(
        value for cause, value in uneven.items() if cause != "compute"
    )
    assert sum(uneven.values()) == pytest.approx(span)


def test_messages_of_a_pipeline_are_communication():
    quick, span = pipeline([0.01, 0.01], [0.02, 0.02], microbatches=4)
    slow, longer = pipeline([0.01, 0.01], [0.02, 0.02], microbatches=4, send=0.005)
    assert slow["communication"] == pytest.approx(longer - span) and slow["bubble"] == pytest.approx(quick["bubble"])


def test_a_pipeline_shares_the_machine_only_while_ranks_compute_side_by_side():
    """A sequential one never does, however slow the ranks are together."""
    rows = []
    for rank in range(2):
        rows += [drawn.block(kind, rank, 0.2) for kind in ("full", "memory")]
        rows += [
            drawn.block("alone", rank, 0.1),
            drawn.block("together", rank, 0.15),
            drawn.block("few", rank, 0.025, rows=4),
        ]
    found = attribution.seconds(rows, pipe=Pipe("sequential", 2, 1, 1, (0, 1)))
    assert found["contention"] == pytest.approx(0.0) and found["bubble"] == pytest.approx(0.1)
    side_by_side, _ = pipeline([0.01, 0.01], [0.02, 0.02], microbatches=32, slower=1.5)
    work, both = 32 * 0.03, 31 * 0.03  # of 33 turns the first and the last are one rank's
    assert side_by_side["contention"] == pytest.approx(0.5 * both / work * work)


def test_divided_layers_have_no_usual_rank():
    """Three heads on two ranks are unequal work: what counts is what an even cut would take."""
    rows = drawn.step(slow=0.04)
    assert attribution.seconds(rows, pipe=None)["straggler"] == pytest.approx(0.04)
    assert attribution.seconds(rows, pipe=None, is_divided=True)["straggler"] == pytest.approx(0.02)
