"""The command line, in this process: what is printed where, which setting wins, exit codes."""

import inspect
import json
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from fanlight import cli, config
from fanlight.config import Config
from fanlight.data.manifest import load as load_manifest
from fanlight.errors import ConfigError, DataError, RunError, Stopped, TrainingError
from fanlight.train import finish, folder
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

COMMANDS = {"check", "pack", "study", "train", "evaluate", "predict", "report", "runs", "cache"}


def printed_config(fanlight, *words) -> Config:
    answer = fanlight("train", *words, "--print-config")
    assert answer.code == 0, answer.err
    return config.from_document(yaml.safe_load(answer.out), where="stdout")


def test_help_names_every_command(fanlight):
    answer = fanlight("--help")
    assert answer.code == 0
    assert {line.split()[0] for line in answer.out.splitlines() if line.startswith("  ")} >= COMMANDS


def test_every_flag_is_a_config_key_and_has_help(fanlight):
    assert set(cli.FLAGS.values()) <= set(config.keys())
    assert cli.FLAGS.keys() <= inspect.signature(cli.train).parameters.keys()
    text = fanlight("train", "--help").out
    for name in cli.FLAGS:
        assert f"--{name.replace('_', '-')} " in text, name
    assert "global: over all ranks together" in " ".join(text.split())


def test_every_flag_reaches_its_key(fanlight):
    asked = {
        "model": "lenet5", "epochs": 3, "batch_size": 24, "lr": 0.125, "microbatches": 2, "image_size": 40,
        "layout": "ddp", "ranks": 2, "device": "cpu", "precision": "bf16", "workers": 3, "threads": 2, "limit": 30,
        "val_fraction": 0.25, "folds": 4, "fold": 1, "seed": 5, "weights": "w.pt", "pretrained": True, "freeze": True,
        "optimizer": "adamw", "schedule": "onecycle", "class_weights": "balanced", "sampling": "weighted", "ema": 0.75,
        "patience": 4, "flip": False, "pack": False, "pack_dir": "p", "report": False,
        "policy": "rand", "jitter": "0.4,0.3,0.2,0.1", "erase": 0.25, "mixup": 0.2, "cutmix": 1.0, "no_augment": True,
        "compile": True, "autotune": False, "time_limit": "90s",
        "cache_features": True, "freeze_epochs": 2, "recompute": True, "image_size_start": 32,
        "pipeline_schedule": "gpipe", "stages_per_rank": 2, "split_at": "layer1", "sync_every": 4,
        "audit": "exact", "group_by": "a(b)", "min_count": 3, "beams": 5,
    }  # fmt: skip
    assert asked.keys() == cli.FLAGS.keys()
    printed = printed_config(fanlight, "photos", *tiny.flags(asked))
    keys = {cli.FLAGS[name]: value for name, value in asked.items()}
    assert printed == Config().with_values(keys | {"data.path": "photos"})


def test_the_later_source_wins(fanlight, own_place):
    """Defaults < recipe < --config < flags < --set; also where a value is the default again."""
    (own_place / "recipe.yaml").write_text(
        "train: {epochs: 7, batch_size: 7}\noptim: {momentum: 0.5, beta2: 0.5, clip_norm: 2, lr: 0.5}\n"
    )
    (own_place / "config.yaml").write_text(
        "train: {batch_size: 8}\noptim: {momentum: 0.9, clip_norm: 1, weight_decay: 0.1}"
    )
    words = ["--recipe", "recipe.yaml", "--config", "config.yaml", "--lr", "0.25", "--set", "optim.beta2=0.75"]
    words += ["--set", "train.precision=auto", "--precision", "fp32"]
    printed = printed_config(fanlight, "photos", *words)
    assert printed.train.epochs == 7  # of the recipe
    assert (printed.train.batch_size, printed.optim.weight_decay) == (8, 0.1)  # of the file
    assert (printed.optim.momentum, printed.optim.clip_norm) == (0.9, 1.0)  # of the file, the default again
    assert printed.optim.lr == 0.25  # of the flag, over the recipe
    assert printed.optim.beta2 == 0.75 and printed.train.precision is None  # of --set, over all
    assert printed.optim.schedule == "cosine" and printed.data.path == "photos"


