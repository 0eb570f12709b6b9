"""Whole runs: what their folder holds, on one rank and on two; memory and disks that are not enough."""

import errno
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fanlight.errors import ConfigError, DiskError, Stopped, TrainingError
from fanlight.tasks import calibration
from fanlight.train import build, export, finish, folder, job, journal
from fanlight.train.step import WholeStep
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

FILES = {
    ".lock",
    "config.yaml", "resolved.yaml", "env.json", "manifest.parquet", "metrics.jsonl", "steps-rank0.parquet",
    "predictions.parquet", "weights", "checkpoints", "run.json",
}  # fmt: skip
# The design's table for `train --json`.
KEYS = {
    "run", "task", "model", "layout", "ranks", "precision", "epochs", "steps", "batch_size", "microbatches", "metrics",
    "wall_s", "train_s", "images_per_s", "input_wait_share", "peak_rss_bytes", "sent_bytes", "energy",
}  # fmt: skip
# One rank's sums are added up in another order than two ranks'; measured 2e-9 over the 12 steps of such a run.
LOSS_RTOL = 1e-5


def test_a_run_folder_is_complete(finished, colours):
    assert {path.name for path in finished.iterdir()} - {"tensorboard"} == FILES
    assert {path.name for path in (finished / "weights").iterdir()} == {"last.safetensors", "best.safetensors"}
    summary = tiny.summary(finished)
    assert summary.keys() >= KEYS | {"version", "status", "command", "started", "notes", "phases", "data", "best"}
    assert (summary["status"], summary["task"], summary["layout"], summary["ranks"]) == (
        "finished",
        "classify",
        "serial",
        1,
    )
    assert (summary["steps"], summary["epochs"], summary["batch_size"]) == (18, 3, 8)
    assert summary["data"]["splits"] == {"train": 48, "val": 12}
    assert summary["data"]["classes"] == list(tiny.CLASSES)
    assert summary["images_per_s"] > 0 and 0 <= summary["input_wait_share"] <= 1
    assert 50e6 < summary["peak_rss_bytes"] < 50e9
    assert summary["train_s"] <= summary["wall_s"]
    environment = json.loads((finished / "env.json").read_text())
    assert environment["versions"]["torch"] == metadata.version("torch")
    assert {"cpu", "cores_usable", "memory_bytes", "threads", "ranks", "command", "device"} <= environment.keys()


def test_accuracy_is_that_of_the_rows(finished):
    val = tiny.summary(finished)["metrics"]["val"]
    rows = pq.read_table(finished / "predictions.parquet").to_pylist()
    assert len(rows) == val["count"] == 12
    assert {row["split"] for row in rows} == {"val"}
    assert sum(row["correct"] for row in rows) == val["correct"]
    assert val["accuracy"] == val["correct"] / 12 >= 0.9  # colours are learned in no time
    assert all((row["predicted"] == row["label"]) == row["correct"] for row in rows)
    assert val["loss"] == pytest.approx(np.mean([row["loss"] for row in rows]), rel=1e-6)
    manifest = folder.read_manifest(finished)
    assert {row["path"] for row in rows} == {str(manifest.column("path")[row]) for row in manifest.rows("val")}


def test_the_temperature_is_fitted_on_validation_and_kept_with_the_weights(own_place):
    """Classes that overlap, so that not every image is right."""
    data = tiny.make(own_place / "data", classes=("a", "b", "c", "d"), per_class=30)  # a and d look the same
    run = tiny.train(data, out=own_place / "run", epochs=3)
    found = tiny.summary(run)["calibration"]
    outputs = calibration.outputs(pq.read_table(run / "predictions.parquet"), split="val")
    assert (found["temperature"], found["reason"]) == calibration.fit(outputs)
    assert 0.05 < found["temperature"] < 1  # few steps with label smoothing: right more often than told
    val = found["splits"]["val"]
    assert (
        val["cross_fitted"]
        and val["count"] == tiny.summary(run)["data"]["splits"]["val"]
        and val["ece_calibrated"] < val["ece"]
    )
    about, _ = export.load_weights(run / "weights" / "last.safetensors")
    assert about["temperature"] == found["temperature"]
    best, _ = export.load_weights(run / "weights" / "best.safetensors")
    assert 0.05 < best["temperature"] < 20


