"""Causes that are planted with a known cost come first, and their share is what was planted."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import fanlight
import places
from fanlight import console, machine
from fanlight.config import Config
from fanlight.study.layouts import attribution, folder, measured, verdict
from fanlight.study.layouts.grid import Point
from fanlight.train import prepare

pytest_plugins = ["train.fixtures"]
# Slow, and not for a busy machine: there a step that should take milliseconds takes as long as what was planted.
pytestmark = [pytest.mark.usefixtures("own_place"), pytest.mark.slow]

LARGE = 0.25  # share of a step that comes first whatever else happens
APART = 0.05  # of a step: how far a share may be from what was planted
BATCH = 8
LONG = {"batch": 16, "epochs": 10}  # steps so long, and so many, that three programs take turns on two cores


@dataclass(frozen=True)
class Planted:
    """A point of which one cause is known."""

    cause: str
    delay_s: float
    layout: str = "ddp"
    ranks: int = 2
    batch: int = BATCH
    model: str = "small-cnn"
    epochs: int = 3
    microbatches: int | None = None  # as the layout has it

    @staticmethod
    def run_of(place: Path) -> Path:
        return place / "study" / "runs" / "point-0"

    def row(self, data: Path, kept_pools: Any, place: Path) -> dict[str, Any]:
        """Its round, measured."""
        values: dict[str, Any] = {
            "data.path": str(data), "model.name": self.model, "train.epochs": self.epochs, "train.evaluate_every": self.epochs,
            "train.batch_size": self.batch,
            "train.precision": "fp32", "execution.threads": 1, "execution.layout": self.layout, "execution.ranks": self.ranks,
            "execution.autotune": False, "execution.report": False, "augment.crop_share": (0.6, 1.0),
        }  # fmt: skip
        if self.microbatches:
            values["train.microbatches"] = self.microbatches
        run = self.run_of(place)
        with console.quiet(also_warnings=True):
            prepare.prepare(Config().with_values(values), out=run, command="test")
            pool, known = kept_pools(self.ranks), {"cause": self.cause, "delay_s": self.delay_s}
            pool.run("study.layouts.planted:train", run=str(run), entered=0.0, **known)
            turns = {"block_s": 0.5, "repeats": 3} if self.cause != "tiny" else {"block_s": 0.15, "repeats": 24}
            blocks = pool.run("study.layouts.planted:probe", run=str(run), **turns, **known)
        rows = [row for rank in blocks for row in rank]
        folder.finish(run, {"point": "point", "round": 0, "busy_before": 0.0, "seconds": 0.0, "blocks": rows})
        return measured.read(run, Point(self.layout, self.ranks, "fp32", "cpu", 1, self.ranks))


def first(row: dict[str, Any]) -> tuple[str, float]:
    return verdict.ranked({"shares": row["shares"], "unexplained": None})[0]


def test_a_slow_loader(colours, kept_pools, tmp_path):
    """One input thread that takes .4 s for a batch: the step waits for it, less what it computes meanwhile."""
    row = Planted("loader", 0.4, layout="serial", ranks=1).row(colours, kept_pools, tmp_path)
    cause, share = first(row)
    computing = sum(row["seconds"][name] for name in ("compute", "launch", "optimizer", "rest"))
    assert cause == "input" and share == pytest.approx(1 - computing / row["step_s"], abs=APART), row["shares"]
    assert share == pytest.approx(row["timers"]["input"], abs=APART)
    assert row["step_s"] == pytest.approx(0.4, rel=0.15) and abs(row["unexplained"]) < APART


def test_a_slowed_rank(colours, kept_pools, tmp_path):
    row = Planted("rank", 0.5).row(colours, kept_pools, tmp_path)
    cause, share = first(row)
    assert cause == "straggler" and share == pytest.approx(0.5 / row["step_s"], abs=APART), row["shares"]
    assert abs(row["unexplained"]) < APART


def test_what_a_step_costs_whatever_its_rows(colours, kept_pools, tmp_path):
    row = Planted("launch", 0.1, layout="serial", ranks=1).row(colours, kept_pools, tmp_path)
    cause, share = first(row)
    own = row["seconds"]["launch"] - 0.1  # which a small network on few rows has, too
    assert cause == "launch" and 0 <= own < 0.05 and share >= 0.1 / row["step_s"] - APART, row["shares"]


def test_a_slow_link(colours, kept_pools, tmp_path):
    """Messages that take .5 s longer. What ranks exchange costs something without that, too: as much as in the same steps over
    a link without the delay."""
    quick = Planted("link", 0.0).row(colours, kept_pools, tmp_path / "quick")
    row = Planted("link", 0.5).row(colours, kept_pools, tmp_path / "slow")
    cause, share = first(row)
    planted_s = 0.5 + quick["seconds"]["communication"]
    assert cause == "communication" and share == pytest.approx(planted_s / row["step_s"], abs=APART), row["shares"]


def test_something_that_ranks_share(colours, kept_pools, tmp_path):
    """.4 s of a step (.1 for each of a rank's four rows) in which two ranks are half as quick as one."""
    row = Planted("bus", 0.1).row(colours, kept_pools, tmp_path)
    cause, share = first(row)
    assert cause == "contention" and share == pytest.approx(0.4 / row["step_s"], abs=APART), row["shares"]


def test_memory_bandwidth_that_ranks_share(colours, kept_pools, tmp_path):
    """Each rank copies memory for each of its rows. A loop by hand says how much slower two are that copy at once."""
    of_row = 16  # copies: more seconds than anything else of a step, so that what they cost is, too
    by_hand = kept_pools(2).run("study.layouts.planted:copies", times=of_row * BATCH // 2, turns=9)
    row = Planted("memory", of_row).row(colours, kept_pools, tmp_path)
    lost_s = max(rank["together"] for rank in by_hand) - max(rank["alone"] for rank in by_hand)
    cause, share = first(row)
    if lost_s < LARGE * row["step_s"]:
        pytest.skip(
            f"one core takes too little memory bandwidth from another here: {lost_s / row['step_s']:.0%} of a step"
        )
    assert cause == "contention" and share == pytest.approx(lost_s / row["step_s"], abs=APART), (row["shares"], by_hand)


@pytest.mark.skipif(
    machine.cores_usable() < 3, reason="two ranks and a side process take a core each: else it is cores that they share"
)
def test_memory_that_another_program_takes(colours, kept_pools, tmp_path):
    """A side process copies memory while both ranks compute, and rests while one does. What it costs is the difference of
    two measurements of the same steps, with it and without."""
    alone = Planted("hog", 0.0, **LONG).row(colours, kept_pools, tmp_path / "without")
    place = tmp_path / "with"
    side = subprocess.Popen([sys.executable, str(Path(__file__).with_name("hog.py")), str(Planted.run_of(place))])
    try:
        row = Planted("hog", 0.0, **LONG).row(colours, kept_pools, place)
    finally:
        side.kill()
        side.wait()
    planted_s = row["step_s"] - alone["step_s"]
    cause, share = first(row)
    known = alone["seconds"]["contention"]  # which two ranks of one machine may have without any other program
    assert planted_s > 2 * APART * row["step_s"], "a program that costs nothing plants nothing"
    assert cause == "contention" and share == pytest.approx((known + planted_s) / row["step_s"], abs=APART), row[
        "shares"
    ]


def test_tiny_batches(colours, kept_pools, tmp_path):
    """Two rows a step of a network of many small layers are mostly calls. How much is known from a bare loop over batches of
    two and of eight rows: what the line through them costs without rows. Study and loop take turns of a second, and each turn
    is held against itself: between two of them a machine's pace changes by more than what is looked for."""
    planted = Planted("tiny", 0.0, "serial", 1, batch=2, model="small-resnet", epochs=10)
    row = planted.row(colours, kept_pools, tmp_path)
    run = planted.run_of(tmp_path)
    blocks, apart = json.loads((run / "probe.json").read_text())["blocks"], []
    for turn, (two_s, many_s) in enumerate(json.loads((run / "bare.json").read_text())):
        parts = attribution.seconds([block for block in blocks if block["repetition"] == turn], pipe=None)
        apart.append((parts["launch"] - (8 * two_s - 2 * many_s) / 6) / sum(parts.values()))
    cause, _ = first(row)
    assert cause == "launch" and median(apart) == pytest.approx(0, abs=APART), (row["shares"], apart)


def test_a_bad_cut(colours, kept_pools, tmp_path):
    row = Planted("cut", 0.04, layout="pipeline", batch=16, microbatches=8).row(colours, kept_pools, tmp_path)
    cause, share = first(row)
    whole_s, turns = (
        0.04 * 16,
        row["microbatches"] + 1,
    )  # of an even pipeline of two, whose ranks had half of it each
    even_s = whole_s / 2 * turns / row["microbatches"]
    assert cause == "straggler" and share == pytest.approx((whole_s - even_s) / row["step_s"], abs=APART), row["shares"]


LIMIT = 25e6  # bytes per second, of a token bucket
RATE = "200mbit"


def limited(before: str, colours: Path, place: Path) -> dict[str, Any]:
    """The row of a ddp point in a network namespace that `before` has made slow."""
    words = [sys.executable, str(Path(__file__).with_name("limited.py")), str(colours), str(place)]
    paths = [str(Path(each).parent) for each in (fanlight.__path__[0], Path(__file__).parents[1], places.__file__)]
    try:
        done = places.run(before, words, paths=paths, timeout_s=300)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if places.is_missing(done):
        pytest.skip("no network namespaces or traffic control here")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("between", [places.one_link, places.two_places], ids=["one link", "two namespaces"])
def test_a_link_of_200_megabits(colours, tmp_path, between):
    """What is planted is what a bare loop takes to exchange as many bytes in as many messages there: headers,
    acknowledgements and what gloo does with them are in it. It is not less than the link allows."""
    row = limited(between(RATE), colours, tmp_path)
    least_s = sum(row["sent_bytes"].values()) / (row["steps"] + row["warmup_steps"]) / LIMIT
    cause, share = first(row)
    assert row["by_hand_s"] > least_s, "the link is not limited"
    assert cause == "communication" and share == pytest.approx(row["by_hand_s"] / row["step_s"], abs=APART), row
    assert abs(row["unexplained"]) < APART