def test_options_that_collect_are_given_often(fanlight):
    printed = printed_config(fanlight, "photos", "--set", "optim.momentum=0.5", "--set", "optim.beta2=0.75")
    assert (printed.optim.momentum, printed.optim.beta2) == (0.5, 0.75)
    assert (
        "given 2 times"
        not in fanlight("train", "p", "--print-config", *2 * ["--set", "optim.beta2=0.75"], "--print-config").err
    )


def test_a_flag_takes_the_place_of_nothing_when_not_given(fanlight, own_place):
    (own_place / "config.yaml").write_text("augment: {flip: true}\nmodel: {pretrained: true}\nexecution: {pack: false}")
    printed = printed_config(fanlight, "--config", "config.yaml")
    assert (printed.augment.flip, printed.model.pretrained, printed.execution.pack) == (True, True, False)
    printed = printed_config(fanlight, "--config", "config.yaml", "--no-flip", "--no-pretrained", "--pack")
    assert (printed.augment.flip, printed.model.pretrained, printed.execution.pack) == (False, False, True)


def test_the_data_may_come_from_a_file(fanlight, colours, own_place):
    (own_place / "config.yaml").write_text(f"data: {{path: {colours}}}")
    answer = fanlight("train", "--config", "config.yaml", *tiny.QUICK, "--out", "run")
    assert answer.code == 0, answer.err
    assert tiny.summary(own_place / "run")["data"]["path"] == str(colours)


def test_print_config_as_json(fanlight):
    answer = fanlight("train", "photos", "--epochs", 3, "--print-config", "--json")
    assert answer.code == 0
    document = json.loads(answer.out)
    assert document == Config().with_values({"data.path": "photos", "train.epochs": 3}).document()
    assert yaml.safe_load(answer.err) == document


def test_a_printed_config_can_be_given_back(fanlight, own_place):
    words = ["photos", "--epochs", 3, "--flip", "--set", "augment.crop_share=0.5,1"]
    text = fanlight("train", *words, "--print-config").out
    (own_place / "config.yaml").write_text(text)
    assert fanlight("train", "--config", "config.yaml", "--print-config").out == text


def test_train_prints_one_object(fanlight, colours, own_place):
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", "--json")
    assert answer.code == 0
    document = json.loads(answer.out)
    assert answer.out.count("\n") == 1
    assert list(document) == list(finish.KEYS)
    assert document["run"] == "run" and document["metrics"]["val"]["accuracy"] >= 0.9
    assert {key: tiny.summary(own_place / "run")[key] for key in finish.KEYS if key != "run"} == {
        key: value for key, value in document.items() if key != "run"
    }
    assert "epoch 2/2" in answer.err  # what a person reads is beside it


def test_train_says_what_it_does(fanlight, colours):
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run")
    assert answer.code == 0 and answer.err == ""
    assert "Run run: 3 classes, 48 train, 12 val images, from class folders" in answer.out
    assert "  optim.lr = 0.000354  (adamw, from scratch, by the square root of batch 8)" in answer.out
    assert "train.epochs" not in answer.out  # was asked for
    assert "epoch 1/2  loss " in answer.out and "| val loss " in answer.out
    assert "val: accuracy " in answer.out and "n = 12" in answer.out
    assert "Weights: last.safetensors and best.safetensors in run/weights" in answer.out
    assert "Report" not in answer.out


def test_the_command_is_kept(fanlight, colours, own_place):
    assert fanlight("train", colours, *tiny.QUICK, "--out", "my run").code == 0
    words = ["fanlight", "train", str(colours), *tiny.QUICK, "--out", "my run"]
    for document in (tiny.summary(own_place / "my run"), json.loads((own_place / "my run" / "env.json").read_text())):
        assert shlex.split(document["command"]) == words


