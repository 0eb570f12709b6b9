"""Real steps of a layout, with the input that a run has beside them."""

import threading

import pytest

from fanlight.errors import FanlightError
from fanlight.parallel import comm
from fanlight.plan import confirm
from fanlight.train import probe
from plan import jobs


def config(**values):
    return jobs.config(
        model__name="small-resnet", data__image_px=16, data__canvas_px=20, train__batch_size=16, **values
    )


@pytest.mark.parametrize(("layout", "ranks"), [("serial", 1), ("ddp", 2), ("model-parallel", 2)])
def test_steps_of_all_ranks_and_the_largest_process(pool, layout, ranks):
    found = confirm.on(pool(ranks), config(execution__layout=layout, execution__ranks=ranks), classes=3, steps=4)
    assert len(found.steps_s) == 4 and min(found.steps_s) > 0
    assert min(found.steps_s) <= found.step_s <= max(found.steps_s)
    assert found.peak_bytes > 1e7


def test_a_step_takes_as_long_as_its_slowest_rank_and_a_failure_is_told():
    class Answered:
        def __init__(self, *answers):
            self.answers = list(answers)

        def run(self, job, **_):
            return self.answers

    good = {"steps_s": [1.0, 5.0], "peak_bytes": 7, "error": ""}
    slow = {"steps_s": [4.0, 2.0], "peak_bytes": 9, "error": ""}
    assert confirm.on(Answered(good, slow), config(), classes=3, steps=2) == confirm.Steps((4.0, 5.0), 9)
    with pytest.raises(FanlightError, match="no memory"):
        confirm.on(Answered(good, {**slow, "error": "no memory"}), config(), classes=3, steps=2)


@pytest.mark.parametrize("rows", [0, 5])
def test_batches_are_made_ahead_and_threads_end(rows):
    before = threading.active_count()
    crops = confirm._Crops(config(), rows=rows)
    assert all(crops.wait() >= 0 for _ in range(6))
    crops.settle()
    crops.close()
    assert threading.active_count() <= before


def test_what_found_no_memory_holds_none_while_others_take_turns(monkeypatch):
    """Neither a model nor input threads."""
    before = threading.active_count()
    about = {"config": config(execution__layout="serial", execution__ranks=1).document(), "classes": 3, "steps": 1}
    monkeypatch.setattr(confirm, "_KEPT", {})
    assert not confirm.rank_turn(comm.alone("cpu"), **about)["error"]
    assert len(confirm._KEPT) == 1
    monkeypatch.setattr(probe.Bench, "measure", lambda *_, wait, **__: probe.Timed(error=f"none after {wait():.0f} s"))
    assert "none after" in confirm.rank_turn(comm.alone("cpu"), **about)["error"]
    assert not confirm._KEPT and threading.active_count() <= before
