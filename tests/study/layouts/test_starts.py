"""What comes before the steady steps."""

from fanlight.study.layouts import result


def test_a_start_is_that_of_ranks_that_were_there():
    rows = [{"start_s": 9.0, "cold": True}, {"start_s": 1.0, "cold": False}, {"start_s": 2.0, "cold": False}]
    assert result._start(rows) == 1.5
    assert result._start(rows[:1]) == 9.0