def test_the_default_folder_is_named_by_data_and_model(fanlight, colours, own_place):
    assert fanlight("train", colours, *tiny.QUICK, "--epochs", 1).code == 0
    assert (own_place / "runs" / "colours-scratch-cnn-1" / "run.json").exists()


def test_dry_run_prepares_and_trains_nothing(fanlight, colours, own_place):
    answer = fanlight("train", colours, *tiny.QUICK, "--out", "run", "--dry-run")
    assert answer.code == 0
    assert "  optim.lr = 0.000354" in answer.out
    assert answer.out.endswith("--dry-run: nothing was trained. Train it with: fanlight train --resume run\n")
    assert not (own_place / "run" / "metrics.jsonl").exists() and not (own_place / "run" / "checkpoints").exists()
    assert tiny.summary(own_place / "run")["status"] == "prepared"
    assert fanlight("train", "--resume", "run").code == 0
    assert tiny.summary(own_place / "run")["status"] == "finished"


def test_dry_run_as_json(fanlight, colours):
    document = json.loads(fanlight("train", colours, *tiny.QUICK, "--out", "run", "--dry-run", "--json").out)
    assert list(document) == list(finish.KEYS)
    assert (document["run"], document["steps"], document["metrics"], document["wall_s"]) == ("run", 12, {}, None)


def test_dry_run_finds_a_model_that_cannot_be(fanlight, colours, own_place):
    answer = fanlight("train", colours, "--model", "lenet6", "--out", "run", "--dry-run")
    assert answer.code == 2 and "model 'lenet6' is unknown. Near names: lenet5" in answer.err
    assert not (own_place / "run").exists()


def test_check(fanlight, own_place):
    data = tiny.make(own_place / "data")
    (data / "red" / "broken.png").write_bytes(b"no image")
    shutil.copy(data / "red" / "00.png", data / "blue" / "copy.png")
    answer = fanlight("check", "data", "--json", "--out", "m.parquet")
    document = json.loads(answer.out)
    assert document.keys() >= {
        "images", "classes", "splits", "quarantined", "exact_copies", "copy_groups", "label_conflicts", "leaks", "manifest"
    }  # fmt: skip
    assert document["images"] == 61 and document["classes"] == {"blue": 21, "green": 20, "red": 20}
    assert [item["path"] for item in document["quarantined"]] == ["red/broken.png"]
    assert document["exact_copies"] == 1 and document["label_conflicts"][0]["labels"] == ["blue", "red"]
    assert (own_place / "m.parquet").exists()
    assert "1 quarantined:" in fanlight("check", "data").out


def test_what_check_finds_is_fixed_reported_and_trained_on(fanlight, own_place):
    """A copy in another class and one in another split, found, left out of a new manifest; no file is touched."""
    data = tiny.make(own_place / "data" / "train")
    tiny.make(own_place / "data" / "val", per_class=4, seed=1)
    shutil.copy(data / "red" / "00.png", data / "blue" / "copy.png")
    shutil.copy(own_place / "data/val/red/01.png", data / "red" / "leak.png")
    before = {path: path.read_bytes() for path in (own_place / "data").rglob("*.png")}
    answer = fanlight("check", "data", "--fix", own_place, "--report", "page.html", "--json")
    document = json.loads(answer.out)
    assert document["fixed"] == str(own_place / "fixed.parquet") and document["report"] == "page.html"
    assert [sentence[:17] for sentence in document["fixes"]] == [
        "2 images left out",
        "1 images left out",
        "4 images put into",
    ][:2]
    assert "filed under more than one class" in (own_place / "page.html").read_text()
    assert {path: path.read_bytes() for path in (own_place / "data").rglob("*.png")} == before
    trained = fanlight("train", "data", *tiny.QUICK, "--out", "leaking")
    assert trained.code == 0 and "the val split leaks. 1 of 12 val images have copies" in trained.err
    assert json.loads((own_place / "leaking/run.json").read_text())["metrics"]["val"]["without_leaks"]["count"] == 11
    told = fanlight("evaluate", "leaking", "--split", "val", "--json")
    scores = json.loads(told.out)
    assert (scores["count"], scores["without_leaks"]["count"]) == (12, 11)
    assert "the val split leaks. 1 of 12 val images have copies" in told.err
    answer = fanlight("train", "fixed.parquet", *tiny.QUICK, "--out", "clean")
    assert "fixed.parquet: 3 files that it puts aside are not used" in answer.out
    assert "leaks" not in answer.err
    assert json.loads((own_place / "clean/run.json").read_text())["data"]["splits"] == {"train": 59, "val": 12}


