import json

import pytest

from fanlight.errors import ConfigError
from fanlight.parallel.layout import parse
from fanlight.plan import trace
from fanlight.plan.operations import Asked
from fanlight.plan.program import program
from fanlight.plan.simulate import simulate
from plan.made import FREE, chain


def test_a_trace_holds_every_operation_where_and_when_it_happened(tmp_path):
    ops = program(parse("pipeline", ranks=2), chain(2), Asked(4, 4), FREE)
    timeline = simulate(ops)
    trace.write(tmp_path / "t.json", timeline, title="a plan")
    found = json.loads((tmp_path / "t.json").read_text())
    events = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert len(events) == sum(len(op.ranks) for op in ops)
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(timeline.step_s * 1e6)
    assert found["otherData"] == {"title": "a plan", "source": "simulated"}
    names = {event["args"]["name"] for event in found["traceEvents"] if event["name"] == "process_name"}
    assert names == {"rank 0 (simulated)", "rank 1 (simulated)"}
    lanes = {event["args"]["name"] for event in found["traceEvents"] if event["name"] == "thread_name"}
    assert lanes == set(trace.LANES) == {"input", "compute", "communication"}


def test_a_link_to_nothing_is_refused_before_a_plan_is_made(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "gone" / "t.json")
    with pytest.raises(ConfigError, match=r"--trace .*link.json is a link to .*gone/t.json, which is not there"):
        trace.check(tmp_path / "link.json")


def test_what_is_no_trace_is_not_written_over(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text("nodes: 2\n")
    with pytest.raises(ConfigError, match=r"--trace .*lab.yaml is there already and is no trace; name another file"):
        trace.check(path)
    assert path.read_text() == "nodes: 2\n"
    timeline = simulate(program(parse("serial", ranks=1), chain(1), Asked(1), FREE))
    trace.write(tmp_path / "t.json", timeline, title="a plan")
    trace.check(tmp_path / "t.json")
    (tmp_path / "empty").touch()
    trace.check(tmp_path / "empty")


def test_a_trace_that_cannot_be_written_says_so(tmp_path):
    timeline = simulate(program(parse("serial", ranks=1), chain(1), Asked(1), FREE))
    with pytest.raises(ConfigError, match=r"--trace .*cannot be written: No such file"):
        trace.write(tmp_path / "no" / "t.json", timeline, title="a plan")
