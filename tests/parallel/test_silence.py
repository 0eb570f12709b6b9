"""Steps in which nothing is sent: nobody waits, numbers stay finite, and afterwards everything is as it was."""

import pytest

from parallel.test_layouts import values
from parallel.test_parity import folder  # noqa: F401  (a fixture)


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "tensor", "1f1b-2", "interleaved"])
def test_a_rank_steps_without_the_others(pool, folder, layout):  # noqa: F811
    given = values("micro-basic", "gpipe" if layout == "1f1b-2" else layout)
    if layout == "1f1b-2":
        given["execution.pipeline_schedule"] = "1f1b"
    for answer in pool(2).run("parallel.silence_jobs:alone_and_together", folder=folder, values=given):
        assert answer["finite"] and answer["differs"] and answer["again"] and answer["put_back"], answer
        assert answer["nothing_sent"] and answer["gradients"] > 3


def test_ranks_can_meet_inside_the_silence(pool, tmp_path):
    assert pool(2).run("parallel.silence_jobs:meet", place=str(tmp_path)) == [True, True]