def test_metrics_have_one_line_per_epoch_and_per_evaluation(finished):
    training = tiny.metrics(finished, "train")
    assert [(record["epoch"], record["step"]) for record in training] == [(1, 6), (2, 12), (3, 18)]
    assert all(
        record.keys() >= {"loss", "accuracy", "lr", "images_per_s", "input_wait_share", "seconds_in"}
        for record in training
    )
    assert training[-1]["loss"] < training[0]["loss"]
    evaluations = tiny.metrics(finished, "evaluate")
    assert [(record["epoch"], record["step"], record["split"]) for record in evaluations] == [
        (1, 6, "val"), (2, 12, "val"), (3, 18, "val")
    ]  # fmt: skip
    assert evaluations[-1]["accuracy"] == tiny.summary(finished)["metrics"]["val"]["accuracy"]
    best = max(record["accuracy"] for record in evaluations)
    first = next(record["epoch"] for record in evaluations if record["accuracy"] == best)
    assert tiny.summary(finished)["best"] == {"epoch": first, "accuracy": best}


def test_steps_are_timed(finished):
    rows = pq.read_table(finished / "steps-rank0.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert [row["images"] for row in rows] == [8] * 18
    for row in rows:
        parts = sum(row[f"{part}_s"] for part in ("input", "copy", "forward", "backward", "communication", "optimizer"))
        assert 0 < parts <= row["total_s"] * 1.001


def test_resolved_yaml_has_every_choice_and_reasons_for_the_automatic_ones(finished):
    document = tiny.resolved(finished)
    assert document["execution"]["layout"] == "serial" and document["execution"]["ranks"] == 1
    assert (document["data"]["image_px"], document["model"]["name"]) == (16, "scratch-cnn")
    reasons = document["reasons"]
    assert "median short side is 16 px" in reasons["data.image_px"]
    assert "square root of batch 8" in reasons["optim.lr"]
    assert "model.name" not in reasons and "train.epochs" not in reasons  # were asked for
    undecided = {
        f"{section}.{name}"
        for section, fields in document.items()
        if isinstance(fields, dict) and section != "reasons"
        for name, value in fields.items()
        if value is None
    }
    assert undecided == {
        "data.folds",
        "data.group_by",
        "data.limit",
        "model.weights",
        "execution.pack_dir",
        "execution.checkpoint_steps",
        "optim.class_weights",
        "train.ema",
        "train.patience",
        "execution.autotune",
        "train.time_limit_s",
        "data.image_px_start",
        "caption.longest",
        "caption.min_count",
        "caption.per_image",
        "caption.window",
        *("execution.pipeline_schedule", "execution.stages_per_rank", "execution.split_at", "execution.bucket_mb"),
        "execution.backend",
        *("train.compress_gradients", "train.sync_every", "optim.outer_lr", "optim.outer_momentum"),
        "optim.unfrozen_lr_scale",
        "execution.cache_features",
    }
    asked = folder.configuration.read(finished / "config.yaml")
    assert asked.optim.lr is None and asked.model.name == "scratch-cnn"


def test_two_ranks_are_the_same_run(quick_ranks, colours, own_place):
    options = {"model": "small-resnet", "microbatches": 2, "execution__eval_batch": 5}
    serial = tiny.train(colours, out=own_place / "serial", **options)
    double = tiny.train(colours, out=own_place / "double", ranks=2, **options)
    for one, other in zip(tiny.metrics(serial), tiny.metrics(double), strict=True):
        assert {name: one[name] for name in ("kind", "epoch", "step")} == {
            name: other[name] for name in ("kind", "epoch", "step")
        }
        assert other["loss"] == pytest.approx(one["loss"], rel=LOSS_RTOL)
    summary = tiny.summary(double)
    assert (summary["layout"], summary["ranks"]) == ("ddp", 2)
    assert summary["metrics"]["val"]["correct"] == tiny.summary(serial)["metrics"]["val"]["correct"]
    tables = [pq.read_table(run / "predictions.parquet") for run in (serial, double)]
    for name in ("sample", "path", "label", "predicted"):
        assert tables[0][name].to_pylist() == tables[1][name].to_pylist()
    for rank in (0, 1):  # each took half of every batch
        rows = pq.read_table(double / f"steps-rank{rank}.parquet").to_pylist()
        assert [row["images"] for row in rows] == [4] * 12
    assert sum(row["communication_s"] for row in rows) > 0
    assert not (double / "steps-rank2.parquet").exists()


def test_evaluation_of_a_test_split_says_how_far_val_is_off(own_place, capsys):
    data = own_place / "data"
    tiny.make(data / "train")
    tiny.make(data / "test", per_class=5, seed=1)
    run = tiny.train(data, out=own_place / "run")
    assert set(tiny.summary(run)["metrics"]) == {"val", "test"}
    assert [record["split"] for record in tiny.metrics(run, "evaluate")] == ["val", "val", "test"]
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["val"] * 12 + ["test"] * 15


def limit_rows(monkeypatch, most: int) -> None:
    """A device on which microbatches of more than `most` rows do not fit."""
    inner = WholeStep._gradients

    def gradients(self, batch, rows, loss_scale, clock):
        if len(rows.samples) > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried {len(rows.samples)} rows\nmore lines")
        return inner(self, batch, rows, loss_scale, clock)

    monkeypatch.setattr(WholeStep, "_gradients", gradients)


def test_out_of_memory_doubles_the_microbatches(monkeypatch, colours, own_place, capsys):
    asked = tiny.train(colours, out=own_place / "asked", microbatches=4)
    limit_rows(monkeypatch, 2)
    run = tiny.train(colours, out=own_place / "run")
    summary = tiny.summary(run)
    assert (summary["status"], summary["batch_size"], summary["microbatches"]) == ("finished", 8, 4)
    assert tiny.resolved(run)["train"]["microbatches"] == 4
    assert "memory ran out" in tiny.resolved(run)["reasons"]["train.microbatches"]
    assert tiny.weights(run) == tiny.weights(asked)
    warnings = capsys.readouterr().err
    assert "out of memory with 8 images per microbatch" in warnings
    assert "Continuing with 2 microbatches" in warnings and "Continuing with 4 microbatches" in warnings
    assert "more lines" not in warnings


def test_out_of_memory_later_continues_from_the_checkpoint(monkeypatch, colours, own_place, capsys):
    """A checkpoint that was saved with fewer microbatches is taken."""
    inner, calls = WholeStep._gradients, []

    def gradients(self, batch, rows, loss_scale, clock):
        calls.append(len(rows.samples))
        if len(calls) == 6:
            raise MemoryError("cannot allocate memory")
        return inner(self, batch, rows, loss_scale, clock)

    monkeypatch.setattr(WholeStep, "_gradients", gradients)
    run = tiny.train(colours, out=own_place / "run", execution__checkpoint_steps=4)
    assert calls[:6] == [8] * 6 and calls[6:] == [4] * 16  # steps 5 to 12, in two parts each
    assert tiny.summary(run)["microbatches"] == 2
    assert [record["step"] for record in tiny.metrics(run, "train")] == [6, 12]


def test_out_of_memory_with_one_row_is_an_error(monkeypatch, colours, own_place, capsys):
    limit_rows(monkeypatch, 0)
    with pytest.raises(
        TrainingError, match=r"out of memory with one image per microbatch and rank .* smaller --image-size"
    ):
        tiny.train(colours, out=own_place / "run", batch_size=2)
    assert tiny.summary(own_place / "run")["status"] == "failed"
    assert tiny.summary(own_place / "run")["microbatches"] == 2


def test_out_of_memory_with_one_pair_is_an_error_where_pairs_are_mixed(monkeypatch, colours, own_place):
    limit_rows(monkeypatch, 0)
    with pytest.raises(TrainingError, match="out of memory with one pair of images per microbatch and rank"):
        tiny.train(colours, out=own_place / "run", batch_size=4, mixup=0.2)
    assert tiny.summary(own_place / "run")["microbatches"] == 2


def test_a_full_disk_is_an_error_with_a_way_out(monkeypatch, colours, own_place):
    def save(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.state, "save_file", save)
    with pytest.raises(
        DiskError, match=r"the disk of .* is full; make room, and continue with: fanlight train --resume"
    ):
        tiny.train(colours, out=own_place / "run")
    assert tiny.summary(own_place / "run")["status"] == "failed"


def test_a_bug_keeps_its_traceback_and_the_run_is_marked(monkeypatch, colours, own_place):
    monkeypatch.setattr(job.export, "save_weights", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny.train(colours, out=own_place / "run")
    summary = tiny.summary(own_place / "run")
    assert summary["status"] == "failed"
    assert summary["notes"] == ["failed: division by zero"]


def test_status_is_running_while_it_runs_again(monkeypatch, colours, own_place):
    seen = []

    def rank_main(*_, **__):
        seen.append(tiny.summary(own_place / "run")["status"])
        raise Stopped("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(job, "rank_main", rank_main)
        with pytest.raises(Stopped):
            tiny.train(colours, out=own_place / "run")
        assert tiny.summary(own_place / "run")["status"] == "stopped"
        with pytest.raises(Stopped):
            tiny.train(colours, resume=own_place / "run")
    assert seen == ["running", "running"]
    tiny.train(colours, resume=own_place / "run")
    assert tiny.summary(own_place / "run")["status"] == "finished"


def test_ctrl_c_outside_the_loop_leaves_a_stopped_run(monkeypatch, colours, own_place):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "create_model", interrupted)
    with pytest.raises(Stopped, match=r"stopped at once; continue with: fanlight train --resume .*run"):
        tiny.train(colours, out=own_place / "run")
    assert tiny.summary(own_place / "run")["status"] == "stopped"


def test_a_config_that_cannot_work_leaves_no_folder(colours, own_place):
    with pytest.raises(ConfigError, match="scratch-cnn takes images of 8 px and more"):
        tiny.train(colours, out=own_place / "run", image_size=4)
    assert not (own_place / "run").exists()


def test_weights_start_from_a_file(finished, colours, own_place):
    run = tiny.train(colours, out=own_place / "run", epochs=1, weights=str(finished / "weights" / "last.safetensors"))
    assert tiny.metrics(run, "train")[0]["loss"] < tiny.metrics(finished, "train")[0]["loss"]
    assert "last.safetensors" in tiny.summary(run)["notes"][0]


def test_without_a_pack_the_pixels_are_the_same(colours, own_place):
    packed = tiny.train(colours, out=own_place / "packed")
    direct = tiny.train(colours, out=own_place / "direct", pack=False)
    assert tiny.weights(packed) == tiny.weights(direct)


def test_tensorboard_gets_one_closed_file_per_start(finished):
    pytest.importorskip("tensorboard")
    files = list((finished / "tensorboard").iterdir())
    assert len(files) == 1 and files[0].stat().st_size > 500


def test_train_keys_are_those_promised(finished):
    assert set(finish.KEYS) == KEYS


@pytest.mark.slow
def test_ranks_that_torchrun_started(colours, own_place, cache_folder):
    words = ["train", str(colours), "--out", str(own_place / "run"), "--json", *tiny.QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fanlight", *words],
        env={**os.environ, "FANLIGHT_CACHE": str(cache_folder)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["ranks"], document["layout"], Path(document["run"]).name) == (2, "ddp", "run")
    assert tiny.summary(own_place / "run")["status"] == "finished"
