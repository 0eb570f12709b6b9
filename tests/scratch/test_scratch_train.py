"""Runs from scratch: a folder like any other, the same numbers on any backend and any number of ranks."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fanlight.errors import ConfigError
from fanlight.scratch import backends
from train import colours as tiny
from train.stopping import ask_to_stop

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

NET = "conv6k3p1 bn relu pool2 [ conv6k3p1 bn relu ] pool2 dropout.2 dense16 relu dense"
QUICK = ["--epochs", "2", "--batch-size", "8", "--threads", "1", "--no-report", "--net", NET]
WEIGHTS_RTOL = 2e-4  # of float32 weights after 12 steps; 3e-6 at worst: sums run in another order


def weights(run) -> dict[str, np.ndarray]:
    return load_file(run / "weights" / "last.safetensors")


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    flat, right = (np.concatenate([each[name].ravel().astype(float) for name in sorted(each)]) for each in (one, other))
    return float(np.linalg.norm(flat - right) / np.linalg.norm(right))


def trained(fanlight, colours, run, *more: object) -> dict:
    answer = fanlight("scratch", "train", colours, *QUICK, "--out", run, "--json", *more)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.mark.parametrize("command", ["train", "scratch train", "scratch train --sweep"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--out", "taken"],
            "--out taken exists and is not empty; name another, or continue it with --resume taken if it is",
        ),
        (["--out", "taken/thesis.tex"], "--out taken/thesis.tex is a file, and a run is a folder; name another"),
        (["--lr", "nan"], "optim.lr should be float, a finite number above 0, got nan"),
        (["--lr", "inf"], "optim.lr is inf; it can be at most 1e+30"),
    ],
)
def test_mistakes_are_wrong_usage_of_every_command_that_trains(fanlight, colours, own_place, command, words, said):
    (own_place / "taken").mkdir()
    (own_place / "taken" / "thesis.tex").touch()
    answer = fanlight(*command.split(), colours, *words)
    assert answer.code == 2 and answer.err.startswith(f"Error: {said}") and answer.err.count("\n") == 1, answer.err
    assert [path.name for path in (own_place / "taken").iterdir()] == ["thesis.tex"]
    assert not (own_place / "runs").exists()


@pytest.fixture
def by_torch(fanlight, colours, own_place):
    trained(fanlight, colours, own_place / "torch", "--backend", "torch")
    return own_place / "torch"


def test_backends_and_ranks_train_the_same_run(fanlight, colours, own_place, by_torch, quick_ranks):
    found = trained(fanlight, colours, own_place / "numpy", "--backend", "numpy")
    assert found["backend"] == "numpy" and found["net"] == NET and found["layout"] == "serial"
    assert found["planned_bytes"] > 100_000 and found["peak_rss_bytes"] > found["planned_bytes"]
    assert found["parameters"] == sum(
        v.size for k, v in weights(by_torch).items() if "running" not in k and "num" not in k
    )
    assert distance(weights(own_place / "numpy"), weights(by_torch)) < WEIGHTS_RTOL
    found = trained(fanlight, colours, own_place / "numba", "--backend", "numba", "--microbatches", "1")
    assert distance(weights(own_place / "numba"), weights(by_torch)) < WEIGHTS_RTOL
    found = trained(fanlight, colours, own_place / "two", "--backend", "numpy", "--ranks", "2")
    assert (found["layout"], found["ranks"]) == ("ddp", 2) and found["sent_bytes"]["gradients"] > 0
    assert distance(weights(own_place / "two"), weights(own_place / "numpy")) < WEIGHTS_RTOL
    losses = [
        [record["loss"] for record in tiny.metrics(own_place / name, "train")] for name in ("numpy", "two", "torch")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_a_run_is_scored_and_used_as_any_other(fanlight, colours, own_place):
    answer = fanlight("scratch", "train", colours, *QUICK, "--backend", "numpy", "--report", "--out", "run")
    assert answer.code == 0 and "of arrays, made once and used at every step" in answer.out
    run = own_place / "run"
    assert {"config.yaml", "resolved.yaml", "manifest.parquet", "metrics.jsonl", "predictions.parquet", "report.html",
            "steps-rank0.parquet"} <= {path.name for path in run.iterdir()}  # fmt: skip
    kept = tiny.summary(run)
    scored = json.loads(fanlight("evaluate", "run", "--split", "val", "--json").out)
    assert scored["correct"] == kept["metrics"]["val"]["correct"]
    told = json.loads(fanlight("predict", "run", next(colours.glob("red/*.png")), "--json").out)
    assert told["predictions"][0]["label"] in tiny.CLASSES
    assert tiny.resolved(run)["execution"]["backend"] == "numpy"


@pytest.mark.parametrize(("first", "second"), [("numpy", "torch"), ("torch", "numpy")])
def test_a_stopped_run_goes_on_with_another_backend(fanlight, colours, own_place, by_torch, monkeypatch, first, second):
    tiny.before_update(monkeypatch, 4, ask_to_stop)
    answer = fanlight("scratch", "train", colours, *QUICK, "--backend", first, "--out", "run")
    assert answer.code == 75 and "continue with: fanlight train --resume run" in answer.err
    answer = fanlight("scratch", "train", "--resume", "run", "--net", "reference")
    assert answer.code == 2 and "leave DATA, --net and --sweep out" in answer.err
    answer = fanlight("scratch", "train", "--resume", "run", "--backend", second, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["backend"] == second
    assert distance(weights(own_place / "run"), weights(by_torch)) < WEIGHTS_RTOL


def test_triton_without_a_gpu_says_what_runs_instead(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert backends.chosen("triton", device=None) == ("numba", "cpu")
    said = " ".join(capsys.readouterr().err.split())
    assert "--backend triton computes on GPUs, so --backend numba runs instead. No CUDA device is visible here" in said
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert backends.chosen("triton", device=None) == ("triton", "cuda")
    assert backends.chosen("triton", device="cpu") == ("numba", "cpu")
    assert "--device is cpu" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backends.chosen("triton", device=None) == ("numba", "cpu")
    assert "Triton is not installed here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--net", "conv8k3 relo dense"], "  conv8k3 relo dense\n          ^^^^\n"),
        (["--net", "referense"], "Near names: reference"),
        (["--net", "conv8k3 dense4"], "dense4 gives 4 outputs and the data has 3 classes"),
        (["--net", "conv8k3"], "a network ends in `dense`, an output per class; after conv8k3 there is none\n  conv8k3\n  ^"),
        (["--net", "relu"], "after relu there is none"),
        (["--net", "conv8k30 dense"], "conv8k30 sees 30 × 30 pixels, and [3, 16, 16] reaches it"),
        (["--backend", "nunba"], "one of loops, numpy, numba, torch, triton. Near names: numba"),
        (["--backend", ""], "--backend '' does not exist; use one of loops"),
        (["--resume", ""], "--resume  continues a run as it was begun; leave DATA"),
        (["--device", "cuda", "--backend", "numpy"], "--backend numpy computes on CPUs and --device is cuda"),
        (["--device", "tpu", "--backend", "numpy"], "--device 'tpu' does not exist; use cpu or cuda"),
        (["--set", "model.name=resnet18"], "network 'resnet18' is neither a line such as"),
        (["--net", "lenet5", "--set", "model.name=dense"], "--net 'lenet5' and --set model.name=dense are the same thing"),
        (["--backend", "numpy", "--set", "execution.backend=numba"], "are the same thing; give one of them"),
        (["--set", "optim.label_smoothing=0.1"], "optim.label_smoothing is 0.1, and --backend numba does not do that"),
        (["--set", "data.image_px_start=8"], "data.image_px_start is 8, and --backend numba does not do that: arrays are"),
        (["--set", "execution.layout=fsdp"], "execution.layout is fsdp, and --backend numba does not do that"),
        (["--set", "train.precision=bf16"], "operators take float32"),
        (["--sweep-kernels", "3"], "belong to --sweep"),
        (["--sweep", "--sweep-kernels", "3,x"], "--sweep-kernels '3,x' should be whole numbers"),
        (["--sweep", "--epochs", "0"], "train.epochs is 0; it must be above 0"),
        (["--sweep", "--net", "conv8k3 relu pool2"], "a network ends in `dense`"),
        (["--sweep", "--backend", "nunba"], "--backend 'nunba' does not exist"),
        (["--batch-size", "1", "--net", "dense8 bn dense"], "leaves a single image, of which the batch norms"),
        (["--sweep", "--net", "dense8 relu dense"], "--sweep varies convolutions"),
        (["--threads", "0"], "execution.threads is 0; it must be above 0"),
        (["--threads", "1000"], "--threads 1000: Numba began with"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(fanlight, colours, own_place, words, said):
    answer = fanlight("scratch", "train", colours, "--epochs", "1", "--batch-size", "8", "--out", "run", *words)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err, answer.err
    assert not (own_place / "run").exists()


def test_a_network_of_modules_and_an_unknown_backend_are_refused(fanlight, colours, own_place):
    train = ("train", colours, *tiny.QUICK, "--set", "optim.label_smoothing=0", "--out", "run")
    answer = fanlight(*train, "--set", "execution.backend=numpy")
    assert (
        answer.code == 2
        and "model.name is scratch-cnn, and --backend numpy computes networks of one line" in answer.err
    )
    answer = fanlight(*train, "--set", "execution.backend=cuda")
    assert answer.code == 2 and "--backend 'cuda' does not exist; use one of loops, numpy" in answer.err
    answer = fanlight(*train, "--set", "execution.backend=numpy", "--set", "model.name=conv4k3 relu dense")
    assert answer.code == 0 and "Backend numpy" in answer.out and tiny.summary(own_place / "run")["backend"] == "numpy"


def test_an_ordinary_run_is_no_run_from_scratch(fanlight, colours, own_place, monkeypatch):
    tiny.before_update(monkeypatch, 2, ask_to_stop)
    assert fanlight("train", colours, *tiny.QUICK, "--out", "run").code == 75
    kept = (own_place / "run" / "resolved.yaml").read_text()
    answer = fanlight("scratch", "train", "--resume", "run")
    assert answer.code == 2 and "continue it with: fanlight train --resume run, or give a --backend" in answer.err
    answer = fanlight("scratch", "train", "--resume", "run", "--backend", "numpy")
    assert (
        answer.code == 2
        and "model.name is scratch-cnn, and --backend numpy computes networks of one line" in answer.err
    )
    assert (own_place / "run" / "resolved.yaml").read_text() == kept, "what was refused has changed nothing"


def test_a_backend_that_cannot_run_here_says_what_can(fanlight, colours, own_place, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = ("--model", "conv4k3 relu dense", "--set", "optim.label_smoothing=0")
    answer = fanlight("train", colours, *tiny.QUICK, *line, "--set", "execution.backend=triton", "--out", "run")
    assert answer.code == 2 and not (own_place / "run").exists()
    assert answer.err.splitlines()[-1].endswith(
        "execution.backend is triton, which computes on GPUs. No CUDA device is visible here; use another, such as --set "
        "execution.backend=numba"
    )
    assert "runs instead" not in answer.err


def test_a_network_that_memory_cannot_hold_is_named(fanlight, colours, own_place, monkeypatch):
    monkeypatch.setattr("fanlight.machine.memory_available", lambda: 10_000_000)
    answer = fanlight("scratch", "train", colours, *QUICK[:-1], "dense4 dense999999", "--out", "run")
    assert answer.code == 2 and "999999 should be a whole number from 1 to 65,536" in answer.err
    answer = fanlight("scratch", "train", colours, *QUICK[:-1], "dense4096 relu dense4 relu dense", "--out", "run")
    assert answer.code == 2 and answer.err.endswith(
        "3,166,227 weights take 12.7 MB, and this machine has 10.0 MB free; most are those of dense4096, which [3, 16, 16] "
        "reaches: pool more before it, or give it fewer outputs\n  dense4096 relu dense4 relu dense\n  ^^^^^^^^^\n"
    ), answer.err
    answer = fanlight("scratch", "train", colours, *QUICK[:-1], "dense2048 relu dense", "--out", "run")
    assert answer.code == 2 and "gradients and adamw's state of its 1,581,059 weights take 19.0 MB" in answer.err
    assert not (own_place / "run").exists()


def test_a_command_without_images_or_with_two_nets_is_refused(fanlight):
    assert "say which images" in fanlight("scratch", "train").err
    assert "leave DATA, --net and --sweep out" in fanlight("scratch", "train", "digits", "--resume", "run").err


def test_numbers_that_overflow_end_the_run_in_one_line(fanlight, colours, own_place):
    line = ("--net", "conv4k3 relu dense", "--backend", "numpy", "--epochs", "1", "--batch-size", "8", "--threads", "1")
    answer = fanlight("scratch", "train", colours, *line, "--lr", "1e20", "--out", "run")
    assert answer.code == 1 and "Error: the loss is nan at step 2; it was 1." in answer.err
    assert "RuntimeWarning" not in answer.err


def test_a_changed_thread_count_is_put_back():
    import numba

    before = numba.get_num_threads()
    with backends.threads("numba", 1):
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
    with pytest.raises(ConfigError, match="NUMBA_NUM_THREADS=9999 first"), backends.threads("numba", 9999):
        pass


DIGITS = [
    "digits",
    "--epochs",
    "10",
    "--lr",
    "0.003",
    "--no-augment",
    "--threads",
    "1",
    "--no-report",
    "--out",
    "run",
    "--json",
]


def test_digits_by_numba(fanlight):
    answer = fanlight("scratch", "train", *DIGITS, "--backend", "numba")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["metrics"]["val"]["accuracy"] >= 0.97  # .985 (n 329)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_digits_by_the_others(fanlight, backend):
    answer = fanlight("scratch", "train", *DIGITS, "--backend", backend)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["metrics"]["val"]["accuracy"] >= 0.97
