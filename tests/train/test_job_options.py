"""Whole runs with averaged weights, patience, spoiled gradients, weighed and drawn classes, recomputation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from fanlight import cli
from fanlight.train import folder, state
from fanlight.train.step import WholeStep
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / "weights" / f"{name}.safetensors")


def test_averaged_weights_are_scored_and_exported(fanlight, colours, own_place):
    """At a rate that moves them far from the weights themselves."""
    options = {"model": "small-resnet", "ema": 0.99, "optim__lr": 0.02}
    run = tiny.train(colours, out=own_place / "run", **options)
    plain = tiny.train(colours, out=own_place / "plain", **(options | {"ema": None}))
    checkpoint, _ = state.load(state.whole(run / "checkpoints")[-1])
    found = tensors(run)
    assert {f"ema.{name}" for name in found if "num_batches" not in name} == {
        key for key in checkpoint if key.startswith("ema.")
    }
    for name, value in found.items():
        assert torch.equal(value, checkpoint.get(f"ema.{name}", checkpoint[f"model.{name}"])), name
        assert torch.equal(tensors(plain)[name], checkpoint[f"model.{name}"]), name  # training does not know of it
    assert tiny.metrics(run, "train")[-1]["loss"] == tiny.metrics(plain, "train")[-1]["loss"]
    losses = [tiny.summary(each)["metrics"]["val"]["loss"] for each in (run, plain)]
    assert losses[0] != losses[1]
    answer = fanlight("evaluate", run, "--json")
    assert json.loads(answer.out)["loss"] == losses[0]
    best = tiny.summary(run)["best"]
    scored = [record for record in tiny.metrics(run, "evaluate") if record["epoch"] == best["epoch"]]
    assert json.loads(fanlight("evaluate", run, "--best", "--json").out)["accuracy"] == scored[0]["accuracy"]


def test_patience_ends_a_run_that_gets_no_better(fanlight, colours, own_place):
    words = [*tiny.QUICK, "--epochs", 9, "--lr", 1e-9, "--patience", 2, "--out", "run", "--json"]
    answer = fanlight("train", colours, *words)
    assert answer.code == 0, answer.err
    summary, document = tiny.summary(own_place / "run"), json.loads(answer.out)
    assert (summary["status"], summary["epochs"], summary["steps"]) == ("finished", 3, 18)
    assert (document["epochs"], document["steps"]) == (3, 18)
    accuracy = summary["best"]["accuracy"]
    (note,) = summary["notes"]
    assert note == (
        f"stopped early after epoch 3 of 9: in 2 evaluations accuracy on val did not rise above the {accuracy:.4f} of "
        "epoch 1 (--patience)"
    )
    assert note in answer.err
    assert [(record["epoch"], record["split"]) for record in tiny.metrics(own_place / "run", "evaluate")] == [
        (1, "val"), (2, "val"), (3, "val")
    ]  # fmt: skip
    assert summary["metrics"]["val"]["accuracy"] == accuracy
    assert {path.name for path in (own_place / "run" / "weights").iterdir()} == {"last.safetensors", "best.safetensors"}
    assert note in cli.write_report(own_place / "run").read_text()


def test_patience_that_is_never_out_changes_nothing(colours, finished, own_place):
    run = tiny.train(colours, out=own_place / "run", epochs=3, patience=1_000)
    assert tiny.weights(run) == tiny.weights(finished)
    assert tiny.summary(run)["notes"] == tiny.summary(finished)["notes"] == []
    run = tiny.train(colours, out=own_place / "last", epochs=2, patience=1, optim__lr=1e-9)
    assert tiny.summary(run)["epochs"] == 2 and tiny.summary(run)["notes"] == []  # no step was left to save


def test_every_rank_stops_when_the_first_is_out_of_patience(quick_ranks, colours, own_place):
    run = tiny.train(colours, out=own_place / "run", ranks=2, epochs=9, patience=2, ema=0.9, optim__lr=1e-9)
    assert (tiny.summary(run)["status"], tiny.summary(run)["epochs"]) == ("finished", 3)
    assert len(pq.read_table(run / "steps-rank1.parquet")) == 18


@pytest.mark.parametrize("clip", [1.0, None])
def test_spoiled_gradients_end_the_run_before_anything_is_saved(monkeypatch, fanlight, colours, own_place, clip):
    """The loss of that step is a number, and a checkpoint is due after it."""
    inner, calls = WholeStep.__call__, []

    def step(self, *arguments, **options):
        sums = inner(self, *arguments, **options)
        calls.append(sums)
        if len(calls) == 4:
            next(self.parts[0].parameters()).grad[0] = float("nan")
        return sums

    monkeypatch.setattr(WholeStep, "__call__", step)
    settings = ["--set", "execution.checkpoint_steps=1", "--set", f"optim.clip_norm={clip}", "--ema", 0.9]
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", *settings)
    assert answer.code == 1
    assert "Error: the gradient's norm is nan at step 4, where the loss is " in answer.err
    newest = state.whole(own_place / "run" / "checkpoints")[-1]
    assert newest.name == "step-00000003"
    kept, _ = state.load(newest)
    assert all(torch.isfinite(value).all() for value in kept.values())
    monkeypatch.setattr(WholeStep, "__call__", inner)
    assert fanlight("train", "--resume", "run").code == 0  # and goes on from there
    assert tiny.summary(own_place / "run")["status"] == "finished"


def test_the_logged_loss_of_weighed_classes_is_their_mean(monkeypatch, colours, own_place):
    """Every class at the same weight: the same run, whatever the weight; at others, the mean by them."""
    sums, weights = [], []
    inner = WholeStep.__call__

    def step(self, batch, **options):
        found = inner(self, batch, **options)
        sums.append(float(found[0]))
        weights.append(batch.denominator)
        return found

    monkeypatch.setattr(WholeStep, "__call__", step)
    run = tiny.train(colours, out=own_place / "run", class_weights="blue=3,red=0.5", epochs=1)
    assert len({*weights}) > 1
    assert tiny.metrics(run, "train")[0]["loss"] == pytest.approx(sum(sums) / sum(weights), rel=1e-12)
    assert tiny.summary(run)["notes"] == ["weights of the classes in the training loss: blue 3, green 1, red 0.5"]
    monkeypatch.setattr(WholeStep, "__call__", inner)
    doubled = tiny.train(colours, out=own_place / "doubled", class_weights="blue=2,green=2,red=2", epochs=1)
    plain = tiny.train(colours, out=own_place / "plain", epochs=1)
    losses = [tiny.metrics(each, "train")[0]["loss"] for each in (doubled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_balanced_draws_make_a_rare_class_common(own_place):
    data = tiny.make(own_place / "data", per_class=20)
    for path in sorted((data / "red").iterdir())[5:]:
        path.unlink()
    seen: list[np.ndarray] = []
    inner = WholeStep.__call__

    def step(self, batch, **options):
        seen.extend(rows.targets.numpy() for rows in batch.parts)
        return inner(self, batch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeStep, "__call__", step)
        run = tiny.train(data, out=own_place / "run", sampling="balanced", epochs=2, batch_size=4)
    assert tiny.summary(run)["data"]["splits"]["train"] == 36
    counts = np.bincount(np.concatenate(seen))
    assert counts.tolist() == [24, 24, 24]


def test_a_list_s_weights_decide_who_is_drawn(fanlight, own_place):
    data = tiny.make(own_place / "data", per_class=8)
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    rows = [f"{path},{path.split('/')[0]},{'train' if '0.' not in path else 'val'}" for path in paths]
    weights = ["0" if "7." in path else "2.5" for path in paths]
    lines = ["path,label,split,weight", *(f"{row},{weight}" for row, weight in zip(rows, weights))]
    (data / "list.csv").write_text("\n".join(lines))
    seen: list[np.ndarray] = []
    inner = WholeStep.__call__

    def step(self, batch, **options):
        seen.extend(part.samples for part in batch.parts)
        return inner(self, batch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeStep, "__call__", step)
        answer = fanlight(
            "train", "data/list.csv", *tiny.QUICK, "--batch-size", 7, "--sampling", "weighted", "--out", "run"
        )
    assert answer.code == 0, answer.err
    manifest = folder.read_manifest(own_place / "run")
    drawn = manifest.column("path")[manifest.rows("train")[np.concatenate(seen)]]
    assert not any("7." in path for path in drawn)
    assert set(drawn) == {path for path in paths if "7." not in path and "0." not in path}
    (data / "list.csv").write_text("\n".join(lines).replace("01.png,blue,train,2.5", "01.png,blue,train,-2.5"))
    answer = fanlight("train", "data/list.csv", *tiny.QUICK, "--sampling", "weighted", "--out", "other")
    assert answer.code == 3 and "list file list.csv, row of blue/01.png: weight is '-2.5'; give every" in answer.err
    assert not (own_place / "other").exists()


def test_recomputing_changes_no_bit_of_a_run(colours, own_place):
    options = {"model": "small-resnet", "epochs": 1}
    runs = [tiny.train(colours, out=own_place / str(again), recompute=again, **options) for again in (False, True)]
    assert tiny.weights(runs[0]) == tiny.weights(runs[1])
    assert [tiny.resolved(run)["execution"]["recompute"] for run in runs] == [False, True]


def test_recomputed_blocks_are_not_compiled(fanlight, colours, own_place):
    words = ["--model", "small-resnet", "--recompute", "--compile", "--out", "run"]
    answer = fanlight("train", colours, *tiny.QUICK, *words)
    assert answer.code == 2 and "leave out --compile or --recompute" in answer.err
    assert not (own_place / "run").exists()


def test_a_network_without_blocks_is_not_recomputed(fanlight, colours, own_place):
    answer = fanlight("train", colours, *tiny.QUICK, "--recompute", "--out", "run")
    assert answer.code == 2 and "ScratchCNN has no blocks that repeat" in answer.err
    assert not (own_place / "run").exists()


def test_data_is_scanned_and_packed_without_torch(colours, own_place):
    """It is imported meanwhile; one import too many would make everything wait for it."""
    code = (
        "import sys\nfrom fanlight.config import Config\nfrom fanlight.train import finish, prepare\n"
        "found = prepare.gather(Config().with_values({'data.path': sys.argv[1], 'execution.device': 'cpu'}))\n"
        "assert found.choices.config.data.canvas_px and found.choices.config.execution.pack is None\n"
        "print(sorted({'torch', 'timm', 'pandas', 'sklearn'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "FANLIGHT_CACHE": str(own_place / "cache")}
    done = subprocess.run([sys.executable, "-c", code, colours], env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines()[-1] == "[]"
    assert list((own_place / "cache" / "packs").glob("*/pack.json"))
