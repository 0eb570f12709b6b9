"""What `--resume` finds, what it may change, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest

import fanlight as package
from fanlight.errors import ConfigError, DataError, RunError, TrainingError
from fanlight.recipes import assemble
from fanlight.train import folder, job, prepare, resolve, state
from train import colours as tiny
from train.stopping import OPTIONS, Crash, raise_crash, stopped_run

pytest_plugins = ["train.fixtures", "train.undisturbed"]
pytestmark = pytest.mark.usefixtures("own_place")


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
        RunError, match=r"step-00000008 has version 99; this Fanlight reads 2. Use the Fanlight that wrote it"
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
    assert re.match(rf"Error: .*{newest.name} (cannot be read|is no whole checkpoint|lacks)", answer.err), answer.err
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
    run = stopped_run(colours, own_place / "run", recompute=True, threads=1)
    prepare.take_changes(run, assemble("", recipe=None, config=None, flags={"execution.threads": 2}, values=[]))
    assert tiny.resolved(run)["execution"]["threads"] == 2
    answer = fanlight("train", "--resume", run, "--no-recompute", "--threads", 1)
    assert answer.code == 0, answer.err
    assert tiny.resolved(run)["execution"]["recompute"] is False
    assert tiny.resolved(run)["execution"]["threads"] == 1


def test_a_refused_change_does_not_stay(fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run", model="scratch-cnn")
    before = [(run / name).read_text() for name in ("resolved.yaml", "run.json")]
    answer = fanlight("train", "--resume", run, "--recompute")
    assert answer.code == 2 and "ScratchCNN has no blocks that repeat" in answer.err, answer
    assert [(run / name).read_text() for name in ("resolved.yaml", "run.json")] == before
    assert fanlight("train", "--resume", run).code == 0


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_change_does_not_stay_where_the_checkpoint_cannot_be_read(quick_ranks, fanlight, colours, own_place, damage):
    run = stopped_run(colours, own_place / "run")
    before, summary = (run / "resolved.yaml").read_bytes(), tiny.summary(run)
    file = next(state.whole(run / "checkpoints")[-1].glob("*.safetensors"))
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"\xff" * file.stat().st_size)
    answer = fanlight("train", "--resume", run, "--layout", "fsdp", "--ranks", 2)
    assert answer.code == 1 and "cannot be read" in answer.err and "Traceback" not in answer.err, answer
    assert (run / "resolved.yaml").read_bytes() == before
    now = tiny.summary(run)
    assert (now["layout"], now["ranks"]) == (summary["layout"], summary["ranks"]) == ("serial", 1)
    assert now["status"] == "failed" and "cannot be read" in now["notes"][-1]  # what became of it is told


def test_a_change_stays_where_steps_were_done_with_it(monkeypatch, fanlight, colours, own_place):
    run = stopped_run(colours, own_place / "run", threads=1)

    def fail() -> None:
        raise TrainingError("something broke")

    with monkeypatch.context() as patch:
        tiny.before_update(patch, 2, fail)
        answer = fanlight("train", "--resume", run, "--recompute")
    assert answer.code == 1 and "something broke" in answer.err
    assert tiny.resolved(run)["execution"]["recompute"] is True


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
