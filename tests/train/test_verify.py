"""`fanlight verify` and what `--dry-run` says of ranks: on real ranks, with a layout that is wrong on purpose."""

import json
from pathlib import Path

import pytest

from fanlight.errors import ConfigError, DataError, RunError, TrainingError
from fanlight.train import certificate, contract, folder, proof, verify
from train import colours as tiny  # noqa: F401

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

SMALL = (
    "--model",
    "small-resnet",
    "--image-size",
    "16",
    "--ranks",
    "2",
    "--steps",
    "3",
    "--batch-size",
    "8",
    "--microbatches",
    "2",
)


def test_layouts_are_proven_and_certified(fanlight, colours, own_place):
    answer = fanlight("verify", colours, *SMALL, "--only", "fsdp,pipeline 1f1b,tensor,diloco", "--out", "v", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    rows = {row["name"]: row for row in document["layouts"]}
    assert list(rows) == ["fsdp", "pipeline 1f1b", "tensor", "diloco"]
    for name in ("fsdp", "pipeline 1f1b", "tensor"):
        row = rows[name]
        assert row["passed"] and row["same_batches"] and row["evaluation_equal"] and row["resume_equal"], row
        assert row["loss_error"] < 1e-5 and row["gradient_error"] < 1e-4 and row["ranks"] == 2
    assert rows["pipeline 1f1b"]["gradient_error"] == 0.0
    assert rows["diloco"]["passed"] is None and "another algorithm" in rows["diloco"]["reason"]
    assert set(rows["fsdp"]) == set(verify.ROW)
    assert json.loads((own_place / "v" / "certificate.json").read_text()) == document
    page = (own_place / "v" / "certificate.md").read_text()
    assert "every layout that runs equals the serial run" in page and "| tensor | 2 | equal |" in page
    assert not list((own_place / "v").glob("*.safetensors"))  # what ranks exchanged is gone


def test_fp64_is_proof(quick_ranks, fanlight, colours):
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp", "--precision", "fp64", "--limit", "24", "--json")
    document = json.loads(answer.out)
    row = document["layouts"][0]
    assert row["passed"] and row["loss_error"] < 1e-12 and row["gradient_error"] < 1e-11
    assert len(folder.read_manifest(Path(document["run"])).rows()) == 24


def test_a_model_that_cannot_be_divided_is_a_row_with_its_reason(quick_ranks, fanlight, colours):
    small = [word if word != "small-resnet" else "scratch-cnn" for word in SMALL]
    answer = fanlight("verify", colours, *small, "--only", "ddp,tensor", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert answer.code == 0 and rows["ddp"]["passed"]
    assert rows["tensor"]["passed"] is None
    assert rows["tensor"]["reason"].startswith("cannot run: layout with tensor=2: ScratchCNN has no block")


def step(value: float = 0.0, key: str = "gradient_error") -> dict[str, float]:
    return {**dict.fromkeys(proof.ERRORS, 0.0), key: value}


GOOD = {
    "same_batches": True, "evaluation_equal": True, "evaluation_same_bits": True, "resume_equal": True, "run_error": 1e-7,
}  # fmt: skip


def row_of(steps, *, floors=None, repeated=None, layout="ddp", **changed):
    """The row that comes of what a rank found, in fp32 on a CPU."""
    floor = {"noise_floor": 1e-6, "step_floors": floors or [step(1e-7)] * len(steps)}
    trial = verify.Trial(Path(), ranks=2, device="cpu", threads=1, dtype="fp32", steps=len(steps), floor=floor)
    judged = contract.judge(steps, floor["step_floors"], dtype="fp32")
    return verify.judged({**GOOD, "steps": steps, **changed}, judged, repeated, trial, layout=layout)


def test_a_row_has_the_worst_of_all_steps():
    row = row_of([step(1e-7), step(1e-6), step(2e-6, "loss_error")])
    assert row["passed"] is True and row["reason"] == "" and row["fp64"] is None
    assert (row["loss_error"], row["gradient_error"], row["run_error"]) == (2e-6, 1e-6, 1e-7)
    assert set(row) < set(verify.ROW)


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "hsdp"])
def test_replicated_layouts_evaluate_in_the_serial_bits(layout):
    row = row_of([step()], layout=layout, evaluation_same_bits=False)
    assert row["passed"] is False and row["reason"] == "evaluation differs"
    assert row_of([step()], layout="pipeline", evaluation_same_bits=False)["passed"] is True


def test_a_gradient_that_is_nan_fails_its_row_and_is_no_number():
    row = row_of([step(), step(float("nan"))], floors=[step(1.0)] * 2, run_error=float("nan"))
    assert row["passed"] is False and row["gradient_error"] is None and row["run_error"] is None
    assert row["reason"].startswith("left alone it drifts by nan") and "gradient error nan of step 2" in row["reason"]
    json.dumps(row, allow_nan=False)


BLURRED = {"steps": [step(2e-2)] * 2, "floors": [step(2.4e-2), step(1e-7)]}  # above the floor of the second step


