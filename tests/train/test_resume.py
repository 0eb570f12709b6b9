"""Runs that are stopped, killed or crash, and go on: the same bits as if nothing had happened, or a refusal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import fanlight as package
from fanlight import cli
from fanlight.config import Config
from fanlight.errors import ConfigError, DataError, RunError, Stopped
from fanlight.recipes import assemble
from fanlight.train import evaluate, folder, job, prepare, resolve, state
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

# Normalised by batches, so a batch of other samples or a lost statistic shows; 12 steps, a checkpoint after 5 and 10.
OPTIONS = {"model": "small-resnet", "execution__checkpoint_steps": 5}
# Long enough that a signal finds it training: 60 steps of some 10 ms, and 15 checkpoints.
LONG = {"model": "small-resnet", "batch_size": 4, "epochs": 5}


class Crash(BaseException):
    """As unforeseen as a kill: nothing catches it."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, cache_folder, colours) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        return tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "undisturbed", **OPTIONS)


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory, colours) -> Callable[[int], Path]:
    """long_runs(ranks): an undisturbed run of LONG."""
    runs: dict[int, Path] = {}

    def of(ranks: int) -> Path:
        if ranks not in runs:
            runs[ranks] = tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "long", **LONG, ranks=ranks)
        return runs[ranks]

    return of


def raise_crash() -> None:
    raise Crash


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_run(colours: Path, out: Path, *, step: int = 8, **options) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        tiny.before_update(patch, step, ask_to_stop)
        with pytest.raises(Stopped):
            tiny.train(colours, out=out, **(OPTIONS | options))
    return out


