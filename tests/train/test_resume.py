"""Runs that are stopped, killed or crash, and go on: the same bits as if nothing had happened, or a refusal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fanlight import cli
from fanlight.config import Config
from fanlight.errors import Stopped
from fanlight.train import evaluate, folder, job, prepare, state
from train import colours as tiny
from train.stopping import LONG, OPTIONS, Crash, ask_to_stop, raise_crash, same_story, stopped_run

pytest_plugins = ["train.fixtures", "train.undisturbed"]
pytestmark = pytest.mark.usefixtures("own_place")


def some_slow(steps: list[int], *, quick: tuple[int, ...]) -> list[Any]:
    return [pytest.param(step, marks=[pytest.mark.slow] * (step not in quick)) for step in steps]


@pytest.mark.parametrize("step", some_slow([1, 3, 6, 7, 10, 11, 12], quick=(1, 6, 7, 11)))
def test_a_crash_changes_nothing(monkeypatch, colours, undisturbed, own_place, step):
    with monkeypatch.context() as patch:
        tiny.before_update(patch, step, raise_crash)
        with pytest.raises(Crash):
            tiny.train(colours, out=own_place / "run", **OPTIONS)
    assert tiny.summary(own_place / "run")["status"] == "failed"
    run = tiny.train(colours, resume=own_place / "run")
    assert tiny.weights(run) == tiny.weights(undisturbed)
    same_story(run, undisturbed)
    assert [row["step"] for row in pq.read_table(run / "steps-rank0.parquet").to_pylist()] == list(range(1, 13))
    assert tiny.summary(run)["status"] == "finished"


def test_a_crash_changes_no_augmentation(monkeypatch, colours, own_place):
    options = OPTIONS | {"policy": "rand", "erase": 0.5, "mixup": 0.4, "cutmix": 1.0}
    whole = tiny.train(colours, out=own_place / "whole", **options)
    with monkeypatch.context() as patch:
        tiny.before_update(patch, 8, raise_crash)
        with pytest.raises(Crash):
            tiny.train(colours, out=own_place / "run", **options)
    run = tiny.train(colours, resume=own_place / "run")
    assert tiny.weights(run) == tiny.weights(whole)
    same_story(run, whole)


# What has state of its own: averaged weights, the count of evaluations without a better one, draws of an epoch.
KEEPING = {
    "sampling": "balanced", "class_weights": "effective", "ema": 0.9, "epochs": 9, "optim__lr": 1e-9, "patience": 3,
    "execution__checkpoint_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def impatient(tmp_path_factory, cache_folder, colours) -> Path:
    """Nothing is learned, so no evaluation is better than the first: it ends after 4 of 9 epochs of 6 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        run = tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "impatient", **(OPTIONS | KEEPING))
    assert [record["epoch"] for record in tiny.metrics(run, "train")] == [1, 2, 3, 4]
    return run


@pytest.mark.parametrize("step", some_slow([2, 7, 14, 23, 24], quick=(7, 14, 24)))
def test_a_crash_changes_no_draw_average_or_patience(monkeypatch, colours, impatient, own_place, step):
    with monkeypatch.context() as patch:
        tiny.before_update(patch, step, raise_crash)
        with pytest.raises(Crash):
            tiny.train(colours, out=own_place / "run", **(OPTIONS | KEEPING))
    run = tiny.train(colours, resume=own_place / "run")
    assert tiny.weights(run) == tiny.weights(impatient)
    same_story(run, impatient)
    for kept in ("best", "metrics", "steps", "epochs"):
        assert tiny.summary(run)[kept] == tiny.summary(impatient)[kept]


def test_a_crash_after_the_last_patient_epoch_trains_no_further(monkeypatch, colours, impatient, own_place):
    with monkeypatch.context() as patch:
        patch.setattr(job, "_finish", lambda *_, **__: raise_crash())
        with pytest.raises(Crash):
            tiny.train(colours, out=own_place / "run", **(OPTIONS | KEEPING))
    tiny.before_update(monkeypatch, 1, raise_crash)
    run = tiny.train(colours, resume=own_place / "run")
    assert tiny.weights(run) == tiny.weights(impatient)
    same_story(run, impatient)


