"""Order, resumption and statistics of contests between trainers."""

import json

import pytest

from contest import rounds
from hardware import median_interval, ratio_interval

NAMES = ("a", "b", "c")


def test_every_round_has_each_once_and_each_begins_once():
    orders = [rounds.order(NAMES, number=number) for number in range(3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert [order[0] for order in orders] == ["a", "b", "c"]
    assert rounds.order((), number=4) == []


def test_the_warm_up_comes_first_and_only_where_wanted():
    assert rounds.plan(("a", "b"), rounds=2, warm_up=True) == [
        (-1, "a"), (-1, "b"), (0, "a"), (0, "b"), (1, "b"), (1, "a"),
    ]  # fmt: skip
    assert rounds.plan(("a",), rounds=1, warm_up=False) == [(0, "a")]


class Runner:
    def __init__(self, fails=()):
        self.calls, self.fails = [], set(fails)

    def __call__(self, number, name):
        self.calls.append((number, name))
        return {"error": "boom"} if (number, name) in self.fails else {"validated_s": 1.0 + number}


def hold(path, run, *, contest="c", count=2):
    plan = rounds.plan(("a", "b"), rounds=count, warm_up=True)
    return rounds.run_all(plan, path, contest=contest, run=run, say=lambda line: None)


def test_a_second_call_runs_only_what_is_missing(tmp_path):
    path = tmp_path / "runs.jsonl"
    first = Runner()
    records = hold(path, first)
    assert len(first.calls) == 6 and len(records) == 4  # the warm-up is run and not counted
    again = Runner()
    assert len(hold(path, again, count=3)) == 6
    assert again.calls == [(2, "a"), (2, "b")]


def test_a_failed_run_is_kept_and_tried_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    records = hold(path, Runner(fails=[(0, "b")]))
    assert [r["name"] for r in records if r.get("error")] == ["b"]
    again = Runner()
    records = hold(path, again)
    assert again.calls == [(0, "b")]
    assert not any(r.get("error") for r in records) and len(records) == 4


def test_another_contest_shares_the_file_and_no_runs(tmp_path):
    path = tmp_path / "runs.jsonl"
    hold(path, Runner())
    other = Runner()
    assert all(r["contest"] == "d" for r in hold(path, other, contest="d"))
    assert len(other.calls) == 6


def test_a_torn_line_is_left_out_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "runs.jsonl"
    rounds.append(path, {"name": "a"})
    with path.open("a") as file:
        file.write('{"name": "b", "wal')
    rounds.append(path, {"name": "c"})
    assert [record["name"] for record in rounds.read(path)] == ["a", "c"]
    assert json.loads(path.read_text().splitlines()[-1]) == {"name": "c"}


def test_a_ratio_of_series_that_slow_down_together_is_certain():
    drift = [10.0, 14.0, 30.0, 11.0, 12.0]
    assert ratio_interval([2 * value for value in drift], drift) == (2.0, 2.0, 2.0)


def test_intervals_enclose_their_medians():
    values, others = [3.0, 5.0, 4.0, 9.0, 6.0], [2.0, 2.5, 3.0, 2.0, 2.2]
    for middle, low, high in (median_interval(values), ratio_interval(values, others)):
        assert low <= middle <= high and low < high


def test_a_ratio_needs_the_same_rounds():
    with pytest.raises(ValueError, match="got 2 and 1"):
        ratio_interval([1.0, 2.0], [1.0])
