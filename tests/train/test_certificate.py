"""How what `fanlight verify` found is told: rows, verdict, page."""

import json

import pytest

from fanlight.train import certificate, verify

NOT_RUN = {
    **dict.fromkeys(verify.ROW),
    "name": "tensor",
    "layout": "tensor",
    "ranks": 2,
    "reason": "cannot run: no block",
}
FOUND = {"same_batches": True, "loss_error": 1e-7, "gradient_error": 1e-6, "buffer_error": 0.0, "run_error": 2e-7,
         "evaluation_equal": True, "resume_equal": True, "reason": ""}  # fmt: skip
PASSED = {**NOT_RUN, **FOUND, "name": "ddp", "passed": True}
FAILED = {**PASSED, "passed": False, "gradient_error": None, "reason": "gradient error nan of step 1 is above 1e-04"}
UNDECIDED = {**PASSED, "name": "fsdp", "passed": None, "reason": "undecided: gradient error 2.0e-02 …"}
IN_FP64 = {
    **PASSED, "gradient_error": 2e-2, "fp64": {"loss_error": 1e-16, "gradient_error": 1e-14, "buffer_error": 0.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "verdict", "is_passed"),
    [
        ([PASSED, NOT_RUN], "every layout that runs equals the serial run", True),
        ([PASSED, IN_FP64], "every layout that runs equals the serial run, in fp64 where fp32 cannot tell", True),
        ([PASSED, FAILED, UNDECIDED], "NOT every layout equals the serial run", False),
        ([PASSED, UNDECIDED], "undecided: fsdp", False),
        ([UNDECIDED], "undecided: fsdp", False),
        ([NOT_RUN], "nothing could be compared", False),
    ],
)
def test_the_verdict_is_of_all_rows(rows, verdict, is_passed):
    assert certificate.verdict({"layouts": rows}) == verdict
    assert certificate.is_passed(rows) is is_passed


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (PASSED, "  ✓  ddp: loss 1.0e-07, gradient 1.0e-06, run 2.0e-07"),
        (NOT_RUN, "  –  tensor: cannot run: no block"),
        ({**NOT_RUN, "passed": False, "reason": "failed: it broke"}, "  ✗  tensor: failed: it broke"),
        (FAILED, "  ✗  ddp: loss 1.0e-07, gradient not finite, run 2.0e-07; gradient error nan of step 1 is above 1e-04"),
        (UNDECIDED, "  ?  fsdp: loss 1.0e-07, gradient 1.0e-06, run 2.0e-07; undecided: gradient error 2.0e-02 …"),
        (IN_FP64, "  ✓  ddp: loss 1.0e-07, gradient 2.0e-02, run 2.0e-07; decided in fp64: loss 1.0e-16 (limit 1e-12), "
                  "gradient 1.0e-14 (limit 1e-11)"),
    ],
)  # fmt: skip
def test_a_row_in_the_console(row, line):
    assert certificate.line(row) == line


def test_the_limit_that_is_applied_is_told():
    floors = [{"loss_error": 0.0, "gradient_error": value, "buffer_error": 0.0} for value in (2.3e-2, 1e-7)]
    (line,) = certificate.blurred_words(floors, dtype="fp32")
    assert line == (
        "Rounding alone moves this network's gradient by up to 2.3e-02 in a step in fp32: a difference between 1e-04 and "
        "2e-01 is decided in fp64, to 1e-11"
    )
    assert certificate.blurred_words(floors[1:], dtype="fp32") == []
    assert "shows nothing" in certificate.blurred_words(floors, dtype="fp64")[0]


def test_the_page_and_the_document(tmp_path):
    floors = [{"loss_error": 0.0, "gradient_error": 2.3e-2, "buffer_error": 0.0}]
    document = {
        "model": "m", "ranks": 2, "command": "fanlight verify", "steps": 1, "precision": "fp32", "batch_size": 8,
        "microbatches": 2, "image_px": 16, "noise_floor": 1e-7, "step_floor": floors[0], "step_floors": floors,
        "seconds": 1.0, "fanlight": "0", "layouts": [IN_FP64, FAILED, UNDECIDED, NOT_RUN],
    }  # fmt: skip
    certificate.write(tmp_path, document)
    assert json.loads((tmp_path / "certificate.json").read_text()) == document
    page = (tmp_path / "certificate.md").read_text()
    assert page.startswith("# m on 2 ranks: NOT every layout equals the serial run\n")
    assert "| passed: decided in fp64: loss 1.0e-16 (limit 1e-12)" in page
    assert "| equal | 1.0e-07 | not finite | 0.0e+00 |" in page and "| FAILED: gradient error nan" in page
    assert "| UNDECIDED: undecided" in page and "| not run: cannot run: no block |" in page
    assert "is decided in fp64, to 1e-11." in page