def test_groups_by_a_pattern_stay_together(fanlight, own_place):
    tiny.make(own_place / "data")
    assert "Groups by pattern" in fanlight("train", "data", *tiny.QUICK, "--group-by", r"(\d)\.png", "--out", "run").out
    manifest = load_manifest(own_place / "run/manifest.parquet")
    sides = {}
    for path, split in zip(manifest.column("path"), manifest.column("split")):
        sides.setdefault(path[-5], set()).add(split)
    assert len(sides) == 10 and all(len(found) == 1 for found in sides.values())
    answer = fanlight("train", "data", *tiny.QUICK, "--group-by", "patient", "--out", "other")
    assert (
        answer.code == 2
        and "data.group_by 'patient' cannot be a column, because there are none in class folders." in answer.err
    )


def test_what_check_and_train_cannot_be_asked(fanlight, own_place):
    tiny.make(own_place / "data")
    answer = fanlight("check", "data", "--thorough", "--no-audit")
    assert answer.code == 2 and "--thorough looks for copies and --no-audit does not" in answer.err
    answer = fanlight("check", "data", "--report", "no/such/page.html")
    assert answer.code == 2 and "--report no/such/page.html cannot be written" in answer.err
    answer = fanlight("train", "data", *tiny.QUICK, "--audit", "fast")
    assert answer.code == 2 and "data.audit is 'fast'; use exact, quick, thorough" in answer.err


def test_pack(fanlight, colours, own_place):
    words = ["pack", colours, "--pack-dir", "packs", "--workers", 2, "--json"]
    document = json.loads(fanlight(*words).out)
    assert document.keys() == {"images", "bytes", "wall_s", "images_per_s", "workers", "engine", "start_s", "pack"}
    assert (document["images"], document["workers"]) == (60, 2)
    assert (own_place / document["pack"] / "pack.json").exists()
    answer = fanlight("train", colours, *tiny.QUICK, "--pack-dir", "packs", "--out", "run")
    assert f"kept from before in {document['pack']}" in answer.out  # training wants the same one
    larger = json.loads(fanlight(*words, "--image-size", 64).out)
    assert larger["pack"] != document["pack"]
    answer = fanlight("pack", colours, "--image-size", 0)
    assert (answer.code, answer.err) == (2, "Error: data.image_px is 0; it must be above 0\n")


def test_runs_are_listed_newest_first(fanlight, finished, own_place):
    for number, status in enumerate(("finished", "failed")):
        shutil.copytree(finished, own_place / "runs" / status)
        folder.update_summary(
            own_place / "runs" / status, status=status, started=f"2026-01-0{number + 1}T00:00:00+00:00"
        )
    (own_place / "runs" / "broken").mkdir()
    (own_place / "runs" / "broken" / "run.json").write_text("{")
    answer = fanlight("runs", "--json")
    document = json.loads(answer.out)
    assert [run["status"] for run in document["runs"]] == ["unreadable", "failed", "finished"]
    assert document["runs"][1]["accuracy"] == tiny.summary(finished)["metrics"]["val"]["accuracy"]
    answer = fanlight("runs", "runs")
    assert answer.code == 0 and answer.out.splitlines()[0].split()[:2] == ["run", "status"]
    assert len([line for line in answer.out.splitlines() if "scratch-cnn" in line]) == 2


