"""Sweeps over filter sizes and layers: which networks, and the table of what came of them."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fanlight.errors import ConfigError
from fanlight.models import line
from fanlight.scratch import sweep
from fanlight.train import folder, state
from train import colours as tiny
from train.stopping import ask_to_stop

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def nets(net: str, **options) -> list[str]:
    return [str(variant.net) for variant in sweep.variants(line.of(net), **options)]


def test_variants_have_their_kernels_and_as_many_stages():
    assert nets("reference", kernels=[3, 5], layers=[1, 2, 3]) == [
        "conv16k3 relu pool2 dense128 relu dense",
        "conv16k3 relu pool2 conv32k3 relu dense128 relu dense",
        "conv16k3 relu pool2 conv32k3 relu conv32k3 relu dense128 relu dense",
        "conv16k5 relu pool2 dense128 relu dense",
        "conv16k5 relu pool2 conv32k5 relu dense128 relu dense",
        "conv16k5 relu pool2 conv32k5 relu conv32k5 relu dense128 relu dense",
    ]


def test_padding_goes_with_the_kernel_and_the_last_pooling_is_not_repeated():
    found = nets("bn conv8k3p1 relu pool2 conv8k3p2d2 relu pool2 dropout.5 dense", kernels=[5], layers=[1, 3])
    assert found == [
        "bn conv8k5p2 relu pool2 dense",
        "bn conv8k5p2 relu pool2 conv8k5p4d2 relu pool2 dropout.5 conv8k5p4d2 relu dropout.5 dense",
    ]
    with pytest.raises(ConfigError, match="--sweep varies convolutions, and 'dense4 relu dense' has none"):
        sweep.variants(line.of("dense4 relu dense"), kernels=[3], layers=[1])


def test_a_sweep_of_images_that_are_none_begins_nothing(fanlight, own_place, monkeypatch):
    answer = fanlight("scratch", "train", "nowhere", "--sweep", "--out", "sweep")
    assert answer.code == 3 and "nowhere does not exist" in answer.err and not (own_place / "sweep").exists()
    monkeypatch.setattr(sweep.launch, "joined", lambda: True)
    answer = fanlight("scratch", "train", "nowhere", "--sweep", "--out", "sweep")
    assert answer.code == 2 and "start it without a launcher, and give --ranks N" in answer.err


def test_a_sweep_that_is_stopped_says_where_it_was(fanlight, colours, own_place, monkeypatch):
    tiny.before_update(monkeypatch, 8, ask_to_stop)  # six steps each
    answer = fanlight(
        "scratch", "train", colours, "--net", "conv4k3 relu dense", "--backend", "numpy", "--sweep", "--sweep-kernels", "3,5",
        "--sweep-layers", "1", "--epochs", "1", "--batch-size", "8", "--threads", "1", "--out", "sweep",
    )  # fmt: skip
    assert answer.code == 75 and answer.err.splitlines()[-1] == (
        "Stopped at network 2 of 2; those before it are in sweep/sweep.md. Continue with: fanlight scratch train --resume sweep"
    ), answer.err
    assert len(rows(own_place / "sweep")) == 1 and tiny.summary(own_place / "sweep/k5-l1")["status"] == "stopped"
    assert fanlight("scratch", "train", "--resume", "sweep").code == 0
    assert [row["net"] for row in rows(own_place / "sweep")] == ["conv4k3 relu dense", "conv4k5 relu dense"]


WORDS = [
    "--net", "conv4k3 relu pool2 dense", "--backend", "numpy", "--sweep", "--sweep-kernels", "3,5", "--sweep-layers", "1,2",
    "--epochs", "15", "--batch-size", "8", "--threads", "1", "--set", "execution.checkpoint_steps=4",
]  # fmt: skip
DECIDED = ("kernel", "layers", "net", "parameters", "accuracy", "interval", "planned_bytes", "reason")


def rows(place: Path) -> list[dict]:
    return json.loads((place / "sweep.json").read_text())["rows"]


def test_a_killed_sweep_goes_on_where_it_was(fanlight, colours, own_place, cache_folder):
    """Killed while it trained the second of four: the first is left alone, the second goes on from its checkpoint, and the
    rows are those of a sweep that nothing disturbed."""
    answer = fanlight("scratch", "train", colours, *WORDS, "--out", "whole")
    assert answer.code == 0, answer.err
    process = subprocess.Popen(
        [sys.executable, "-m", "fanlight", "scratch", "train", str(colours), *WORDS, "--out", "sweep"], text=True,
        env={**os.environ, "FANLIGHT_CACHE": str(cache_folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not state.whole(own_place / "sweep/k3-l2/checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    place = own_place / "sweep"
    assert process.returncode == -signal.SIGKILL and len(rows(place)) == 1
    assert tiny.summary(place / "k3-l2")["status"] == "running"
    first, begun = rows(place)[0], {path: path.read_bytes() for path in (place / "k3-l1").glob("*.json*")}
    (place / "k5-l1").mkdir()  # as a kill leaves a run before its description is whole
    (place / "k5-l1" / "config.yaml").write_text("version: 1\n")

    answer = fanlight("scratch", "train", "--resume", "sweep", "--json")
    assert answer.code == 0 and "Continuing sweep: 1 of 4 networks are through" in answer.err, answer.err
    found = json.loads(answer.out)["rows"]
    assert found == rows(place) and found[0] == first
    assert {path: path.read_bytes() for path in begun} == begun
    for row, whole in zip(found, rows(own_place / "whole"), strict=True):
        assert [row[key] for key in DECIDED] == [whole[key] for key in DECIDED]
    assert tiny.weights(place / "k3-l2") == tiny.weights(own_place / "whole/k3-l2")
    assert len(list(csv.DictReader((place / "sweep.csv").read_text().splitlines()))) == 4


def test_a_network_that_is_through_needs_no_training(fanlight, colours, own_place, monkeypatch):
    """Killed between the end of a run and its row."""
    answer = fanlight("scratch", "train", colours, *WORDS, "--epochs", "1", "--sweep-layers", "1", "--out", "sweep")
    assert answer.code == 0, answer.err
    place = own_place / "sweep"
    document, page = json.loads((place / "sweep.json").read_text()), (place / "sweep.md").read_text()
    (place / "sweep.json").write_text(json.dumps(document | {"rows": document["rows"][:1]}))
    monkeypatch.setattr(sweep.train, "train", None)
    for _ in range(2):  # the second time there is nothing left at all
        assert fanlight("scratch", "train", "--resume", "sweep").code == 0
        assert rows(place) == document["rows"] and (place / "sweep.md").read_text() == page


def test_what_a_sweep_cannot_go_on_with_is_refused(fanlight, colours, own_place):
    data = own_place / "photos"
    shutil.copytree(colours, data)
    answer = fanlight("scratch", "train", data, *WORDS, "--epochs", "1", "--sweep-layers", "1", "--out", "sweep")
    assert answer.code == 0, answer.err
    answer = fanlight(
        "scratch", "train", "--resume", "sweep", "--epochs", "3", "--set", "optim.momentum=0.5", "--backend", "numba"
    )
    assert answer.code == 2
    assert (
        "is a sweep, which goes on as it was begun; leave --epochs, --set optim.momentum, --backend out" in answer.err
    )
    (data / "red" / "00.png").unlink()
    answer = fanlight("scratch", "train", "--resume", "sweep")
    assert (
        answer.code != 0 and "are not those that sweep began with" in answer.err and len(rows(own_place / "sweep")) == 2
    )
    (own_place / "sweep/sweep.json").write_text("{")
    answer = fanlight("scratch", "train", "--resume", "sweep")
    assert answer.code != 0 and "sweep has no readable sweep.json to go on from" in answer.err
    (own_place / "sweep/sweep.json").write_text(
        json.dumps(dict.fromkeys(("rows", "planned", "images", "command")) | {"version": 9})
    )
    assert "has version 9, this Fanlight reads 1" in fanlight("scratch", "train", "--resume", "sweep").err


def test_two_do_not_train_one_sweep(fanlight, colours, own_place):
    answer = fanlight("scratch", "train", colours, *WORDS, "--epochs", "1", "--sweep-layers", "1", "--out", "sweep")
    assert answer.code == 0, answer.err
    with folder.locked(own_place / "sweep"):
        answer = fanlight("scratch", "train", "--resume", "sweep")
    assert answer.code != 0 and "sweep is being trained by process" in answer.err


def test_a_row_without_a_score_has_no_interval_either():
    row = dict.fromkeys(sweep.COLUMNS) | {"kernel": 3, "layers": 1, "net": "dense", "parameters": 10, "train_s": 1.0,
                                          "peak_rss_bytes": 1 << 20}  # fmt: skip
    assert "| 10 | – | – |" in sweep.table([row]) and "nan" not in sweep.table([row])
    assert "| 0.5000 | 0.400 … 0.600 |" in sweep.table([row | {"accuracy": 0.5, "interval": [0.4, 0.6]}])


def test_a_sweep_is_a_table_in_three_formats(fanlight, colours, own_place):
    answer = fanlight(
        "scratch", "train", colours, "--net", "conv4k3 relu pool2 dense", "--backend", "numpy", "--sweep",
        "--sweep-kernels", "3,21", "--sweep-layers", "1,2", "--epochs", "1",
        "--batch-size", "8", "--threads", "1", "--out", "sweep", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    place = own_place / "sweep"
    assert json.loads((place / "sweep.json").read_text())["rows"] == document["rows"]
    small, deep, *unfit = document["rows"]
    assert (small["kernel"], small["layers"], small["net"]) == (3, 1, "conv4k3 relu pool2 dense")
    assert small["parameters"] == 4 * 3 * 9 + 4 + 4 * 49 * 3 + 3 and deep["parameters"] == 112 + 148 + 4 * 25 * 3 + 3
    for row in (small, deep):
        assert 0 <= row["accuracy"] <= 1 and row["train_s"] > 0 and row["peak_rss_bytes"] > row["planned_bytes"] > 0
        assert (own_place / row["run"] / "run.json").exists() and row["reason"] is None
    assert [row["reason"] is not None and row["accuracy"] is None for row in unfit] == [True, True]
    assert "conv4k21 sees 21 × 21 pixels, and [3, 16, 16] reaches it" in unfit[0]["reason"]
    rows = list(csv.DictReader((place / "sweep.csv").read_text().splitlines()))
    assert [row["net"] for row in rows] == [row["net"] for row in document["rows"]]
    assert float(rows[0]["accuracy"]) == small["accuracy"] and float(rows[0]["low"]) == small["interval"][0]
    page = (place / "sweep.md").read_text()
    assert "| kernel | layers | parameters |" in page and "sees 21 × 21 pixels" in page and "backend numpy" in page