def same_story(run: Path, other: Path) -> None:
    """The same records, once each, in the same order, with the same numbers to the last bit."""
    timing = ("images_per_s", "input_wait_share", "seconds_in", "seconds")
    told = [
        [{name: value for name, value in record.items() if name not in timing} for record in tiny.metrics(each)]
        for each in (run, other)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("step", [1, 3, 6, 7, 10, 11, 12])
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


@pytest.mark.parametrize("step", [2, 7, 14, 23, 24])
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
    assert answer.err == f"Stopped after step 8; continue with: {command}\n"
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


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigkill(quick_ranks, fanlight, colours, own_place, cache_folder, long_runs, ranks):
    start: list[object] = ["train", colours, *words(ranks)]
    for step in (12, 36):
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


def test_auto_continues_the_newest_unfinished_run(fanlight, colours, own_place):
    words = ["train", colours, *tiny.QUICK, "--resume", "auto"]
    answer = fanlight(*words)
    assert answer.code == 0 and "no unfinished run of" in answer.out and "starting a new one" in answer.out
    runs = own_place / "runs"
    done = runs / "colours-scratch-cnn-1"
    assert tiny.summary(done)["status"] == "finished"
    for name, status, started in (
        ("a", "failed", "2026-01-01"),
        ("b", "stopped", "2026-01-02"),
        ("c", "finished", "2026-01-03"),
    ):
        shutil.copytree(done, runs / name)
        folder.update_summary(runs / name, status=status, started=started)
        shutil.rmtree(runs / name / "weights")
    shutil.copytree(runs / "b", runs / "other data")
    changed = tiny.summary(runs / "other data")["data"] | {"path": "elsewhere"}
    folder.update_summary(runs / "other data", data=changed, started="2026-01-04")
    answer = fanlight(*words)
    assert answer.code == 0 and f"Continuing {Path('runs/b')}" in answer.out
    assert tiny.weights(runs / "b") == tiny.weights(done)
    assert not (runs / "a" / "weights").exists()


def test_auto_with_out_is_about_that_folder(fanlight, colours, own_place):
    """What a job script runs again and again until it is done."""
    words = ["train", colours, *tiny.QUICK, "--out", "run", "--resume", "auto"]
    answer = fanlight(*words)
    assert answer.code == 0 and "in run; starting a new one" in answer.out
    answer = fanlight(*words)
    assert answer.code == 1 and "run has finished" in answer.err
    folder.update_summary(own_place / "run", status="stopped")
    assert fanlight(*words).code == 0


def test_a_finished_run_is_not_continued(finished, colours):
    with pytest.raises(RunError, match=r"has finished; there is nothing to continue. `fanlight evaluate"):
        tiny.train(colours, resume=finished)


def test_what_is_no_run_is_not_continued(colours, own_place):
    with pytest.raises(RunError, match=r"is not a run folder: it has no readable run\.json"):
        tiny.train(colours, resume=own_place)


def test_changed_data_is_refused_and_a_touched_file_is_not(own_place):
    data = tiny.make(own_place / "data")
    run = stopped_run(data, own_place / "run")
    file = data / "green" / "03.png"
    before = file.read_bytes()
    file.write_bytes((data / "red" / "03.png").read_bytes())
    with pytest.raises(RunError, match=r"1 file\(s\) of .* changed since .* began, first green/03.png; put them back"):
        tiny.train(data, resume=run)
    file.unlink()
    with pytest.raises(RunError, match=r"first green/03.png"):
        tiny.train(data, resume=run)
    file.write_bytes(before)  # another time of change, the same bytes
    tiny.train(data, resume=run)
    assert tiny.summary(run)["status"] == "finished"


def test_a_quarantined_file_may_change(own_place):
    data = tiny.make(own_place / "data")
    (data / "red" / "broken.png").write_bytes(b"no image")
    run = stopped_run(data, own_place / "run")
    (data / "red" / "broken.png").write_bytes(b"still no image")
    tiny.train(data, resume=run)
    assert tiny.summary(run)["status"] == "finished"


def test_a_lost_pack_is_made_again(colours, undisturbed, own_place):
    run = stopped_run(colours, own_place / "run", pack_dir=str(own_place / "packs"))
    shutil.rmtree(own_place / "packs")
    tiny.train(colours, resume=run)
    assert tiny.weights(run) == tiny.weights(undisturbed)


def test_a_run_of_another_version_is_refused(colours, own_place):
    run = stopped_run(colours, own_place / "run")
    document = tiny.summary(run) | {"version": 99}
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(
        RunError, match=r"another version of Fanlight \(run version 99, this one reads 1\); use the Fanlight"
    ):
        tiny.train(colours, resume=run)


def test_a_config_of_another_version_is_refused(colours, own_place):
    run = stopped_run(colours, own_place / "run")
    text = (run / "resolved.yaml").read_text()
    (run / "resolved.yaml").write_text(text.replace("version: 1", "version: 2", 1))
    with pytest.raises(ConfigError, match="version 2 of the config; this Fanlight reads version 1"):
        tiny.train(colours, resume=run)


def test_a_checkpoint_of_another_version_is_refused(colours, own_place):
    run = stopped_run(colours, own_place / "run")
    path = state.whole(run / "checkpoints")[-1] / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(
        RunError, match=r"step-00000008 has version 99; this Fanlight reads 1. Use the Fanlight that wrote it"
    ):
        tiny.train(colours, resume=run)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "torn state"])
