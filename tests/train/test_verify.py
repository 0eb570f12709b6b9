"""`fanlight verify` and what `--dry-run` says of ranks: on real ranks, with a layout that is wrong on purpose."""

import json
from pathlib import Path

import pytest

from fanlight.errors import ConfigError
from fanlight.train import folder, proof, verify
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


def test_fp64_is_proof(fanlight, colours):
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp", "--precision", "fp64", "--limit", "24", "--json")
    document = json.loads(answer.out)
    row = document["layouts"][0]
    assert row["passed"] and row["loss_error"] < 1e-12 and row["gradient_error"] < 1e-11
    assert len(folder.read_manifest(Path(document["run"])).rows()) == 24


def test_a_model_that_cannot_be_divided_is_a_row_with_its_reason(fanlight, colours):
    small = [word if word != "small-resnet" else "scratch-cnn" for word in SMALL]
    answer = fanlight("verify", colours, *small, "--only", "ddp,tensor", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert answer.code == 0 and rows["ddp"]["passed"]
    assert rows["tensor"]["passed"] is None
    assert rows["tensor"]["reason"].startswith("cannot run: layout with tensor=2: ScratchCNN has no block")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("same_batches", False, "ranks did not see the serial run's rows"),
        ("loss_error", 2e-5, "loss error 2.0e-05 is above 1e-05"),
        ("gradient_error", float("nan"), "gradient error nan is above 1e-04"),
        ("buffer_error", 1.0, "buffer error 1.0e+00 is above 1e-05"),
        ("evaluation_equal", False, "evaluation differs"),
        ("evaluation_same_bits", False, "evaluation differs"),
        ("resume_equal", False, "a checkpoint does not come back in every bit"),
        ("run_error", 1e-3, "left alone it drifts by 1.0e-03"),
    ],
)
def test_whatever_breaks_the_contract_fails_the_row(key, value, why):
    good = {
        "same_batches": True, "loss_error": 1e-7, "gradient_error": 1e-6, "buffer_error": 0.0, "evaluation_equal": True,
        "evaluation_same_bits": True, "resume_equal": True, "run_error": 1e-7,
    }  # fmt: skip
    floor = {"noise_floor": 1e-6, "step_floor": dict.fromkeys(proof.ERRORS, 1e-7)}
    given = {"dtype": "fp32", "is_replicated": True}
    assert verify._why_not(good, floor, **given) == ([], [])
    broken, _ = verify._why_not({**good, key: value}, floor, **given)
    assert len(broken) == 1 and broken[0].startswith(why)


def test_where_serial_differs_from_itself_only_steps_count():
    found = {
        "same_batches": True, "loss_error": 0.0, "gradient_error": 0.0, "buffer_error": 0.0, "evaluation_equal": True,
        "evaluation_same_bits": False, "resume_equal": True, "run_error": 0.5,
    }  # fmt: skip
    floor = {"noise_floor": 0.05, "step_floor": dict.fromkeys(proof.ERRORS, 1e-7)}
    broken, said = verify._why_not(found, floor, dtype="fp32", is_replicated=False)
    assert not broken and said == [
        "chaotic: the serial run differs from itself by 5.0e-02 in fp32, so only single steps count"
    ]


@pytest.mark.parametrize("key", proof.ERRORS)
@pytest.mark.parametrize(
    ("floor", "dtype", "limit"), [(2.3e-2, "fp32", 2.3e-1), (1e-7, "fp32", None), (1e-15, "fp64", None)]
)
def test_what_rounding_does_to_a_serial_step_it_may_do_to_a_layout_s(key, floor, dtype, limit):
    floors = {**dict.fromkeys(proof.ERRORS, 0.0), key: floor}
    limit = limit or verify.RTOL[dtype][key]
    assert verify.limits(floors, dtype) == {**verify.RTOL[dtype], key: pytest.approx(limit)}
    found = {
        "same_batches": True, **dict.fromkeys(proof.ERRORS, 0.0), key: 2.4e-2, "evaluation_equal": True,
        "evaluation_same_bits": True, "resume_equal": True, "run_error": 1e-15,
    }  # fmt: skip
    broken, _ = verify._why_not(found, {"noise_floor": 1e-6, "step_floor": floors}, dtype=dtype, is_replicated=True)
    assert [why.startswith(f"{key.replace('_', ' ')} 2.4e-02 is above") for why in broken] == [True] * (limit < 2.4e-2)
    document = {"layouts": [{"passed": True}], "step_floor": floors, "precision": dtype}
    doubt = ", as far as fp32 can tell" if limit > 2.4e-2 else ""
    assert verify.verdict(document) == f"every layout that runs equals the serial run{doubt}"


def test_a_gradient_that_rounding_moves_has_a_floor_that_says_so(fanlight, colours, own_place):
    """Two images of 16 px in a microbatch: norms over few numbers, and the serial run's own gradient depends on their order."""
    words = [*SMALL[:-1], "4", "--set", "train.batch_size=8"]
    answer = fanlight("verify", colours, *words, "--only", "ddp", "--out", "v", "--json")
    document = json.loads(answer.out)
    row = document["layouts"][0]
    assert answer.code == 0 and row["passed"], answer.err
    floors = document["step_floor"]
    assert 0 < row["gradient_error"] < verify.limits(floors, "fp32")["gradient_error"]
    assert 0 < row["loss_error"] < verify.limits(floors, "fp32")["loss_error"]
    assert f"of a step's gradient {floors['gradient_error']:.1e}" in (own_place / "v" / "certificate.md").read_text()


def test_a_failed_row_fails_the_command(monkeypatch, fanlight, colours):
    monkeypatch.setattr(verify, "RTOL", {"fp32": dict.fromkeys(proof.ERRORS, 0.0)})
    monkeypatch.setattr(verify, "FLOOR_FACTOR", 0.0)
    answer = fanlight("verify", colours, *SMALL, "--only", "ddp", "--out", "v")
    assert answer.code == 1
    assert "Error: NOT every layout equals the serial run: v/certificate.md says why" in answer.err


def test_a_batch_too_small_for_a_layout_is_a_row_with_its_reason(fanlight, colours):
    words = ("--model", "small-resnet", "--image-size", "16", "--ranks", "2", "--steps", "1", "--batch-size", "4")
    answer = fanlight("verify", colours, *words, "--only", "ddp,model-parallel", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert answer.code == 0 and rows["model-parallel"]["passed"] and rows["ddp"]["passed"] is None
    assert rows["ddp"]["reason"].startswith("cannot run: train.batch_size 4 in 4 microbatch(es) over 2 ranks")


def test_nothing_compared_is_nothing_proven(fanlight, colours):
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
        (("--set", "execution.layout=ddp"), "verify tries every layout; choose some by --only"),
    ],
)
def test_usage(fanlight, colours, words, message):
    answer = fanlight("verify", colours, *words)
    assert answer.code == 2 and f"Error: {message}" in answer.err and "Traceback" not in answer.err


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
     ("local-sgd", {"weights at meetings"})],
)  # fmt: skip
def test_a_dry_run_counts_what_ranks_hold_see_and_send(fanlight, colours, layout, kinds):
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