def test_cache_is_listed_and_cleared(monkeypatch, fanlight, colours, own_place):
    monkeypatch.setenv("FANLIGHT_CACHE", str(own_place / "cache"))
    (own_place / "cache").mkdir()
    (own_place / "cache" / "thesis.tex").touch()
    assert fanlight("train", colours, *tiny.QUICK, "--out", "run").code == 0
    document = json.loads(fanlight("cache", "list", "--json").out)
    assert document["cache"] == str(own_place / "cache")
    assert {entry["kind"] for entry in document["entries"]} == {"audit", "pack", "manifest"}
    packs = [entry["text"] for entry in document["entries"] if entry["kind"] == "pack"]
    assert len(packs) == 1 and packs[0].startswith("60 images, short side ")
    size = sum(entry["bytes"] for entry in document["entries"])
    assert size > 60 * 16 * 16 * 3
    assert "pack" in fanlight("cache", "list").out
    answer = fanlight("cache", "clear")
    assert answer.out == f"freed {cli.console.bytes_text(size)} in {own_place / 'cache'}\n"
    assert [path.name for path in (own_place / "cache").iterdir()] == ["thesis.tex"]
    assert json.loads(fanlight("cache", "list", "--json").out)["entries"] == []
    assert fanlight("evaluate", "run").code == 0  # what it needs is made again


def test_report_is_written_again(fanlight, finished, own_place):
    shutil.copytree(finished, own_place / "run")
    answer = fanlight("report", "run")
    assert answer.code == 0, answer.err
    page = own_place / "run" / "report.html"
    assert answer.out.strip().endswith(str(page.relative_to(own_place)))
    text = page.read_text()
    assert "scratch-cnn" in text and "data:image/svg+xml" in text and "Scores" in text


def test_train_writes_the_report_when_it_is_done(monkeypatch, fanlight, colours, own_place):
    def write(run):
        assert tiny.summary(run)["status"] == "finished"
        return run / "report.html"

    monkeypatch.setattr(cli, "write_report", write)
    words = [word for word in tiny.QUICK if word != "--no-report"]
    answer = fanlight("train", colours, *words, "--out", "run")
    assert answer.out.endswith("Report: run/report.html\n")
    assert tiny.summary(own_place / "run")["phases"]["report_s"] >= 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("e"), 2), (DataError("e"), 3), (RunError("e"), 1), (TrainingError("e"), 1)],
)  # fmt: skip
def test_errors_are_one_line_and_a_code(monkeypatch, fanlight, finished, error, code):
    def fail(_):
        raise error

    monkeypatch.setattr(cli, "write_report", fail)
    answer = fanlight("report", finished)
    assert (answer.code, answer.out, answer.err) == (code, "", "Error: e\n")


def test_a_stop_is_not_an_error(monkeypatch, fanlight, finished):
    def stop(_):
        raise Stopped("stopped after step 3; continue with: x")

    monkeypatch.setattr(cli, "write_report", stop)
    answer = fanlight("report", finished)
    assert (answer.code, answer.err) == (75, "Stopped after step 3; continue with: x\n")


def test_a_failed_command_prints_no_object(fanlight, own_place):
    answer = fanlight("train", "nowhere", "--json")
    assert (answer.code, answer.out) == (3, "")


def test_ranks_of_torchrun_end_without_the_interpreter(monkeypatch, fanlight):
    from fanlight.parallel import launch

    codes = []

    def end_rank(code):
        codes.append(code)
        sys.exit(code)

    monkeypatch.setattr(launch, "end_rank", end_rank)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert fanlight("runs", "nowhere").code == 1
    assert codes == [1]


def test_a_reader_that_closes_early_gets_no_complaints(own_place):
    """`fanlight runs | head`."""
    (own_place / "runs").mkdir()
    code = (
        "import os, sys\n"
        "from fanlight import cli\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "sys.argv = ['fanlight', 'runs']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_ranks_leave_standard_output_to_the_object(colours, own_place):
    words = ["train", str(colours), *tiny.QUICK, "--ranks", "2", "--out", "run", "--json"]
    done = subprocess.run([sys.executable, "-m", "fanlight", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ranks"] == 2
    assert "epoch 2/2" in done.stderr and "Traceback" not in done.stderr
