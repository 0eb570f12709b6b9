"""A step of a captioner is the serial one in every layout: words are told beside the images, and arrive where they belong."""

import pytest

from fanlight.errors import ConfigError

JOB = "parallel.captioner_jobs:gradient_error"
LSTM, TRANSFORMER = "small-cnn+lstm32", "small-cnn+transformer128x2"
RTOL = 1e-11  # the contract's, of an fp64 gradient
LAYOUTS = {
    "ddp": {"dp_replicate": 2},
    "fsdp": {"dp_shard": 2},
    "pipeline": {"pp": 2, "schedule": "gpipe"},
    "1f1b": {"pp": 2, "schedule": "1f1b"},
    "interleaved": {"pp": 2, "schedule": "interleaved", "stages_per_rank": 2},
}


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        *((LSTM, layout) for layout in ("ddp", "pipeline", "1f1b")),
        *((TRANSFORMER, layout) for layout in ("ddp", "fsdp", "1f1b", "interleaved")),
        *(("small-grid+transformer128x2", layout) for layout in ("ddp", "1f1b")),  # which sees colours and edges apart
        ("small-cnn+plain-lstm32", "1f1b"),
        *(pytest.param(LSTM, layout, marks=pytest.mark.slow) for layout in ("fsdp", "interleaved")),
        pytest.param(TRANSFORMER, "pipeline", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_the_serial_one(pool, model, layout):
    found = pool(2).run(JOB, model=model, layout={"name": layout, **LAYOUTS[layout]})[0]
    assert found["gradient"] < RTOL and found["loss"] < 1e-12, found


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "1f1b"])
def test_blocks_that_forget(pool, layout):
    found = pool(2).run(JOB, model=TRANSFORMER, layout={"name": layout, **LAYOUTS[layout]}, forgets=True)[0]
    assert found["gradient"] < RTOL, found


def test_words_divided_by_heads(pool):
    """Self-attention and MLP of the decoder's blocks, four heads over two ranks; small-cnn's own blocks stay whole."""
    found = pool(2).run(JOB, model=TRANSFORMER, layout={"name": "tensor", "tp": 2})[0]
    assert found["gradient"] < RTOL and found["loss"] < 1e-12, found


def test_an_lstm_is_not_divided(pool):
    with pytest.raises(ConfigError, match=r"layout with tensor=2: Captioner has no block that can be divided"):
        pool(2).run(JOB, model=LSTM, layout={"name": "tensor", "tp": 2})