def test_a_damaged_checkpoint_names_the_way_out(fanlight, colours, undisturbed, own_place, damage):
    run = stopped_run(colours, own_place / "run")
    newest = state.whole(run / "checkpoints")[-1]
    file = next(newest.glob("*.safetensors"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "garbage":
        file.write_bytes(b"\xff" * 5000)
    elif damage == "gone":
        file.unlink()
    else:
        (newest / "state.json").write_text('{"version": 1, "st')
    answer = fanlight("train", "--resume", run)
    assert answer.code == 1
    assert re.match(rf"Error: .*{newest.name} (holds|cannot be read|is no whole checkpoint|lacks) ", answer.err), (
        answer.err
    )
    assert answer.err.endswith("; delete it to use the one before\n") and "Traceback" not in answer.err
    assert tiny.summary(run)["status"] == "failed"
    shutil.rmtree(newest)
    assert fanlight("train", "--resume", run).code == 0
    assert tiny.weights(run) == tiny.weights(undisturbed)


def test_choices_are_made_once(monkeypatch, colours, own_place):
    run = stopped_run(colours, own_place / "run")
    before = (run / "resolved.yaml").read_text()

    def again(*_):
        raise AssertionError("a resumed run makes no choices")

    for name in ("sizes", "whole", "who"):
        monkeypatch.setattr(resolve, name, again)
    monkeypatch.setattr(resolve.machine, "cores_usable", lambda: 64)
    tiny.train(colours, resume=run)
    assert (run / "resolved.yaml").read_text() == before


def test_what_decides_the_numbers_cannot_change(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run")
    answer = fanlight("train", "--resume", run, "--epochs", 5)
    assert answer.code == 2
    assert "train.epochs is 2 in" in answer.err and "cannot become 5: it would be another run" in answer.err
    tiny.make(own_place / "other")
    answer = fanlight("train", own_place / "other", "--resume", run)
    assert answer.code == 2 and "data.path is" in answer.err
    before = (run / "resolved.yaml").read_text()
    answer = fanlight("train", colours, "--resume", run, *tiny.QUICK, "--model", "small-resnet")  # as it was started
    assert answer.code == 0, answer.err
    assert (run / "resolved.yaml").read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        ["--mixup", 0],
        ["--policy", "none"],
        ["--sampling", "epoch"],
        ["--augment"],
        ["--time-limit", "none"],
        ["--set", "train.seed=0"],
    ],
)
def test_a_default_that_is_asked_for_is_refused_as_any_other_value(fanlight, colours, own_place, words):
    asked = {"mixup": 0.2, "policy": "rand", "sampling": "balanced", "time_limit": "1e7h", "seed": 3}
    if words == ["--augment"]:
        asked = {"no_augment": True}
    run = stopped_run(colours, own_place / "run", **asked)
    answer = fanlight("train", "--resume", run, *words)
    assert answer.code == 2 and "it would be another run" in answer.err, answer


def test_who_computes_goes_back_to_what_it_was(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run", recompute=True, threads=2)
    prepare.take_changes(run, assemble("", recipe=None, config=None, flags={"execution.threads": 1}, values=[]))
    assert tiny.resolved(run)["execution"]["threads"] == 1
    answer = fanlight("train", "--resume", run, "--no-recompute", "--threads", 2)
    assert answer.code == 0, answer.err
    assert tiny.resolved(run)["execution"]["recompute"] is False
    assert tiny.resolved(run)["execution"]["threads"] == 2


def test_a_refused_change_does_not_stay(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run", model="scratch-cnn")
    before = [(run / name).read_text() for name in ("resolved.yaml", "run.json")]
    answer = fanlight("train", "--resume", run, "--recompute")
    assert answer.code == 2 and "ScratchCNN has no blocks that repeat" in answer.err, answer
    assert [(run / name).read_text() for name in ("resolved.yaml", "run.json")] == before
    assert fanlight("train", "--resume", run).code == 0


def test_nothing_is_measured_for_a_resumed_run(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run")
    answer = fanlight("train", "--resume", run, "--autotune")
    assert answer.code == 2
    assert "execution.autotune measures before the first step, and" in answer.err and "train anew" in answer.err


def test_ranks_that_cannot_share_the_batch_are_refused(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run")
    before = (run / "resolved.yaml").read_text()
    answer = fanlight("train", "--resume", run, "--ranks", 9)
    assert answer.code == 2 and "leaves a rank without an image" in answer.err
    assert (run / "resolved.yaml").read_text() == before
    assert tiny.summary(run)["status"] == "stopped"


def test_an_edited_resolved_yaml_is_refused(colours, own_place):
    run = stopped_run(colours, own_place / "run")
    text = (run / "resolved.yaml").read_text()
    (run / "resolved.yaml").write_text(text.replace("momentum: 0.9", "momentum: 0.5"))
    with pytest.raises(RunError, match=r"resolved.yaml was changed after step-00000008 was saved"):
        tiny.train(colours, resume=run)


def test_a_run_that_has_only_its_last_evaluation_left(monkeypatch, fanlight, colours, undisturbed, own_place):
    """Killed after the last checkpoint, before its step times were written: there is no rate to tell, and that is said."""

    with monkeypatch.context() as patch:
        patch.setattr(job, "_finish", lambda *_, **__: raise_crash())
        with pytest.raises(Crash):
            tiny.train(colours, out=own_place / "run", **OPTIONS)
    (own_place / "run" / "steps-rank0.parquet").unlink()
    answer = fanlight("train", "--resume", own_place / "run", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["images_per_s"] is None and document["input_wait_share"] is None
    assert document["metrics"] == tiny.summary(undisturbed)["metrics"]


def test_a_run_that_is_being_trained_is_not_continued(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run")
    before = (run / "resolved.yaml").read_bytes()
    with folder.locked(run):
        answer = fanlight("train", "--resume", run, "--threads", 2)
        assert answer.code == 1
        assert re.fullmatch(r"Error: .*run is being trained by process \d+ on .*; wait for it to end, .*\n", answer.err)
        assert (run / "resolved.yaml").read_bytes() == before


def test_empty_and_contradictory_words(fanlight, colours, own_place):
    answer = fanlight("train", colours, "--resume", "")
    assert (answer.code, answer.err) == (
        2, "Error: --resume is empty; name the run folder, or leave it out to start a new run\n"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="--resume is empty"):
        package.train(colours, resume="")
    run = stopped_run(colours, own_place / "run")
    answer = fanlight("train", "--resume", run, "--out", "other")
    assert answer.code == 2 and "continues in its own folder, and --out names other; leave one" in answer.err


def test_a_run_of_a_gpu_on_a_machine_without(monkeypatch, fanlight, colours, undisturbed, own_place):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = stopped_run(colours, own_place / "run")
    path = run / "resolved.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
    answer = fanlight("train", "--resume", run)
    assert answer.code == 2, answer
    assert answer.err == "Error: execution.device is 'cuda', and torch sees no GPU here; use --device cpu\n"
    assert fanlight("train", "--resume", run, "--device", "cpu", "--threads", 1).code == 0
    assert tiny.weights(run) == tiny.weights(undisturbed)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "resolved.yaml",
            lambda _: "",
            r"resolved\.yaml lacks model\.name, which every run has; put the file back, or",
        ),
        (
            "resolved.yaml",
            lambda text: text.replace("\n  epochs: ", "\n  epochs: null #"),
            r"resolved\.yaml lacks train\.epochs",
        ),
        (
            "manifest.parquet",
            lambda _: "PAR1",
            r"manifest\.parquet is not a manifest of Fanlight; put the file back, or",
        ),
        ("run.json", lambda _: '{"version": 1}', r"run\.json lacks status, which every run has; put the file back, or"),
    ],
)
def test_edited_and_damaged_run_files(fanlight, colours, own_place, file, change, message):
    run = stopped_run(colours, own_place / "run")
    path = run / file
    path.write_text(change(path.read_text(errors="replace")))
    answer = fanlight("train", "--resume", run)
    assert answer.code == 1 and re.search(message, answer.err), answer
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["step", "epoch", "best", "config"])
def test_a_checkpoint_without_a_fact_names_it(fanlight, colours, own_place, name):
    run = stopped_run(colours, own_place / "run")
    path = state.whole(run / "checkpoints")[-1] / "state.json"
    document = json.loads(path.read_text())
    del document[name]
    path.write_text(json.dumps(document))
    answer = fanlight("train", "--resume", run)
    assert answer.code == 1
    assert re.fullmatch(f"Error: .*step-00000008 lacks '{name}'; delete it to use the one before\n", answer.err)


def test_records_that_a_power_cut_spoilt(fanlight, colours, undisturbed, own_place):
    run = stopped_run(colours, own_place / "run")
    (run / "steps-rank0.parquet").write_bytes(b"")
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"[1]\n{}\n\xff\0\n")
    answer = fanlight("train", "--resume", run)
    assert answer.code == 0, answer
    assert "Warning: step times of earlier starts are lost" in answer.err
    assert tiny.weights(run) == tiny.weights(undisturbed)
    assert tiny.metrics(run, "train")


def test_an_edited_run_is_passed_over_by_auto(fanlight, colours, own_place):
    (own_place / "runs" / "edited").mkdir(parents=True)
    (own_place / "runs" / "edited" / "run.json").write_text('{"version": 1}')
    answer = fanlight("train", colours, "--resume", "auto", *tiny.QUICK)
    assert answer.code == 0 and "no unfinished run" in answer.out


def test_data_that_vanished_is_refused_before_training(own_place):
    data = tiny.make(own_place / "data")
    run = stopped_run(data, own_place / "run", pack=False)
    shutil.rmtree(data)
    with pytest.raises((DataError, RunError), match=r"60 file\(s\) of"):
        tiny.train(data, resume=run)
