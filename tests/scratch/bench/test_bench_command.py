"""`fanlight scratch bench`: rows, a page, a table; and what cannot be asked."""

import json
import os
import re
import shutil

import pytest
import torch

from fanlight.errors import RunError
from fanlight.kernels.rows import Case
from fanlight.scratch.bench import contestants, limits, networks, subjects
from fanlight.scratch.operators import NUMBA  # before a test has a cache folder of its own: what is compiled is kept
from fanlight.study import scratch_drawings, scratch_page

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
COMPILED = NUMBA
KEYS = {"op", "shape", "backend", "direction", "ms", "spread", "share_of_limit", "vs_numpy", "vs_torch", "max_error"}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same questions on shapes of milliseconds."""
    sizes = {"conv2d": Case("", (2, 3, 9, 8), 4, (3, 3)), "linear": Case("", (5, 12), 32),
             "max_pool2d": Case("", (2, 3, 8, 6), 3, (2, 2), (2, 2))}  # fmt: skip
    groups = {"convolution": "conv2d", "dense": "linear", "pooling": "max_pool2d"}
    small = {name: subjects._both(name, operator, sizes[operator]) for name, operator in groups.items()}
    values = Case("", (4, 2, 5, 7))
    small |= {"loss": subjects._both("loss", "cross_entropy", Case("", (20, 7)))}
    small |= {"optimizer": [subjects.Subject(name, "update", (name,), Case("", (9, 4))) for name in ("sgd", "adamw")]}
    small |= {"batch-norm": subjects._both("batch-norm", "batch_norm", values)}
    small |= {"dropout": [subjects.Subject("dropout", "forward", ("dropout_keyed",), values)]}
    monkeypatch.setattr(subjects, "GROUPS", {**subjects.GROUPS, **small})
    monkeypatch.setattr(limits, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "SIDE", 64)
    monkeypatch.setattr(networks, "NET", "conv4k3 relu pool2 dense")
    monkeypatch.setattr(networks, "IMAGE", (1, 10, 8))
    monkeypatch.setattr(networks, "BATCH", 3)
    monkeypatch.setattr(networks, "BATCHES", (1, 2))


def run(fanlight, *words):
    answer = fanlight("scratch", "bench", "--json", "--out", "b", *words)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@no_gpu
def test_every_operator_and_the_page(fanlight, own_place):
    ops = "convolution,dense,pooling,loss,optimizer,batch-norm,dropout"
    backends = "loops,numpy,triton,torch,torch-graph"
    found = run(fanlight, "--ops", ops, "--backends", backends, "--rounds", "2", "--threads", "1")
    rows = found["rows"]
    assert rows and all(row.keys() >= KEYS for row in rows)
    timed = [row for row in rows if row["ms"] is not None]
    assert all(row["max_error"] < 1e-5 and row["n"] == 2 for row in timed)
    assert {row["backend"] for row in timed} == {
        "loops, 1 thread", "numpy, 1 thread", "torch, 1 thread, NCHW", "torch, 1 thread, channels last"
    }  # fmt: skip
    reasons = {row["backend"]: row["reason"] for row in rows if row["op"] == "convolution" and row["ms"] is None}
    assert "need a GPU and torch sees none" in reasons["triton"] and "need a GPU" in reasons["torch-graph, cuda"]
    assert reasons["torch, cuda"] == "torch sees no GPU"
    (dropped,) = [row for row in rows if row["op"] == "dropout" and row["kind"] == "torch" and row["device"] == "cpu"]
    assert dropped["reason"] == "PyTorch has no function that does just this"
    numpy = next(row for row in timed if row["kind"] == "numpy")
    assert numpy["vs_numpy"] == 1 and numpy["share_of_limit"] > 0 and numpy["spread"] is not None
    page, table = (own_place / "b" / "report.html").read_text(), (own_place / "b" / "bench.md").read_text()
    assert "convolution, backward: 2×3×9×8, 4 of 3×3" in page and not re.search(r"(src|href)=\"(?!data:)", page)
    assert "## pooling, forward: 2×3×8×6, 2×2" in table and "| theirs: CUDA | 974 ms | 37.9 |" in table
    assert {path.name for path in (own_place / "b" / "figures").iterdir()} >= {"staircase.svg", "roofline.svg"}


def test_a_step_on_every_backend_is_compared_before_it_is_timed(fanlight, own_place, monkeypatch):
    found = run(
        fanlight, "--ops", "step,batch", "--backends", "loops,numpy,numba,torch", "--rounds", "1", "--threads", "2"
    )
    steps = {row["backend"]: row for row in found["rows"] if row["op"] == "step"}
    assert all(row["max_error"] < 1e-5 and row["n"] == 1 for row in steps.values() if row["ms"] is not None)
    assert steps["loops, 1 thread"]["is_part"] and steps["loops, 1 thread"]["ms"] > 0
    assert {"numba, 1 thread", "numba, 2 threads", "torch, 2 threads, channels last"} <= steps.keys()
    batches = [row for row in found["rows"] if row["op"] == "batch"]
    assert {row["shape"] for row in batches} == {"1×1×10×8", "2×1×10×8"} and "loops" not in {r["kind"] for r in batches}
    names = {path.stem for path in (own_place / "b" / "figures").iterdir()}
    assert names == {"staircase", "threads", "batch"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_compiled_rows_run_in_both_layouts_for_every_batch(fanlight, monkeypatch):
    """More batches than torch compiles one line of code for: none may be eager without a word."""
    monkeypatch.setattr(networks, "BATCHES", (1, 2, 3, 4, 5))
    calls = []
    monkeypatch.setattr(
        networks, "forget_compiled", lambda asked: (calls.append(0), contestants.forget_compiled(asked))
    )
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        rows = run(
            fanlight, "--ops", "convolution,dense,loss,optimizer,step,batch", "--backends", "numpy,torch-compiled", "--rounds",
            "1", "--threads", "1",
        )["rows"]  # fmt: skip
    found = [row for row in rows if row["kind"] == "torch-compiled" and row["device"] == "cpu"]
    left = {(row["op"], row["direction"]): row["reason"] for row in found if row["ms"] is None}
    assert left == {("loss", "backward"): "PyTorch has no function that does just this"}
    assert all(row["max_error"] < 1e-5 for row in found if row["ms"] is not None)
    assert {row["layout"] for row in found if row["op"] == "batch"} == {"NCHW", "channels last"} and len(calls) == 6


def test_a_wrong_step_is_a_row_with_its_error(fanlight, monkeypatch):
    real = networks.wanted
    monkeypatch.setattr(networks, "wanted", lambda batch: [each * 1.01 for each in real(batch)])
    found = run(fanlight, "--ops", "step", "--backends", "numpy", "--rounds", "1")
    assert found["rows"][0]["ms"] is None and "wrong: 9.9e-03 off" in found["rows"][0]["reason"]


def test_an_epoch_is_steady_and_its_losses_are_compared(fanlight, own_place, monkeypatch):
    losses = {"numpy": [2.0, 1.0], "numba": [2.0, 1.001], "torch": [2.0, 1.5]}
    monkeypatch.setattr(networks, "_epoch", lambda backend, device, threads: (0.25, losses[backend]))
    rows = run(fanlight, "--ops", "epoch", "--backends", "loops,numba,numpy,torch", "--threads", "2", "--rounds", "2")[
        "rows"
    ]
    found = {row["kind"]: row for row in rows}
    assert (own_place / "b" / "figures" / "threads.svg").exists()
    assert (
        found["numba"]["ms"] == 250 and found["numba"]["max_error"] == pytest.approx(1e-3) and found["numba"]["n"] == 2
    )
    assert "its losses are 5e-01 off NumPy's" in found["torch"]["reason"] and "takes hours" in found["loops"]["reason"]


@pytest.mark.slow
def test_an_epoch_of_digits(fanlight):
    rows = run(fanlight, "--ops", "epoch", "--backends", "numpy,numba,torch", "--rounds", "1", "--threads", "1")["rows"]
    assert all(row["ms"] > 0 and row["max_error"] < networks.LOSS_MOST for row in rows)


def test_time_that_is_up_leaves_the_rest_by_name(fanlight):
    found = run(
        fanlight, "--ops", "convolution,dense", "--backends", "numpy", "--rounds", "1", "--time-limit", "0.000001s"
    )
    assert found["rows"] == [] and found["left_out"][0] == "convolution, forward: 2×3×9×8, 4 of 3×3, fp32"
    assert len(found["left_out"]) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ops", "convolutoin"], "--ops 'convolutoin' does not exist; use some of convolution, pooling, dense"),
        (["--ops", ","], "--ops is empty"),
        (["--backends", "cupy"], "--backends 'cupy' does not exist; use some of loops, numpy"),
        (["--formats", "fp8"], "--formats 'fp8' does not exist; use some of fp32, tf32, bf16, fp16"),
        (["--rounds", "0"], "--rounds 0 measures nothing; use 1 or more"),
        (["--threads", "1000"], "--threads 1000: this process may use"),
        (["--time-limit", "soon"], "--time-limit 'soon' should be a time such as 90s, 10m or 1.5h"),
        (["--time-limit", "nan"], "--time-limit 'nan' should be a time"),
        (["--time-limit", "1e400h"], "--time-limit '1e400h' should be a time"),
        (["--ops", "batch", "--backends", "loops"], "--backends loops have nothing to answer in --ops batch"),
        (["--ops", "epoch", "--backends", "torch-compiled"], "nothing to answer in --ops epoch"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(fanlight, own_place, words, said):
    answer = fanlight("scratch", "bench", "--out", "b", *words)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err, answer.err
    assert not (own_place / "b").exists()


def test_a_question_that_nobody_answers_is_left_out(fanlight):
    found = run(fanlight, "--ops", "loss,batch,epoch", "--backends", "loops,numpy", "--formats", "fp32,bf16", "--rounds", "1",
                "--time-limit", "0.000001s")  # fmt: skip
    left = found["left_out"]
    assert not any("bf16" in title for title in left) and any(title.startswith("epoch") for title in left)
    found = run(fanlight, "--ops", "loss,batch", "--backends", "loops", "--rounds", "1", "--out", "c")
    assert {row["op"] for row in found["rows"]} == {"loss"} and found["left_out"] == []


@no_gpu
def test_without_a_gpu_nothing_of_a_gpu_alone_is_begun(fanlight, own_place):
    answer = fanlight("scratch", "bench", "--backends", "triton", "--out", "b")
    assert (
        answer.code == 2
        and "--backends triton leaves nothing to measure here: Triton's kernels need a GPU" in answer.err
    )
    answer = fanlight("scratch", "bench", "--formats", "bf16", "--out", "b")
    assert answer.code == 2 and "--formats bf16 are timed on GPUs, and torch sees none; use fp32" in answer.err


def test_a_folder_that_is_there_is_not_written_to(fanlight, own_place):
    (own_place / "b").mkdir()
    (own_place / "b" / "mine.txt").write_text("x")
    answer = fanlight("scratch", "bench", "--out", "b")
    assert answer.code == 2 and "--out b is there already; name a new folder" in answer.err
    (own_place / "file").write_text("x")
    assert "--out file/b cannot be written" in fanlight("scratch", "bench", "--out", "file/b").err
    answer = fanlight("scratch", "bench", "--out", "x" * 300)
    assert answer.code == 2 and "cannot be written: File name too long; name another folder" in answer.err


def test_a_page_needs_its_result(own_place):
    with pytest.raises(RunError, match=r"has no readable bench.json; begin anew"):
        scratch_page.write(own_place)
    (own_place / "bench.json").write_text(json.dumps({"version": 2, "rows": [], "limits": []}))
    with pytest.raises(RunError, match="has version 2, this Fanlight reads 1"):
        scratch_page.write(own_place)


def test_what_rounds_do_not_tell_apart_is_said_to_be_so():
    def row(kind, ms):
        return {"op": "dense", "direction": "forward", "shape": "s", "format": "fp32", "kind": kind, "backend": kind,
                "device": "cpu", "ms": ms[0], "rounds_ms": ms, "vs_numpy": None, "reason": None}  # fmt: skip

    ours, slower, noisy = row("numba", [1.0, 1.01, 1.0]), row("torch", [2.0, 2.01, 2.02]), row("torch", [1.0, 2.0, 0.5])
    assert (
        "numba takes 1.00 ms, 2.00 times as fast as PyTorch's better layout (torch) (1.9"
        in scratch_page.verdict({"rows": [ours, slower]})[0]
    )
    assert "not told apart from PyTorch's better layout (torch)" in scratch_page.verdict({"rows": [ours, noisy]})[0]
    once = {**slower, "rounds_ms": [2.0]}
    assert (
        "2.00 times as fast as PyTorch's better layout (torch), in one round"
        in scratch_page.verdict({"rows": [ours, once]})[0]
    )
    assert scratch_page.verdict({"rows": [{**ours, "ms": None, "reason": "wrong: 1e-1 off"}]}) == [
        "Wrong, and therefore not timed: dense forward by numba."
    ]


def test_bars_of_two_formats_have_names_of_their_own():
    rows = [
        {"op": "dense", "direction": "forward", "shape": "s", "format": each, "kind": "torch", "backend": "torch, cuda", "ms": ms,
         "is_part": False}
        for each, ms in (("fp32", 2.0), ("bf16", 1.0))
    ]  # fmt: skip
    drawn = scratch_drawings.staircase([(("dense", "forward"), rows)])
    assert ">torch, cuda<" in drawn and ">torch, cuda, bf16<" in drawn


def test_a_busy_machine_is_said_to_be_so(fanlight, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (3.2, 0, 0))
    answer = fanlight("scratch", "bench", "--ops", "dense", "--backends", "numpy", "--rounds", "1", "--out", "b")
    assert answer.code == 0 and "Warning: this machine is busy: 3.2 processes want its" in answer.err


def test_numbers_have_three_digits():
    assert [scratch_page.share(value) for value in (None, 0.913, 0.01, 0.00124, 2.24e-5)] == [
        "–",
        "91%",
        "1%",
        "0.12%",
        "0.0022%",
    ]
    assert [scratch_page.number(value) for value in (0.01234, 0.5, 1, 12.345, 99.96, 12345.6)] == [
        "0.0123", "0.500", "1.00", "12.3", "100", "12,346",
    ]  # fmt: skip