def test_fp64_decides_where_fp32_cannot():
    exact = {"steps": [step(1e-14)] * 2, "same_batches": True}
    row = row_of(**BLURRED, repeated=exact)
    assert row["passed"] is True and row["gradient_error"] == 2e-2 and row["fp64"] == step(1e-14)
    row = row_of(**BLURRED, repeated={**exact, "steps": [step(1e-14), step(5e-2)]})
    assert row["passed"] is False
    assert row["reason"] == "gradient error 5.0e-02 of step 2 is above 1e-11 in fp64"
    row = row_of(**BLURRED, repeated={**exact, "same_batches": False})
    assert row["passed"] is False and row["reason"] == "ranks did not see the serial run's rows in fp64"
    row = row_of(**BLURRED, repeated=exact, resume_equal=False)  # and nothing else
    assert row["passed"] is False and row["reason"] == "a checkpoint does not come back in every bit"


def test_without_fp64_a_row_is_undecided_or_wrong():
    failed = {"error": "rank 1 failed: out of memory"}
    row = row_of(**BLURRED, repeated=failed)
    assert row["passed"] is False and row["reason"] == "gradient error 2.0e-02 of step 2 is above 1e-04"
    row = row_of(BLURRED["steps"], floors=[step(2.4e-2)] * 2, repeated=failed)
    assert row["passed"] is None and certificate.is_undecided(row)
    assert row["reason"] == (
        "undecided: gradient error 2.0e-02 of step 1 is above 1e-04, and rounding may do up to 2e-01, so fp32 cannot tell; "
        "repeated in fp64: rank 1 failed: out of memory"
    )


@pytest.mark.parametrize(
    ("error", "device", "passed"),
    [
        (ConfigError("layout with tensor=2: no block"), "cpu", None),
        (RunError("v/step-1 cannot be read"), "cpu", False),
        (DataError("the pack vanished"), "cpu", False),
        (TrainingError("rank 1 failed: NotImplementedError: a copy of it is not implemented"), "cpu", False),
        (TrainingError("rank 1 failed: NotImplementedError: a copy of it is not implemented"), "cuda", False),
        (TrainingError("rank 1 failed: ValueError: unsupported operation"), "cuda", False),
        (TrainingError("rank 0 failed: RuntimeError: ProcessGroupGloo::allgather: unsupported layout"), "cpu", False),
        (TrainingError("rank 0 failed: RuntimeError: ProcessGroupGloo::allgather: unsupported layout"), "cuda", None),
        (TrainingError("rank 0 failed: RuntimeError: Backend gloo does not support reduce_scatter"), "cuda", None),
        (TrainingError("rank 0 failed: RuntimeError: No backend type associated with device type cuda"), "cuda", None),
    ],
)
def test_only_what_gloo_cannot_do_for_a_gpu_is_excused(error, device, passed):
    row = verify.why_not_compared(error, device=device)
    assert row.get("passed") is passed
    assert row["reason"] == f"{'cannot run' if passed is None else 'failed'}: {error}"


@pytest.mark.slow
def test_steps_that_rounding_blurs_are_repeated_in_fp64(quick_ranks, monkeypatch, fanlight, colours, own_place):
    """As where a network is sensitive: the serial run's own fp32 gradient moves by more than is allowed."""
    monkeypatch.setitem(contract.RTOL["fp32"], "gradient_error", 1e-9)
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp,model-parallel", "--out", "v", "--json")
    assert answer.code == 0, answer.err
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert rows["ddp"]["passed"] and rows["ddp"]["gradient_error"] > 1e-9
    assert rows["ddp"]["fp64"]["gradient_error"] < 1e-11
    assert rows["model-parallel"]["passed"] and rows["model-parallel"]["fp64"] is None  # the same bits
    assert "is decided in fp64, to 1e-11" in answer.err and "decided in fp64: loss " in answer.err
    page = (own_place / "v" / "certificate.md").read_text()
    assert "in fp64 where fp32 cannot tell" in page and "passed: decided in fp64: loss " in page
    assert not list((own_place / "v").glob("*.safetensors"))


def test_a_failed_row_fails_the_command(quick_ranks, monkeypatch, fanlight, colours):
    monkeypatch.setitem(contract.RTOL, "fp32", dict.fromkeys(proof.ERRORS, 0.0))
    monkeypatch.setattr(contract, "FLOOR_FACTOR", 0.0)
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp", "--out", "v")
    assert answer.code == 1
    assert "Error: NOT every layout equals the serial run: v/certificate.md says why" in answer.err


