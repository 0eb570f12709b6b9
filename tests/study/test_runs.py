"""Reading run folders whole, torn and broken; finding many."""

import json
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanlight.errors import RunError
from fanlight.study import runs


def write_run(folder, **summary):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"version": 1, "status": "finished"} | summary))
    return folder


def steps_table(count, *, epochs=1, **parts_s):
    columns = {"step": np.arange(count), "epoch": 1 + np.arange(count) * epochs // count, "images": np.full(count, 8)}
    parts = {f"{part}_s": np.full(count, parts_s.get(part, 0.0)) for part in (*runs.PARTS, "total")}
    return pa.table(columns | parts)


def test_torn_last_line_is_left_out_and_counted(tmp_path):
    run = write_run(tmp_path / "a")
    (run / "metrics.jsonl").write_text('{"kind": "train", "epoch": 1}\n{"kind": "tr')
    folder = runs.read(run)
    assert folder.metrics == [{"kind": "train", "epoch": 1}]
    assert folder.missing["metrics.jsonl"].startswith("1 of 2 lines cannot be read")


def test_a_line_torn_by_a_kill_costs_one_line_after_resume(tmp_path):
    run = write_run(tmp_path / "a")
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo{"epoch": 2}\n[3]\n\n{"epoch": 4}\n')
    assert [record["epoch"] for record in runs.read(run).metrics] == [1, 4]


def test_what_is_not_there_is_named(tmp_path):
    folder = runs.read(write_run(tmp_path / "a"))
    assert folder.manifest is None and folder.predictions is None and not folder.steps
    assert set(folder.missing) == {
        "env.json", "resolved.yaml", "metrics.jsonl", "manifest.parquet", "predictions.parquet", "steps-rank0.parquet"
    }  # fmt: skip


def test_ranks_are_sorted_as_numbers(tmp_path):
    run = write_run(tmp_path / "a")
    for rank in (10, 2, 0):
        pq.write_table(steps_table(3), run / f"steps-rank{rank}.parquet")
    assert list(runs.read(run).steps) == [0, 2, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 9}', r"has version 9, this Fanlight reads 1; use the Fanlight that wrote it"),
        ('{"vers', r"run.json is not JSON .*resume"),
        ("[]", r"should hold one object, got list"),
        ('{"metrics": [1]}', r"metrics should be an object, got \[1\]; train again"),
    ],
)
def test_refused_run_json(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=message):
        runs.read(tmp_path)


def test_steady_leaves_the_warm_up_out():
    assert runs.steady(steps_table(12, epochs=3))[0]["epoch"].unique().to_pylist() == [2, 3]
    rows, words = runs.steady(steps_table(12))
    assert rows["step"].to_pylist() == list(range(5, 12)) and words == "first 5 steps left out"
    rows, words = runs.steady(steps_table(4))
    assert len(rows) == 4 and words == "all 4 steps, warm-up included"


def test_shares_sum_to_one():
    shares = runs.step_shares(steps_table(20, forward=1.0, backward=2.0, input=0.5, total=4.0))
    assert shares["backward"] == 0.5 and shares["rest"] == pytest.approx(0.125)
    assert sum(shares.values()) == pytest.approx(1.0)
    overlapped = runs.step_shares(steps_table(20, forward=3.0, communication=2.0, total=4.0))
    assert overlapped["forward"] == pytest.approx(0.6) and overlapped["rest"] == pytest.approx(0.0)
    assert set(runs.step_shares(steps_table(3)).values()) == {0.0, 1.0}


def test_find_lists_newest_first_and_keeps_the_broken(tmp_path):
    metrics = {"val": {"accuracy": 0.9}, "test": {"accuracy": 0.8}}
    old = {"run": "old", "model": "resnet18", "data": {"path": "photos"}, "metrics": metrics, "wall_s": 75.0}
    write_run(tmp_path / "x" / "old", **old, started="2026-11-01T10:00:00+00:00")
    write_run(tmp_path / "new", run="new", started="2026-11-02T09:00:00+09:00")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    killed = tmp_path / "early"
    killed.mkdir()
    (killed / "resolved.yaml").write_text("version: 1\n")
    (tmp_path / "photos").mkdir()
    found = runs.find(tmp_path)
    assert [run["name"] for run in found][-2:] == ["new", "old"]
    assert {run["name"] for run in found[:2]} == {"broken", "early"}
    listed = {run["name"]: run for run in found}
    assert "is not JSON" in listed["broken"]["reason"] and listed["early"]["status"] == "unreadable"
    assert listed["old"]["accuracy"] == 0.8 and listed["old"]["split"] == "test" and listed["old"]["data"] == "photos"
    text = runs.table(found, folder=tmp_path)
    assert ".800 test" in text and "1 min 15 s" in text and "2026-11-01 10:00" in text and "is not JSON" in text


def test_running_is_believed_only_while_it_writes(tmp_path):
    run = write_run(tmp_path / "a", status="running")
    assert runs.status_text(runs.find(run)[0]) == "running"
    hour_ago = time.time() - 3600
    os.utime(run / "run.json", (hour_ago, hour_ago))
    assert runs.status_text(runs.find(run)[0]) == "running? silent for 1 h 0 min"


def test_nothing_to_list(tmp_path):
    assert runs.table(runs.find(tmp_path), folder=tmp_path).endswith("`fanlight train DATA` makes one.")
    with pytest.raises(RunError, match=r"no folder .*gone; name the folder"):
        runs.find(tmp_path / "gone")
