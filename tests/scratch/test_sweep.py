"""Sweeps over filter sizes and layers: which networks, and the table of what came of them."""

import csv
import json

import pytest

from fanlight.errors import ConfigError
from fanlight.models import line
from fanlight.scratch import sweep
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
    assert answer.code == 75 and answer.err.splitlines()[-1].endswith(
        "continue with: fanlight train --resume sweep/k5-l1; that is network 2 of 2, and a sweep does not go on with the "
        "others: those before it are in sweep/sweep.md"
    ), answer.err
    assert len(json.loads((own_place / "sweep/sweep.json").read_text())["rows"]) == 1


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