def test_a_batch_too_small_for_a_layout_is_a_row_with_its_reason(quick_ranks, fanlight, colours):
    words = ("--model", "small-resnet", "--image-size", "16", "--ranks", "2", "--steps", "1", "--batch-size", "4")
    answer = fanlight("verify", colours, *words, "--only", "ddp,model-parallel", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert answer.code == 0 and rows["model-parallel"]["passed"] and rows["ddp"]["passed"] is None
    assert rows["ddp"]["reason"].startswith("cannot run: train.batch_size 4 in 4 microbatch(es) over 2 ranks")


def test_a_serial_run_that_diverges_leaves_no_folder(quick_ranks, fanlight, colours, own_place):
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp", "--out", "v", "--set", "optim.lr=1e30")
    assert answer.code == 2 and "Error: the serial run diverges at step " in answer.err
    assert "use a lower one, --set optim.lr=1e+29" in answer.err and not (own_place / "v").exists()


def test_nothing_compared_is_nothing_proven(quick_ranks, fanlight, colours):
    answer = fanlight("verify", colours, *SMALL, "--only", "dataparallel", "--out", "v")
    assert answer.code == 1
    assert "nothing could be compared" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "--steps is 0; it must be 1 or more"),
        (("--ranks", "1"), "--ranks is 1; there is nothing to compare below 2"),
        (("--precision", "bf16"), "--precision is bf16; verify compares in fp32 or fp64"),
        (("--only", "ddp,tensr"), "--only names 'tensr'; on this many ranks there are ddp, fsdp, model-parallel"),
        (("--only", ""), "--only names nothing; leave it out for every layout, or choose of ddp, fsdp, model-parallel"),
        (("--only", " , "), "--only names nothing; leave it out for every layout"),
        (
            ("--set", "execution.layout=ddp"),
            "execution.layout is ddp, and verify tries every layout, each as it chooses",
        ),
        (("--set", "execution.split_at=layer1.0"), "execution.split_at is layer1.0, and verify tries every layout"),
        (
            ("--set", "execution.pipeline_schedule=gpipe"),
            "execution.pipeline_schedule is gpipe, and verify tries every",
        ),
        (("--set", "execution.stages_per_rank=2"), "execution.stages_per_rank is 2, and verify tries every layout"),
    ],
)
def test_usage(fanlight, colours, words, message):
    answer = fanlight("verify", colours, *words)
    assert answer.code == 2 and f"Error: {message}" in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("word", "names"), [("tensr", "tensor"), ("pipelin", "pipeline"), ("pipeline 1f1", "pipeline 1f1b")]
)
def test_an_unknown_row_offers_near_names(word, names):
    with pytest.raises(ConfigError, match=rf"--only names '{word}'; .* Near names: {names}[,.]"):
        verify._chosen(verify.candidates(2), ["ddp", word])


def test_products_need_four_ranks():
    assert "replicate=2,pipe=2" in [each.name for each in verify.candidates(4)]
    assert "pipe=2,tensor=3" in [each.name for each in verify.candidates(6)]
    assert all("=" not in each.layout for each in verify.candidates(2))
    with pytest.raises(ConfigError, match="--only names 'hsdp'"):
        verify._chosen(verify.candidates(2), ["hsdp"])


# --dry-run


@pytest.mark.parametrize(
    ("layout", "kinds"),
    [("ddp", {"gradients", "statistics of norms"}), ("fsdp", {"weights", "gradients", "statistics of norms"}),
     ("pipeline", {"activations", "gradients of activations"}), ("tensor", {"partial sums"}),
     pytest.param("local-sgd", {"weights at meetings"}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_dry_run_counts_what_ranks_hold_see_and_send(request, fanlight, colours, layout, kinds):
    if layout != "ddp":  # which has ranks of its own, as everybody's command
        request.getfixturevalue("quick_ranks")
    words = ("--model", "small-resnet", "--precision", "fp32", "--ranks", "2", "--layout", layout, "--batch-size", "8")
    answer = fanlight("train", colours, *words, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    table = json.loads(answer.out)["holdings"]
    whole = 695_715  # parameters of small-resnet for three classes
    held = [row["parameters"] for row in table]
    assert {kind for row in table for kind in row["sent_bytes"]} == kinds
    if layout == "ddp":
        assert held == [whole] * 2 and [row["sent_bytes"]["gradients"] for row in table] == [4 * whole] * 2
    if layout == "pipeline":
        assert sum(held) == whole and [row["stages"] for row in table] == [[0], [1]]
        assert table[0]["sent_bytes"]["activations"] == table[1]["sent_bytes"]["gradients of activations"]
    if layout == "fsdp":
        assert sum(held) == whole
        assert sum(row["sent_bytes"]["weights"] for row in table) >= 2 * 4 * whole  # before forward and backward
    if layout == "local-sgd":
        assert [row["sent_bytes"]["weights at meetings"] for row in table] == [4 * whole + 8 * 1_120] * 2
    if layout == "tensor":
        assert held[0] == held[1] and whole / 2 < held[0] < whole
    parts = 2 if layout in ("ddp", "fsdp", "local-sgd") else 1
    assert [sum(row["rows"]) for row in table] == [8 // parts] * 2
    assert f"rank 1: {'stage 1; ' if layout == 'pipeline' else ''}{held[1]:,} parameters" in answer.err