def test_a_crash_in_the_last_evaluation_scores_once(monkeypatch, own_place):
    """Between the last checkpoint and the end, val is logged already and test is not."""
    tiny.make(own_place / "data" / "train")
    tiny.make(own_place / "data" / "test", per_class=3, seed=1)
    whole = tiny.train(own_place / "data", out=own_place / "whole")
    inner, calls = evaluate.outputs, []

    def outputs(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # epoch 1: val; the end: val, test
            raise Crash
        return inner(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "outputs", outputs)
        with pytest.raises(Crash):
            tiny.train(own_place / "data", out=own_place / "run")
    assert len(tiny.metrics(own_place / "run", "evaluate")) == 2
    run = tiny.train(own_place / "data", resume=own_place / "run")
    same_story(run, whole)
    assert tiny.weights(run) == tiny.weights(whole)


def test_crashes_one_after_the_other(monkeypatch, colours, undisturbed, own_place):
    resume = {"out": own_place / "run", **OPTIONS}
    for step in (7, 4, 4):  # of each start; it begins after 0, 5 and 5 steps, and ends in 6, 8 and 8
        with monkeypatch.context() as patch:
            tiny.before_update(patch, step, raise_crash)
            with pytest.raises(Crash):
                tiny.train(colours, **resume)
        resume = {"resume": own_place / "run"}
    run = tiny.train(colours, **resume)
    assert tiny.weights(run) == tiny.weights(undisturbed)
    same_story(run, undisturbed)


def test_a_stop_saves_inside_the_epoch_and_names_the_command(monkeypatch, fanlight, colours, undisturbed, own_place):
    with monkeypatch.context() as patch:
        tiny.before_update(patch, 8, ask_to_stop)
        words = [*tiny.QUICK, "--model", "small-resnet", "--set", "execution.checkpoint_steps=5"]
        answer = fanlight("train", colours, "--out", own_place / "my run", *words)
    assert answer.code == 75
    command = f"fanlight train --resume '{own_place / 'my run'}'"
    assert answer.err.endswith(f"Stopped after step 8; continue with: {command}\n")
    assert tiny.summary(own_place / "my run")["status"] == "stopped"
    answer = fanlight("train", "--resume", own_place / "my run")
    assert answer.code == 0, answer.err
    assert "Continuing after step 8 (epoch 2)" in answer.out
    assert tiny.weights(own_place / "my run") == tiny.weights(undisturbed)
    same_story(own_place / "my run", undisturbed)


def test_time_adds_up_over_starts(monkeypatch, colours, own_place):
    run = own_place / "run"
    keys = {cli.FLAGS[name]: value for name, value in tiny.OPTIONS.items()} | {"data.path": str(colours)}
    prepare.prepare(Config().with_values(keys), out=run, command="test")
    with monkeypatch.context() as patch:
        tiny.before_update(patch, 8, ask_to_stop)
        with pytest.raises(Stopped):
            job.execute(run, entered=time.time() - 100)
    first = tiny.summary(run)
    assert 100 <= first["wall_s"] < 200
    summary = job.execute(run, entered=time.time() - 1000)
    assert 1100 <= summary["wall_s"] < 1300
    trained_s = sum(row["total_s"] for row in pq.read_table(run / "steps-rank0.parquet").to_pylist())
    assert trained_s * 0.9 <= summary["train_s"] < 100  # of both starts; what was before Enter is not in it


def test_a_stop_after_the_last_step_is_no_stop(monkeypatch, colours, undisturbed, own_place):
    tiny.before_update(monkeypatch, 12, ask_to_stop)
    assert tiny.weights(tiny.train(colours, out=own_place / "run", **OPTIONS)) == tiny.weights(undisturbed)


def test_two_ranks_continue_as_two_ranks(quick_ranks, colours, undisturbed, own_place):
    """Stopped as one rank, continued as two: the next sample, and the serial run's numbers within rounding."""
    stopped_run(colours, own_place / "run")
    run = tiny.train(colours, resume=own_place / "run", ranks=2)
    summary = tiny.summary(run)
    assert (summary["status"], summary["layout"], summary["ranks"]) == ("finished", "ddp", 2)
    assert tiny.resolved(run)["execution"]["ranks"] == 2
    assert tiny.resolved(run)["reasons"]["execution.ranks"] == "asked for when the run was resumed"
    for one, other in zip(tiny.metrics(run), tiny.metrics(undisturbed), strict=True):
        assert (one["kind"], one["epoch"], one["step"]) == (other["kind"], other["epoch"], other["step"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)  # the parity contract's fp32 tolerance


def command_line(*words: object, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fanlight", *map(str, words)], env={**os.environ, "FANLIGHT_CACHE": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def words(ranks: int) -> list[str]:
    options = tiny.OPTIONS | LONG | {"ranks": ranks, "out": "run"}
    return [*tiny.flags(options), "--set", "execution.checkpoint_steps=4"]


def when_saved(process: subprocess.Popen[str], run: Path, *, step: int) -> None:
    """Returns once a checkpoint of `step` or later is there."""
    deadline = time.monotonic() + 120
    while not any(int(path.name[5:13]) >= step for path in state.whole(run / "checkpoints")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not train"
        time.sleep(0.005)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm(quick_ranks, fanlight, colours, own_place, cache_folder, long_runs, ranks):
    process = command_line("train", colours, *words(ranks), cache=cache_folder)
    when_saved(process, own_place / "run", step=4)
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 75, complaints
    step = int(re.fullmatch(r"Stopped after step (\d+); continue with: fanlight train --resume run\n", complaints)[1])
    assert state.whole(own_place / "run" / "checkpoints")[-1].name == f"step-{step:08d}"
    assert 4 <= step < 60
    assert fanlight("train", "--resume", "run").code == 0
    assert tiny.weights(own_place / "run") == tiny.weights(long_runs(ranks))
    same_story(own_place / "run", long_runs(ranks))


@pytest.mark.parametrize(
    ("ranks", "steps"), [(1, [12]), *(pytest.param(ranks, [12, 36], marks=pytest.mark.slow) for ranks in (1, 2))]
)
def test_sigkill(quick_ranks, fanlight, colours, own_place, cache_folder, long_runs, ranks, steps):
    start: list[object] = ["train", colours, *words(ranks)]
    for step in steps:
        process = command_line(*start, cache=cache_folder)
        when_saved(process, own_place / "run", step=step)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        start = ["train", "--resume", "run"]
    assert tiny.summary(own_place / "run")["status"] == "running"  # nobody could say otherwise
    assert fanlight(*start).code == 0
    assert tiny.weights(own_place / "run") == tiny.weights(long_runs(ranks))
    same_story(own_place / "run", long_runs(ranks))


def test_a_killed_start_counts_by_its_newest_checkpoint(colours, own_place):
    run = stopped_run(colours, own_place / "run")
    newest = state.whole(run / "checkpoints")[-1] / "state.json"
    document = json.loads(newest.read_text())
    newest.write_text(json.dumps(document | {"train_s": 5000.0}))
    folder.update_summary(run, wall_s=0.0)  # as a kill leaves it
    assert state.trained_s(run / "checkpoints") == 5000.0
    tiny.train(colours, resume=run)
    assert tiny.summary(run)["wall_s"] > 5000


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"train_s": "long"}'])
def test_a_damaged_checkpoint_knows_of_no_time(own_place, text):
    (own_place / "checkpoints" / "step-00000001").mkdir(parents=True)
    (own_place / "checkpoints" / "step-00000001" / "state.json").write_text(text)
    assert state.trained_s(own_place / "checkpoints") == 0.0


@pytest.mark.slow
def test_killed_runs_go_on_in_other_layouts(quick_ranks, fanlight, colours, own_place, cache_folder, long_runs):
    """serial → ddp → fsdp → pipeline → tensor → serial, each killed but the last: the epochs are the undisturbed run's."""
    start: list[object] = ["train", colours, *words(1)]
    for step, layout in zip((8, 16, 24, 32, 40), ("ddp", "fsdp", "pipeline", "tensor", "serial")):
        process = command_line(*start, cache=cache_folder)
        when_saved(process, own_place / "run", step=step)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        ranks = 1 if layout == "serial" else 2
        start = ["train", "--resume", "run", "--layout", layout, "--ranks", ranks]
    assert fanlight(*start).code == 0
    whole, found = (tiny.metrics(run, "train") for run in (long_runs(1), own_place / "run"))
    assert [record["step"] for record in found] == [record["step"] for record in whole]
    for mine, its in zip(found, whole):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-3)  # other sums, 60 steps on
    scores = [tiny.summary(run)["metrics"]["val"] for run in (long_runs(1), own_place / "run")]
    assert scores[0]["count"] == scores[1]["count"] and scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-2)
