"""Losses of all backends from one start: the same, or said not to be."""

import importlib.util
import json

import pytest
import torch

from fanlight.errors import RunError
from fanlight.scratch import curves
from fanlight.scratch.operators import NUMBA  # before a test has a cache folder of its own: what is compiled is kept
from fanlight.study import scratch_curves

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
COMPILED = NUMBA
TINY = "conv2k3s2 bn relu pool2 dense"
has_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux only")


def test_losses_on_the_cpu_are_those_of_float64(fanlight, own_place):
    answer = fanlight(
        "scratch", "curves", "--backends", "loops,numpy,numba,torch", "--steps", "6", "--out", "c", "--json"
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document == json.loads((own_place / "c/curves.json").read_text()) and document["passed"]
    assert [row["backend"] for row in document["rows"]] == ["loops", "numpy", "numba", "torch"]
    assert len(document["exact"]) == 6 and len(set(document["exact"])) == 6
    for row in document["rows"]:
        assert (
            row["losses"] == pytest.approx(document["exact"], rel=curves.TOLERANCE)
            and row["losses"] != document["exact"]
        )
        assert 0 < row["error"] <= curves.TOLERANCE and row["passed"] and row["reason"] is None
    page, drawn = (own_place / "c/curves.md").read_text(), (own_place / "c/curves.svg").read_text()
    assert page.count("| right |") == 4 and "at most 0.0001 is right" in page
    assert all(f">{word}<" in drawn for word in ("loops", "torch", "tolerance", "numpy, float64"))


def test_fifty_steps_go_down():
    found = curves.losses("numpy", net=curves.NET, steps=curves.STEPS, dtype=torch.float64)
    assert len(found) == 50 and sum(found[-5:]) < 0.5 * sum(found[:5])
    single = curves.losses("numpy", net=curves.NET, steps=curves.STEPS)
    assert max(curves.distances(single, found)) < curves.TOLERANCE


@has_triton
def test_kernels_are_interpreted_where_there_is_no_gpu(fanlight, own_place):
    answer = fanlight(
        "scratch", "curves", "--backends", "triton", "--net", TINY, "--steps", "2", "--out", "c", "--json"
    )
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)["rows"]
    assert row["passed"] and len(row["losses"]) == 2
    assert row["backend"] == ("triton" if torch.cuda.is_available() else "triton, interpreted")


def test_a_backend_that_is_off_or_fails_is_said_to_be(fanlight, own_place, monkeypatch):
    real = curves.losses

    def losses(backend, **how):
        if backend == "loops":
            raise MemoryError("no room\nand more")
        found = real(backend, **how)
        return [*found[:-1], found[-1] * 1.01] if backend == "torch" else found

    monkeypatch.setattr(curves, "losses", losses)
    answer = fanlight(
        "scratch", "curves", "--backends", "loops,numpy,torch", "--net", TINY, "--steps", "2", "--out", "c"
    )
    assert (
        answer.code == 1
        and "the losses of loops, torch are not those of float64: c/curves.md says how far" in answer.err
    )
    page = (own_place / "c/curves.md").read_text()
    assert (
        "| loops | | | | MemoryError: no room |" in page
        and "1.0e-02 | wrong |" in page
        and page.count("| right |") == 1
    )


def test_a_loss_that_is_no_number_is_no_curve(fanlight, own_place, monkeypatch):
    real = curves.losses
    monkeypatch.setattr(
        curves, "losses", lambda backend, **how: [1.0, float("nan")] if backend == "torch" else real(backend, **how)
    )
    answer = fanlight("scratch", "curves", "--backends", "torch", "--net", TINY, "--steps", "2", "--out", "c")
    assert answer.code == 1 and "the loss of step 1 is no number" in (own_place / "c/curves.md").read_text()


def test_triton_that_is_not_installed_is_a_row_and_no_failure(fanlight, own_place, monkeypatch):
    def missing(**how):
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(curves, "_interpreted", missing)
    monkeypatch.setattr(curves.operators, "without_triton", lambda: "Triton is not installed")
    answer = fanlight(
        "scratch", "curves", "--backends", "triton", "--net", TINY, "--steps", "1", "--out", "c", "--json"
    )
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)["rows"]
    assert row["passed"] is None and "No module named 'triton'" in row["reason"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backends", "nunpy"], "--backends 'nunpy' does not exist; use some of loops, numpy, numba, torch, triton"),
        (["--steps", "0"], "--steps 0 should be a whole number from 1"),
        (["--net", ""], "network '' is neither a line"),
        (["--net", "conv4k9 dense"], "conv4k9 sees 9 × 9 pixels"),
        (["--net", "dropout.5 dense"], "drops numbers at random"),
        (["--net", "dense9"], "dense9 gives 9 outputs and the data has 10 classes"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(fanlight, own_place, words, said):
    answer = fanlight("scratch", "curves", "--out", "c", *words)
    assert answer.code == 2 and said in answer.err and not (own_place / "c").exists(), answer.err


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), 0.0])
def test_a_network_with_whose_loss_nothing_compares_is_refused(fanlight, own_place, monkeypatch, lost):
    monkeypatch.setattr(curves, "losses", lambda backend, **how: [2.3, 2.1, lost])
    answer = fanlight("scratch", "curves", "--backends", "numpy", "--net", TINY, "--steps", "3", "--out", "c")
    assert answer.code == 2 and "at step 2, in float64 too" in answer.err and "use --steps 2 or fewer" in answer.err
    assert f"--net '{TINY}'" in answer.err and not (own_place / "c").exists()


def test_a_folder_that_is_there_is_not_written_to(fanlight, own_place):
    (own_place / "c").mkdir()
    (own_place / "c" / "mine.txt").write_text("x")
    for name in ("c", "c/mine.txt", "x" * 300):
        answer = fanlight("scratch", "curves", "--backends", "numpy", "--steps", "1", "--out", name)
        assert answer.code == 2 and f"--out {name} is there already, or cannot be looked into" in answer.err, answer.err
        assert "--resume" not in answer.err and [path.name for path in (own_place / "c").iterdir()] == ["mine.txt"]


def test_a_figure_needs_its_result(own_place):
    with pytest.raises(RunError, match=r"has no readable curves\.json; begin anew with: fanlight scratch curves"):
        scratch_curves.write(own_place)
    (own_place / "curves.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(RunError, match="has version 2, this Fanlight reads 1"):
        scratch_curves.write(own_place)
